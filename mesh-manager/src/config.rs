//! How a manager is told where it lives and how fast it reacts.

use crate::{Machine, Unlock};
use ipnetwork::IpNetwork;
use mesh_api::engine;
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Where a manager lives.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of the replicated log, made with mode 0700.
    pub data_dir: PathBuf,
    /// Directory of the node's identity (see [`mesh_pki::NodeIdentity::save`]).
    pub identity_dir: PathBuf,
    /// Address to serve nodes and managers on, usually `0.0.0.0:2377`.
    pub listen: SocketAddr,
    /// Address that other nodes reach this manager at.
    pub advertise: SocketAddr,
    /// The Engine API, as this manager answers other managers while it leads. It is asked by HTTP/2 on `listen`.
    pub engine_api: axum::Router,
    /// Reaction times and amounts.
    pub timings: Timings,
    /// What it runs on.
    pub machine: Machine,
    /// What its key file is locked with. Whoever starts it again in this process gives the same one.
    pub unlock: Unlock,
}

/// Reaction times and amounts. The defaults suit a LAN.
#[derive(Debug, Clone)]
pub struct Timings {
    /// Period of the Raft leader's heartbeats.
    pub raft_heartbeat: Duration,
    /// Longest wait for a manager to have log entries on disk; they are sent again after that. A follower looks whether it
    /// should stand for election every 1.5 times this long.
    pub raft_append: Duration,
    /// A leader is given up after 2.3 to 2.7 times this long without a sign of life. A candidate waits as long as this for
    /// votes.
    pub raft_election: Duration,
    /// State changes are gathered this long, longer with thousands of nodes, before they are sent to nodes in one revision.
    pub dispatch_delay: Duration,
    /// Longest wait for the nodes to acknowledge that a task takes no new connections: one that does not may still send
    /// requests to it, be its agent busy, just started again or on its way to a new leader. A node that stands still, in one
    /// session or several, is waited for once: after this time nobody waits for it until it follows again. One whose power is
    /// gone is down before that, unless heartbeats are far apart.
    pub drain_limit: Duration,
    /// Time between that acknowledgement and the task's stop signal, for requests on their way.
    pub drain_settle: Duration,
    /// Tasks of a node that has been down this long are given up.
    pub orphan_after: Duration,
    /// Changes of the orchestrator that are proposed in one entry of the log, unless more have to happen together.
    pub entry_changes: usize,
    /// The log is compacted into a snapshot after this many entries.
    pub snapshot_entries: u64,
    /// Entries kept after that for followers that are a little behind.
    pub kept_entries: u64,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            raft_heartbeat: Duration::from_millis(200),
            raft_append: Duration::from_millis(500),
            raft_election: Duration::from_millis(600),
            dispatch_delay: Duration::from_millis(20),
            drain_limit: Duration::from_secs(30),
            drain_settle: Duration::from_millis(200),
            orphan_after: Duration::from_secs(24 * 3600),
            entry_changes: 2000,
            snapshot_entries: 5000,
            kept_entries: 1000,
        }
    }
}

/// Heartbeats that may be missed before a node is down.
pub const MISSED_HEARTBEATS: u32 = 3;
/// Default period of the nodes' heartbeats: with [`MISSED_HEARTBEATS`] a node is down 4.5 s after
/// its last sign of life.
pub const DEFAULT_HEARTBEAT: Duration = Duration::from_millis(1500);
/// Shortest period of the nodes' heartbeats: agents send none more often.
pub const MIN_HEARTBEAT: Duration = Duration::from_millis(100);
/// Default prefix length of networks: 4,093 addresses for tasks and VIPs.
pub const DEFAULT_SUBNET_SIZE: u8 = 20;
/// Default UDP port of VXLAN.
pub const DEFAULT_DATA_PATH_PORT: u16 = 4789;
/// The port that managers serve on.
pub const DEFAULT_PORT: u16 = 2377;

/// The choices of `swarm init`.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The cluster's spec; absent fields get defaults.
    pub spec: engine::SwarmSpec,
    /// Pools that networks are cut from.
    pub default_addr_pool: Vec<IpNetwork>,
    /// Prefix length of those networks.
    pub subnet_size: u8,
    /// UDP port of VXLAN.
    pub data_path_port: u16,
    /// Availability of the first node.
    pub availability: engine::NodeSpecAvailabilityEnum,
    /// Host name of the first node, until its session says more.
    pub hostname: String,
}

/// The choices of a restore.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Opens a backup that is locked.
    pub unlock_key: Option<mesh_pki::UnlockKey>,
    /// Availability of this node.
    pub availability: engine::NodeSpecAvailabilityEnum,
    /// Its host name, until its session says more.
    pub hostname: String,
    /// Its tunnel end point: it must not be inside a network of the backup.
    pub data_path_address: String,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self {
            spec: engine::SwarmSpec::default(),
            default_addr_pool: vec![default_pool()],
            subnet_size: DEFAULT_SUBNET_SIZE,
            data_path_port: DEFAULT_DATA_PATH_PORT,
            availability: engine::NodeSpecAvailabilityEnum::ACTIVE,
            hostname: String::new(),
        }
    }
}

/// 10.0.0.0/8.
pub fn default_pool() -> IpNetwork {
    IpNetwork::V4(
        ipnetwork::Ipv4Network::new(std::net::Ipv4Addr::new(10, 0, 0, 0), 8)
            .expect("8 is a valid prefix length"),
    )
}
