//! What the agent asks of WireGuard and is told, and how keys change.
//!
//! Keys are numbered, by epochs. A node makes a new key when its own is old enough, or when another's is of a later epoch: so
//! all of them go from one to the next together, and in any of them each node has one key. That is what the kernel's WireGuard
//! needs, whose devices have one key for each node; in user space any two keys make a pair. No node is followed that claims an
//! epoch far ahead of all others.

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
    Auto,
    /// The one in user space.
    #[default]
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
    /// Whose the kernel's devices are: an agent's name, without spaces.
    pub owner: String,
    /// The helper's socket.
    pub socket: PathBuf,
    /// The node's tunnel end point.
    pub address: Ipv4Addr,
    /// UDP port, host byte order. The kernel's needs the next one too.
    pub port: u16,
    /// Of the first key: see [`first_epoch`].
    pub epoch: u64,
    /// All other nodes' tunnel end points.
    pub others: Vec<Ipv4Addr>,
    /// What has the port after `port` already, in words, if anything does.
    pub next_port_use: Option<String>,
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
    /// The epoch of the key to make now, if it is time for a new one: that of the nodes that are ahead, or the next. `told` are
    /// the other nodes' epochs; one node alone is followed by one epoch at most.
    pub fn next_epoch(&self, period: Duration, told: &[u64]) -> Option<u64> {
        let known = [told, &[self.epoch]].concat();
        match agreed_epoch(&known).filter(|agreed| *agreed > self.epoch) {
            Some(ahead) if ahead - self.epoch == 1 && self.waits(period, told) => None,
            Some(ahead) => Some(ahead),
            None if self.is_rotation_due(period) => self.epoch.checked_add(1),
            None => None,
        }
    }

    /// Whether this node is more than one epoch ahead of all others, so that none of them follows it or has a key in common.
    pub fn is_astray(&self, told: &[u64]) -> bool {
        let latest = told.iter().max();
        latest.is_some_and(|latest| self.epoch.saturating_sub(*latest) > 1)
    }

    /// Whether there is still time to follow others that are one epoch ahead, who have this epoch's key too. The key before may
    /// be a node's that is down; and if this one is the first, there may be others of its epoch who wait.
    fn waits(&self, period: Duration, told: &[u64]) -> bool {
        let period = period.as_secs().max(1);
        match self.rotating {
            true => self.key_age_s < period.saturating_mul(2),
            false => self.key_age_s < period && told.contains(&self.epoch),
        }
    }

    /// Whether it is time for a new key. One change waits for the other; but a node that never learns of it (it is down)
    /// holds it up for no longer than until the next is due, if any other has.
    fn is_rotation_due(&self, period: Duration) -> bool {
        let period = period.as_secs().max(1);
        self.key_age_s >= period
            && (!self.rotating
                || (self.key_age_s >= period.saturating_mul(2)
                    && self.peers.iter().any(|peer| peer.proved)))
    }
}

/// The latest of these epochs, each a node's; but not one node's alone that is more than one ahead of all others.
fn agreed_epoch(told: &[u64]) -> Option<u64> {
    let mut told = told.to_vec();
    told.sort_unstable();
    match told.as_slice() {
        [.., second, latest] if latest - second > 1 => Some(*second),
        told => told.last().copied(),
    }
}

/// The epoch of a node's first key, the others' epochs being `told`. While they change, it is the one before: those that have
/// changed have both keys, and those that wait have no other.
pub fn first_epoch(told: &[u64]) -> u64 {
    let agreed = agreed_epoch(told).unwrap_or(0);
    let before = agreed.saturating_sub(1);
    if told.contains(&before) {
        before
    } else {
        agreed
    }
}

/// Why there is no new key of that epoch.
pub(crate) fn not_later(epoch: u64, present: u64) -> String {
    format!("a new key of epoch {epoch} was asked for, and the present one is of epoch {present}")
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

    fn status(key_age_s: u64, rotating: bool, peers: &[PeerStatus]) -> Status {
        Status {
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
        }
    }

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
    }

    #[test]
    fn who_is_ahead_is_followed_in_time() {
        let next = |key_age_s, rotating, told: &[u64]| {
            let status = status(key_age_s, rotating, &[]);
            status.next_epoch(Duration::from_secs(100), told)
        };
        // Nobody is.
        assert_eq!(next(99, false, &[]), None);
        assert_eq!(next(100, false, &[]), Some(6));
        assert_eq!(next(99, false, &[4, 5]), None);
        // By one, and the key before is not needed any more.
        assert_eq!(next(0, false, &[6]), Some(6));
        assert_eq!(next(0, false, &[4, 6]), Some(6));
        // It is: a node that is down keeps its way for two periods.
        for age in [0, 100, 199] {
            assert_eq!(next(age, true, &[6, 6, 4]), None, "{age}");
        }
        assert_eq!(next(200, true, &[6, 6, 4]), Some(6));
        // This node is new here, and others wait.
        assert_eq!(next(99, false, &[6, 5]), None);
        assert_eq!(next(100, false, &[6, 5]), Some(6));
        // By more: they have no key in common with this node.
        assert_eq!(next(0, true, &[9, 9, 5]), Some(9));
        assert_eq!(next(0, true, &[9, 8]), Some(9));
    }

    #[test]
    fn one_node_alone_does_not_drive_the_others() {
        let next = |told: &[u64]| {
            let status = status(0, false, &[]);
            status.next_epoch(Duration::from_secs(100), told)
        };
        assert_eq!(next(&[u64::MAX]), None);
        assert_eq!(next(&[7, 5, 5]), None);
        assert_eq!(next(&[u64::MAX, 6]), Some(6));
        let last = Status {
            epoch: u64::MAX,
            ..status(1000, false, &[])
        };
        assert_eq!(last.next_epoch(Duration::from_secs(100), &[]), None);
        assert!(last.is_astray(&[5, 4]));
        let status = status(0, false, &[]);
        let cases: [(&[u64], bool); 4] = [
            (&[], false),
            (&[3, 3], true),
            (&[3, 4], false),
            (&[9], false),
        ];
        for (told, is_astray) in cases {
            assert_eq!(status.is_astray(told), is_astray, "{told:?}");
        }
    }

    #[test]
    fn a_first_key_is_one_that_all_can_use() {
        let cases: [(&[u64], u64); 7] = [
            (&[], 0),
            (&[0, 0], 0),
            (&[7], 7),
            (&[7, 7], 7),
            (&[7, 8, 8], 7),
            (&[5, 8, 8], 8),
            (&[7, 7, u64::MAX], 7),
        ];
        for (told, epoch) in cases {
            assert_eq!(first_epoch(told), epoch, "{told:?}");
        }
    }
}
