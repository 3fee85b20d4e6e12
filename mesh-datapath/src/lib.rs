//! User space side of the data plane: loads, pins and attaches the eBPF programs and keeps their maps.
//!
//! [`Datapath::open`] loads the programs or adopts what an earlier process pinned;
//! [`Datapath::apply`] brings the kernel to a [`Desired`] state and touches only what differs;
//! [`Datapath::snapshot`] reads counters back. Nothing in here decides *what* the state should be.

mod config;
mod datapath;
mod error;
mod model;
mod report;

pub use config::{Config, DEFAULT_VXLAN_PORT, XdpMode};
pub use datapath::Datapath;
pub use error::Error;
pub use model::{Backend, Desired, Endpoint, Link, Location, Mac, PublishedPort, Service, mac_of};
pub use report::{BackendCounters, CounterLine, Report, ServiceCounters, Snapshot};
