//! WireGuard between the nodes, the kernel's or in user space: what encrypted networks leave a node by.
//!
//! `control` what the agent asks for and is told, of either · `backend` which of them it is · `key` a node's keys ·
//! `rotation` when they change.
//!
//! The kernel's: `kernel` its devices, a key each · `plan` what they are to be · `netlink` how that is said · `ages` how long
//! ago there was a handshake.
//!
//! In user space: `boringtun` has the protocol; here is what a mesh needs around it. `mesh` which key pairs there
//! are with which node and which of them packets are sent with · `pair` one of them · `tun` the device · `helper` the
//! process that does it, how it is asked and started · `serve` that process itself · `cipher` its work.
//!
//! Devices and process outlive the agent, so that an agent that is killed or replaced cuts no flow. They alone know the
//! private keys, and keep them in memory only.

mod ages;
mod backend;
mod cipher;
mod control;
mod helper;
mod kernel;
mod key;
mod mesh;
mod netlink;
mod pair;
mod plan;
mod rotation;
mod serve;
mod tun;

pub use backend::Handle;
pub use control::{Backend, Error, NoBackend, PROTOCOL, Peer, PeerStatus, Request, Setup, Status};
pub use helper::Helper;
pub use kernel::{Kernel, is_device, other_sources};
pub use key::PublicKey;
pub use rotation::{Pace, first_epoch};
pub use serve::helper_main;

/// What the user-space device is called. It is in the node's own network namespace, so that several nodes do not meet.
pub const DEVICE: &str = "mesh-wg";

/// Bytes that a packet grows by: IPv4 and UDP headers, WireGuard's header and its authentication tag.
pub const OVERHEAD: u32 = 20 + 8 + 16 + 16;

/// UDP port, unless said otherwise; the one that everybody uses.
pub const DEFAULT_PORT: u16 = 51820;
