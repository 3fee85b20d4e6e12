//! WireGuard between the nodes, in user space: what encrypted networks leave a node by.
//!
//! `boringtun` has the protocol; here is what a mesh needs around it. `key` a node's keys · `mesh` which key pairs there
//! are with which node and which of them packets are sent with · `pair` one of them · `tun` the device · `control` what
//! the agent asks of the process that does it, and how that is started · `helper` that process · `cipher` its work.
//!
//! The process outlives the agent, so that an agent that is killed or replaced cuts no flow. It alone knows the private
//! keys, and keeps them in memory only.

mod cipher;
mod control;
mod helper;
mod key;
mod mesh;
mod pair;
mod tun;

pub use control::{Error, Handle, PROTOCOL, Peer, PeerStatus, Request, Setup, Status};
pub use helper::helper_main;
pub use key::PublicKey;

/// What the device is called. It is in the node's own network namespace, so that several nodes do not meet.
pub const DEVICE: &str = "mesh-wg";

/// Bytes that a packet grows by: IPv4 and UDP headers, WireGuard's header and its authentication tag.
pub const OVERHEAD: u32 = 20 + 8 + 16 + 16;

/// UDP port, unless said otherwise; the one that everybody uses.
pub const DEFAULT_PORT: u16 = 51820;
