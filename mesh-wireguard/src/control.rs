//! What the agent asks of WireGuard and is told.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Version of what is said here. A helper that speaks another one is replaced.
pub const PROTOCOL: u32 = 2;

/// Why it is not the kernel's where that is not asked for.
pub(crate) const USER_WANTED: &str = "--wireguard is user";

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
    /// Of the first key: see [`first_epoch`](crate::rotation::first_epoch).
    pub epoch: u64,
    /// All other nodes' tunnel end points.
    pub others: Vec<Ipv4Addr>,
    /// UDP ports that are another's though no socket need have them, and whose, in words. WireGuard neither begins at one of
    /// them nor moves there.
    pub used: BTreeMap<u16, String>,
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
    /// The public key before, base64, if it had that too when it made this one; empty if it had not, or does not say.
    #[serde(default)]
    pub former_key: String,
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
    /// The public key before, base64, if it is still there; empty if not.
    #[serde(default)]
    pub former_key: String,
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
    /// The UDP port that it has, or with the kernel's the lower one of both; host byte order.
    pub fn first_port(&self) -> u16 {
        self.port.min(self.next_port)
    }

    /// Why it is not the kernel's WireGuard, in words, where `wanted` is asked for by now; none if it is the kernel's.
    pub fn why_user_space(&self, wanted: Backend) -> Option<&str> {
        let why = self.user_space.as_deref()?;
        Some(match wanted {
            Backend::User => USER_WANTED,
            Backend::Auto if why == USER_WANTED => {
                "it was started with --wireguard user, and goes on until the node starts anew"
            }
            Backend::Auto => why,
        })
    }
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its tunnel end point.
    pub address: Ipv4Addr,
    /// Its public key, base64.
    pub key: String,
    /// The one before, if it may be needed and is not on a device of its own; empty if not.
    #[serde(default)]
    pub former_key: String,
    /// It has answered with that key, to our present one.
    pub proved: bool,
    /// Interface index of the device that it is sent to by.
    pub ifindex: u32,
    /// Seconds since the last handshake, where there is a session. The kernel's is no older than the process that asks.
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
    /// Its port is another's: whose, in words.
    #[error("{0}: publish another one, or start the agent with another --wireguard-port")]
    Used(String),
    /// It could not do it.
    #[error("{0}")]
    Refused(String),
}
