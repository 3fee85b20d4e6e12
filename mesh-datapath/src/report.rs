//! What the data plane tells about itself: what an apply changed, and counters.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

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

/// What one node knows of the load of a backend: all of its service's ports, or its addresses, on one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendLoad {
    /// Id of its service, as in [`Desired::services`](crate::Desired::services).
    pub service: Arc<str>,
    /// VXLAN network identifier.
    pub vni: u32,
    /// The task's address on that network.
    pub address: IpAddr,
    /// Open flows in the table: those of published ports if the task is on this node, and those that tasks of this
    /// node have by a virtual address without [`Sockets`](crate::Sockets).
    pub open: u64,
    /// Flows that this node has sent to the task.
    pub flows: u64,
    /// Packets of them; none where the socket went to the task by itself.
    pub packets: u64,
    /// Their bytes, with Ethernet headers.
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

/// An open flow from a client to a task of this node, or from one to a task it reached by a virtual address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// Name of the service; `None` if it is not there any more.
    pub service: Option<String>,
    /// `Some` for a virtual address: its VNI.
    pub vni: Option<u32>,
    /// IP protocol number.
    pub protocol: u8,
    /// The client.
    pub client: SocketAddr,
    /// What the client asked: a node's published port, or a virtual address.
    pub front: SocketAddr,
    /// The task that answers.
    pub backend: SocketAddr,
    /// The node that was asked, by its tunnel end point; `None` if it was this one.
    pub asked: Option<IpAddr>,
    /// Seconds since the client last sent a packet. Not kept up for virtual addresses: since the flow began.
    pub idle_s: u32,
    /// The client has closed the connection.
    pub closed: bool,
    /// It is over: closed, or idle for so long that it does not count as open.
    pub ended: bool,
}

/// How full a table is, and what has happened to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fill {
    /// Stable name.
    pub table: &'static str,
    /// Entries in use.
    pub entries: u32,
    /// Entries there is room for.
    pub capacity: u32,
    /// Entries that have been made.
    pub inserted: u64,
    /// Entries that made room for others. The flow of one goes on: its next packet from the client makes it anew. A connection
    /// that began after a change of its service's backends may meet another one.
    pub evicted: u64,
    /// Entries that the kernel refused to make. The packet of a client goes on without, by the row; one that a task
    /// would have to answer is dropped, as its answer would not be known.
    pub refused: u64,
}

/// How full the tables are that an apply fills, and what has found no room in them. A front is a published port or a virtual
/// address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Room {
    /// Bytes of Maglev rows in use.
    pub rows_bytes: u64,
    /// Bytes there is memory for; given back only with the whole table.
    pub rows_allocated_bytes: u64,
    /// Bytes there may be.
    pub rows_capacity_bytes: u64,
    /// Fronts whose row is shorter than it should be: their flows are spread less evenly, and nodes may differ about them.
    pub short_rows: usize,
    /// Fronts that go by the row that they had before, if any.
    pub missing_rows: usize,
    /// Fronts that do as well, as the kernel did not take the one that they should have. They are tried again at each apply.
    pub refused_rows: usize,
    /// Entries of backends in use.
    pub backends: u32,
    /// Entries there are.
    pub backends_capacity: u32,
    /// Backends without an entry: they get no flows.
    pub backends_left_out: usize,
    /// The tables of a fixed size that are full.
    pub full: Vec<FullTable>,
}

/// A table that has no room for all there is. What was there first stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FullTable {
    /// Stable name.
    pub table: &'static str,
    /// Entries that there is no room for.
    pub left_out: usize,
}

/// An uplink, and what runs on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Interface index.
    pub ifindex: u32,
    /// Whether it has native XDP, and why not.
    pub mode: UplinkMode,
}

/// What forwards published ports on an uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UplinkMode {
    /// Native XDP.
    Xdp,
    /// tc, as configured.
    Off,
    /// tc, as the link is of this kind, which native XDP would slow down.
    Virtual(String),
    /// tc, as XDP was refused: why.
    Refused(String),
}
