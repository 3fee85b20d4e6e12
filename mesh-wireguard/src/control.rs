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

use crate::plan::SESSION;

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
    /// the other nodes' epochs, by tunnel end point; one node alone is followed by one epoch at most. Nor is this one ever more
    /// than one ahead of all others by itself.
    pub fn next_epoch(&self, period: Duration, told: &BTreeMap<Ipv4Addr, u64>) -> Option<u64> {
        let known = told.values().copied().chain([self.epoch]);
        let is_ahead = told.values().max().is_some_and(|max| self.epoch > *max);
        match agreed_epoch(known).filter(|agreed| *agreed > self.epoch) {
            Some(ahead) if ahead - self.epoch == 1 && self.waits(period, ahead, told) => None,
            Some(ahead) => Some(ahead),
            None if !is_ahead && self.is_rotation_due(period) => self.epoch.checked_add(1),
            None => None,
        }
    }

    /// Whether this node is more than one epoch ahead of all others, so that none of them follows it, and nothing goes to any:
    /// in user space it may have sessions with them nevertheless.
    pub fn is_astray(&self, told: &BTreeMap<Ipv4Addr, u64>) -> bool {
        let latest = told.values().max();
        latest.is_some_and(|latest| self.epoch.saturating_sub(*latest) > 1)
            && !self.peers.iter().any(PeerStatus::has_session)
    }

    /// Whether there is still time to follow others to the epoch `ahead`, the next one: this node's key before may be a node's
    /// that is down, and they have this epoch's key too. Who came anew meanwhile has not: it shows by having no session here.
    /// One node alone that is ahead did not come anew, as that takes an epoch that another has.
    fn waits(&self, period: Duration, ahead: u64, told: &BTreeMap<Ipv4Addr, u64>) -> bool {
        let period = period.as_secs().max(1);
        let ahead = told.iter().filter(|(_, epoch)| **epoch == ahead);
        let ahead: Vec<&Ipv4Addr> = ahead.map(|(address, _)| address).collect();
        let came_anew = ahead.len() > 1 && !ahead.iter().all(|address| self.meets(address));
        self.rotating && self.key_age_s < period.saturating_mul(2) && !came_anew
    }

    /// Whether packets go to that node, or would.
    fn meets(&self, address: &Ipv4Addr) -> bool {
        let mut peers = self.peers.iter().filter(|peer| peer.address == *address);
        // In user space its newest key has been tried at once. The kernel has tried none of another epoch.
        let is_tried = |peer: &PeerStatus| self.user_space.is_some() && peer.proved;
        peers.any(|peer| is_tried(peer) || peer.has_session())
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
fn agreed_epoch(told: impl IntoIterator<Item = u64>) -> Option<u64> {
    let mut told: Vec<u64> = told.into_iter().collect();
    told.sort_unstable();
    match told.as_slice() {
        [.., second, latest] if latest - second > 1 => Some(*second),
        told => told.last().copied(),
    }
}

/// The epoch of a node's first key, the others' epochs being `told`. While they change, it is the one that they change to: each
/// tells its newest key alone, so that nothing is known here of the one before.
pub fn first_epoch(told: &BTreeMap<Ipv4Addr, u64>) -> u64 {
    agreed_epoch(told.values().copied()).unwrap_or(0)
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

impl PeerStatus {
    /// Whether there is a session that packets may go by.
    fn has_session(&self) -> bool {
        self.handshake_s
            .is_some_and(|since| since < SESSION.as_secs())
    }
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

    fn node(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, last)
    }

    fn peer(last: u8, handshake_s: Option<u64>) -> PeerStatus {
        PeerStatus {
            address: node(last),
            key: String::new(),
            proved: true,
            ifindex: 1,
            handshake_s,
            sent: 0,
            received: 0,
        }
    }

    /// Those of nodes 1, 2 and so on.
    fn told(epochs: &[u64]) -> BTreeMap<Ipv4Addr, u64> {
        (1..).map(node).zip(epochs.iter().copied()).collect()
    }

    #[test]
    fn one_change_of_keys_waits_for_the_other() {
        let peer = peer(1, None);
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
        let met = [1, 2, 3].map(|last| peer(last, Some(179)));
        let next = |key_age_s, rotating, epochs: &[u64]| {
            let status = status(key_age_s, rotating, &met);
            status.next_epoch(Duration::from_secs(100), &told(epochs))
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
        // Others wait, and the key that they have stays.
        assert_eq!(next(0, false, &[6, 5]), Some(6));
        // By more: they have no key in common with this node.
        assert_eq!(next(0, true, &[9, 9, 5]), Some(9));
        assert_eq!(next(0, true, &[9, 8]), Some(9));
    }

    #[test]
    fn who_came_anew_is_not_waited_for() {
        let next = |user_space: bool, peers: &[PeerStatus], epochs: &[u64]| {
            let status = Status {
                user_space: user_space.then(String::new),
                ..status(0, true, peers)
            };
            status.next_epoch(Duration::from_secs(100), &told(epochs))
        };
        let (met, idle) = (peer(1, Some(179)), peer(2, Some(180)));
        // A node that is not known here, and one whose session was with the key that it had.
        assert_eq!(next(false, std::slice::from_ref(&met), &[6, 6]), Some(6));
        assert_eq!(next(false, &[met.clone(), idle.clone()], &[6, 6]), Some(6));
        // In user space that is a node with which nothing is said.
        assert_eq!(next(true, &[met, idle.clone()], &[6, 6]), None);
        // One alone is where it is by itself.
        assert_eq!(next(false, &[idle], &[5, 6, 4]), None);
    }

    #[test]
    fn nobody_is_two_epochs_ahead_by_itself() {
        let next = |epochs: &[u64]| {
            let status = status(1000, false, &[]);
            status.next_epoch(Duration::from_secs(100), &told(epochs))
        };
        assert_eq!(next(&[5, 4]), Some(6));
        assert_eq!(next(&[4, 4]), None);
    }

    #[test]
    fn one_node_alone_does_not_drive_the_others() {
        let next = |epochs: &[u64]| {
            let status = status(0, false, &[]);
            status.next_epoch(Duration::from_secs(100), &told(epochs))
        };
        assert_eq!(next(&[u64::MAX]), None);
        assert_eq!(next(&[7, 5, 5]), None);
        assert_eq!(next(&[u64::MAX, 6]), Some(6));
        let last = Status {
            epoch: u64::MAX,
            ..status(1000, false, &[])
        };
        let period = Duration::from_secs(100);
        assert_eq!(last.next_epoch(period, &told(&[])), None);
        assert!(last.is_astray(&told(&[5, 4])));
        // What it sends arrives, or would not.
        let (met, idle) = (peer(1, Some(179)), peer(2, Some(180)));
        assert!(!status(0, false, &[met, idle.clone()]).is_astray(&told(&[3, 3])));
        let status = status(0, false, &[idle]);
        let cases: [(&[u64], bool); 4] = [
            (&[], false),
            (&[3, 3], true),
            (&[3, 4], false),
            (&[9], false),
        ];
        for (epochs, is_astray) in cases {
            assert_eq!(status.is_astray(&told(epochs)), is_astray, "{epochs:?}");
        }
    }

    #[test]
    fn a_first_key_is_one_that_all_can_use() {
        let cases: [(&[u64], u64); 7] = [
            (&[], 0),
            (&[0, 0], 0),
            (&[7], 7),
            (&[7, 7], 7),
            (&[7, 8, 8], 8),
            (&[5, 8, 8], 8),
            (&[7, 7, u64::MAX], 7),
        ];
        for (epochs, epoch) in cases {
            assert_eq!(first_epoch(&told(epochs)), epoch, "{epochs:?}");
        }
    }
}
