//! What the mesh has and Docker has no word for: the nouns under `/mesh/`.

use serde::{Deserialize, Serialize};

use crate::engine::{EndpointPortConfig, NodeState};

/// A service's virtual address on one network, and what is behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Vip {
    /// Id of the service.
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    /// Name of the service.
    pub service_name: String,
    /// Id of the network.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// Name of the network.
    pub network_name: String,
    /// VXLAN network identifier; 0 when the answering node does not know it.
    #[serde(default)]
    pub vni: u32,
    /// The address, without a prefix length.
    pub address: String,
    /// Ports published on every node; only on the ingress network.
    #[serde(default)]
    pub ports: Vec<EndpointPortConfig>,
    /// The tasks behind the address.
    #[serde(default)]
    pub backends: Vec<VipBackend>,
    /// What goes to them together, as far as it was asked for; in a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    /// Host names of nodes that did not say what goes to the tasks: the loads lack their part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent_nodes: Vec<String>,
    /// How replies to clients of the ports are to go back; only on the ingress network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#return: Option<ReturnMode>,
    /// How they do, from each node with a task and for each address of another node that clients ask; with
    /// [`ReturnMode::Dsr`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub return_paths: Vec<ReturnPath>,
}

/// How replies to clients of published ports go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReturnMode {
    /// Through the node that was asked.
    Symmetric,
    /// Straight from the task's node to the client (direct server return).
    Dsr,
}

/// How replies of one node's tasks go back to clients that asked one address of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ReturnPath {
    /// Host name of the node with the task.
    pub node_name: String,
    /// Host name of the node that was asked.
    pub asked_node_name: String,
    /// The address that was asked.
    pub address: String,
    /// How they go.
    pub mode: ReturnMode,
    /// Why, for people.
    pub reason: String,
}

/// A task behind a virtual address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VipBackend {
    /// Id of the task.
    #[serde(rename = "TaskID")]
    pub task_id: String,
    /// `<service>.<slot>`
    pub task_name: String,
    /// Id of the node it runs on.
    #[serde(rename = "NodeID")]
    pub node_id: String,
    /// Host name of that node.
    pub node_name: String,
    /// The task's address on the network.
    pub address: String,
    /// Whether it takes new flows.
    pub state: BackendState,
    /// What goes to it, as far as it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
}

/// What goes to a task behind a virtual address, or to all of them, all nodes together.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Load {
    /// Flows that are open now.
    pub open_flows: u64,
    /// Flows begun since the task came.
    pub flows: u64,
    /// Their packets from clients. Those of sockets that were connected to the task in the place of a virtual address
    /// are not counted.
    pub packets: u64,
    /// The bytes of these packets, with Ethernet headers.
    pub bytes: u64,
    /// How fast these numbers grow, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<Rates>,
}

/// What is added to a [`Load`] by the second: each node reads its counters twice, of tasks that are there both times.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Rates {
    /// New flows.
    pub flows_per_second: f64,
    /// Packets from clients.
    pub packets_per_second: f64,
    /// Their bits, with Ethernet headers.
    pub bits_per_second: f64,
}

/// Whether a backend takes new flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// Takes new flows.
    Active,
    /// Takes no new flow; open flows go on.
    Draining,
}

/// What several nodes answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct OfNodes<T> {
    /// All nodes' together, node by node.
    pub items: Vec<T>,
    /// Host names of nodes that did not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent_nodes: Vec<String>,
    /// How many there are besides, which an answer had no room for.
    #[serde(default)]
    pub left_out: u64,
}

/// A flow to a task of the node that answers, or from one of its tasks to a virtual address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Flow {
    /// Host name of the node that answers; empty where it is the one that was asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// Name of the service; empty when it is gone.
    pub service: String,
    /// `tcp`, `udp`, or the protocol's number.
    pub protocol: String,
    /// The client, `address:port`.
    pub client: String,
    /// What the client asked, `address:port`: a node's published port or a virtual address.
    pub front: String,
    /// The task that answers, `address:port`.
    pub backend: String,
    /// Address of the node that was asked; empty when it is the one that answers.
    #[serde(default)]
    pub through: String,
    /// Seconds since the client last sent a packet. Flows to virtual addresses: where the packet path translates them,
    /// seconds since the flow began; where the client's socket was led to the task, since it last sent over TCP, and
    /// nothing for UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<u32>,
    /// The client has closed the connection.
    pub closed: bool,
    /// It is over: closed, or idle for so long that it is not counted as open.
    #[serde(default)]
    pub ended: bool,
}

/// Packets that one program of the node dropped for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Drop {
    /// Host name of the node; empty where it is the one that was asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// Stable name of the reason.
    pub reason: String,
    /// Stable name of the program.
    pub place: String,
    /// Packets since the programs were first loaded.
    pub packets: u64,
    /// Their bytes, with Ethernet headers.
    pub bytes: u64,
}

/// What one check of the cluster found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// Host name of the node that it is about; empty if it is about none.
    pub node: String,
    /// What kind of check: `node`, `clock`, `kernel`, `uplink`, `path`, `return`, `port`.
    pub check: String,
    /// What was checked: an interface, another node, a port.
    pub subject: String,
    /// What was found, for people.
    pub found: String,
    /// What to do about it; empty if nothing.
    #[serde(default)]
    pub remedy: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but not as well as it could, or could not be told.
    Warning,
    /// Does not work.
    Fault,
}

impl Level {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// A line of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", tag = "Kind")]
pub enum TraceLine {
    /// Packets are followed from now on.
    Begun {
        /// Host names of nodes that do not tell of theirs.
        #[serde(rename = "Silent")]
        silent: Vec<String>,
    },
    /// What became of a packet.
    Packet(Box<TracedPacket>),
    /// Something that cannot be told.
    Trouble {
        /// For people.
        #[serde(rename = "Message")]
        message: String,
    },
}

/// What one program of a node made of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TracedPacket {
    /// Nanoseconds since the epoch, by the manager's clock.
    pub time: i64,
    /// Host name of the node.
    pub node: String,
    /// Stable name of the program.
    pub program: String,
    /// Interface that the packet came in by.
    pub interface: String,
    /// `tcp`, `udp`, or the protocol's number.
    pub protocol: String,
    /// Flags of TCP, as tcpdump writes them.
    pub flags: String,
    /// `address:port` as the packet was after the verdict, inside the tunnel.
    pub source: String,
    /// `address:port`, likewise.
    pub destination: String,
    /// Stable name of the verdict, or of the reason for which the packet was dropped.
    pub verdict: String,
    /// The packet was dropped.
    pub dropped: bool,
    /// Host name of the other node, if the packet is in a tunnel.
    pub tunnel: String,
    /// The task at one of its ends, `<service>.<slot>`.
    pub task: String,
    /// Bytes, with Ethernet and tunnel headers.
    pub bytes: u32,
}

/// Who has not applied a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Applied {
    /// The index that was asked for: an object's `Version.Index`.
    pub index: u64,
    /// Every node that is up has applied the state of that index, or a later one.
    pub is_applied: bool,
    /// The nodes that have not, also those that are not up.
    pub behind: Vec<BehindNode>,
}

/// A node that has not applied a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BehindNode {
    /// Id of the node.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its host name.
    pub hostname: String,
    /// `ready`; or `down`, or `unknown` if it was never heard of: then it applies the change when it comes.
    pub state: NodeState,
}
