//! What the data plane tells about itself: what an apply changed, and counters.

use std::net::IpAddr;

use serde::Serialize;

/// What one [`apply`](crate::Datapath::apply) changed. All zero: the kernel was already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// Programs attached to interfaces.
    pub attached: usize,
    /// Attachments removed.
    pub detached: usize,
    /// Map entries written.
    pub written: usize,
    /// Map entries removed.
    pub removed: usize,
    /// Those of them that were tasks' addresses.
    pub departed: usize,
}

impl Report {
    /// Whether nothing had to be done.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// All counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Snapshot {
    /// One line per published port and per virtual address.
    pub services: Vec<ServiceCounters>,
    /// Packets by program and verdict.
    pub verdicts: Vec<CounterLine>,
    /// Packets dropped, by program and reason.
    pub drops: Vec<CounterLine>,
}

/// A published port or a virtual address, with what went to each backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceCounters {
    /// Service id, as in [`Desired::services`](crate::Desired::services).
    pub service: String,
    /// Service name.
    pub name: String,
    /// `Some` for a virtual address: its VNI.
    pub vni: Option<u32>,
    /// The virtual address; `None` for a published port.
    pub address: Option<IpAddr>,
    /// IP protocol number of a published port.
    pub protocol: Option<u8>,
    /// Published port, host byte order.
    pub published: Option<u16>,
    /// Target port, host byte order.
    pub target: Option<u16>,
    /// Backends in order of address.
    pub backends: Vec<BackendCounters>,
}

/// What this node sent to one backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackendCounters {
    /// Address on the ingress network or on the virtual address's network.
    pub address: IpAddr,
    /// Takes no new flow.
    pub draining: bool,
    /// The task is on this node.
    pub local: bool,
    /// Flows begun.
    pub flows: u64,
    /// Packets from clients.
    pub packets: u64,
    /// Bytes from clients, with Ethernet headers.
    pub bytes: u64,
}

/// A named counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CounterLine {
    /// Stable name: the same word in metrics and on the command line.
    pub name: &'static str,
    /// Stable name of the program that counted.
    pub place: &'static str,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}
