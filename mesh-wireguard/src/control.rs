//! What the agent asks of WireGuard and is told, and how keys change.
//!
//! Keys are numbered, by epochs. A node makes a new key when its own is old enough, or when another's is of a later epoch: so
//! all of them go from one to the next together, and in any of them each node has one key. That is what the kernel's WireGuard
//! needs, whose devices have one key for each node; in user space any two keys make a pair.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// Version of what is said here. A helper that speaks another one is replaced.
pub const PROTOCOL: u32 = 2;
/// Which WireGuard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// The kernel's, if it has one.
    #[default]
    Auto,
    /// The one in user space.
    User,
}

/// A word that names no WireGuard.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not auto or user")]
pub struct NoBackend(String);

impl FromStr for Backend {
    type Err = NoBackend;

    fn from_str(text: &str) -> Result<Self, NoBackend> {
        match text {
            "auto" => Ok(Self::Auto),
            "user" => Ok(Self::User),
            other => Err(NoBackend(other.to_owned())),
        }
    }
}

/// How WireGuard is to be. What runs already and is not in the way is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Where it makes no difference yet: which.
    pub backend: Backend,
    /// The helper's socket.
    pub socket: PathBuf,
    /// The node's tunnel end point.
    pub address: Ipv4Addr,
    /// UDP port, host byte order. The kernel's needs the next one too.
    pub port: u16,
    /// Of the first key.
    pub epoch: u64,
    /// The other nodes' tunnel end points, as far as they are known.
    pub others: Vec<Ipv4Addr>,
}

/// What the agent asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Only the status.
    Status,
    /// Bring the devices up, and drop keys that no node needs any more.
    Set {
        /// Bytes of the largest packet.
        mtu: u32,
        /// The other nodes, by tunnel end point.
        peers: BTreeMap<Ipv4Addr, Peer>,
    },
    /// Make a new key, and keep the one before until no node needs it.
    Rotate {
        /// Of the new one; later than that of the present one.
        epoch: u64,
    },
}

/// Another node's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its present public key, base64.
    pub key: String,
    /// Its UDP port, host byte order.
    pub port: u16,
    /// Its key's; none if its agent knows no epochs.
    pub epoch: Option<u64>,
}

/// What the helper answers: how things are afterwards, or why not.
pub(crate) type Reply = Result<Status, String>;

/// How things are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`PROTOCOL`] of the helper.
    pub protocol: u32,
    /// As in [`Setup`].
    pub address: IpAddr,
    /// UDP port of the present key, host byte order.
    pub port: u16,
    /// UDP port of the next key, host byte order.
    pub next_port: u16,
    /// Interface index of the device with the present key.
    pub ifindex: u32,
    /// Interface index of the device with the key before, if it is still there and another one.
    pub former: Option<u32>,
    /// The present key's.
    pub epoch: u64,
    /// The node's present public key, base64.
    pub key: String,
    /// Its age in seconds.
    pub key_age_s: u64,
    /// The key before is still there.
    pub rotating: bool,
    /// Datagrams and packets that were no node's, or not from the address they should be.
    pub refused: u64,
    /// Why it is not the kernel's WireGuard; none if it is.
    pub user_space: Option<String>,
    /// The other nodes.
    pub peers: Vec<PeerStatus>,
}

impl Status {
    /// The epoch of the key to make now, if it is time for a new one: that of the nodes that are ahead, as `told`, or the next.
    pub fn next_epoch(&self, period: Duration, told: impl Iterator<Item = u64>) -> Option<u64> {
        let ahead = told.max().filter(|epoch| *epoch > self.epoch);
        ahead.or_else(|| {
            self.is_rotation_due(period)
                .then(|| self.epoch.saturating_add(1))
        })
    }

    /// Whether it is time for a new key. One change waits for the other; but a node that never learns of it (it is down)
    /// holds it up for no longer than until the next is due, if any other has.
    fn is_rotation_due(&self, period: Duration) -> bool {
        let period = period.as_secs().max(1);
        self.key_age_s >= period
            && (!self.rotating
                || (self.key_age_s >= 2 * period && self.peers.iter().any(|peer| peer.proved)))
    }
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its tunnel end point.
    pub address: Ipv4Addr,
    /// Its public key, base64.
    pub key: String,
    /// It has answered with that key, to our present one.
    pub proved: bool,
    /// Interface index of the device that it is sent to by.
    pub ifindex: u32,
    /// Seconds since the last handshake, where there is a session.
    pub handshake_s: Option<u64>,
    /// Bytes of packets encrypted for it.
    pub sent: u64,
    /// Bytes of packets that it had encrypted.
    pub received: u64,
}

/// Why WireGuard did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process could not be started.
    #[error("start the process that encrypts: {0}")]
    Start(#[source] io::Error),
    /// It does not answer.
    #[error("ask the process that encrypts, at {path}: {source}")]
    Ask {
        /// Its socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It does not end.
    #[error("end the process that encrypts, at {path}: {source}")]
    End {
        /// Its socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The kernel did not do it.
    #[error("{action}: {source}")]
    Kernel {
        /// What it was to do.
        action: String,
        /// The cause.
        source: io::Error,
    },
    /// It could not do it.
    #[error("{0}")]
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_change_of_keys_waits_for_the_other() {
        let peer = PeerStatus {
            address: Ipv4Addr::LOCALHOST,
            key: String::new(),
            proved: true,
            ifindex: 1,
            handshake_s: None,
            sent: 0,
            received: 0,
        };
        let status = |key_age_s, rotating, peers: &[PeerStatus]| Status {
            protocol: PROTOCOL,
            address: Ipv4Addr::LOCALHOST.into(),
            port: 1,
            next_port: 1,
            ifindex: 1,
            former: None,
            epoch: 5,
            user_space: None,
            key: String::new(),
            key_age_s,
            rotating,
            refused: 0,
            peers: peers.to_vec(),
        };
        let due = |status: Status| status.is_rotation_due(Duration::from_secs(100));
        assert!(!due(status(99, false, &[])));
        assert!(due(status(100, false, &[])));
        assert!(!due(status(100, true, std::slice::from_ref(&peer))));
        assert!(due(status(200, true, std::slice::from_ref(&peer))));
        // Nobody has heard of the last one: there is no manager to tell it.
        let deaf = PeerStatus {
            proved: false,
            ..peer
        };
        assert!(!due(status(1000, true, std::slice::from_ref(&deaf))));

        // Others are ahead, or not.
        let next = |status: Status, told: &[u64]| {
            status.next_epoch(Duration::from_secs(100), told.iter().copied())
        };
        assert_eq!(next(status(99, false, &[]), &[]), None);
        assert_eq!(next(status(100, false, &[]), &[]), Some(6));
        assert_eq!(next(status(99, false, &[]), &[4, 5]), None);
        assert_eq!(next(status(99, true, &[deaf]), &[9, 5]), Some(9));
    }
}
