//! User space side of the data plane: loads, pins and attaches the eBPF programs and keeps their maps.
//!
//! [`Datapath::open`] loads the programs or adopts what an earlier process pinned;
//! [`Datapath::apply`] brings the kernel to a [`Desired`] state and touches only what differs;
//! [`Datapath::snapshot`] reads counters back, [`Datapath::flows`] the open flows. [`probe()`] tries the tunnels. Nothing in here decides *what* the state should be.

mod attach;
mod backends;
pub mod bench;
mod clsact;
mod compile;
mod config;
mod datagram;
mod datapath;
mod direct;
mod error;
mod fill;
mod flows;
mod hooks;
mod host;
mod left_out;
mod lines;
mod maglev;
mod model;
mod moved;
mod netlink;
mod object;
mod packet_socket;
mod paths;
mod pins;
mod ports;
mod probe;
mod report;
mod rows;
mod run_times;
mod shortages;
mod snapshot;
mod sockets;
mod space;
mod table;
mod tables;
mod trace;
mod trial;
mod tunnel_socket;
mod twins;
mod upgrade;
mod verifier;

pub use config::{Config, DEFAULT_VXLAN_PORT, TcOrder, XdpMode};
pub use datapath::{Datapath, TUNNEL_DEVICE};
pub use direct::{ReturnPath, ReturnState, Returns, ReturnsConfig};
pub use error::Error;
pub use host::{boot_nanoseconds, interface_or_index};
pub use model::{
    Backend, Desired, Endpoint, FormerCipher, Link, Location, Mac, PublishedPort, Service, Subnet,
    mac_of,
};
pub use paths::NarrowPath;
pub use probe::{PathState, Probes, probe};
pub use report::{
    BackendCounters, BackendLoad, CounterLine, Fill, Flow, FullTable, Report, Room,
    ServiceCounters, Snapshot, Uplink, UplinkMode,
};
pub use run_times::RunTime;
pub use sockets::{OpenSocket, Sockets, namespace_cookie};
pub use trace::{Trace, TraceFilter, TracedPacket};
pub use trial::{EMPTY_TC, EMPTY_XDP, Trial};
pub use verifier::{VERIFIER_LIMIT, VerifierCost};
