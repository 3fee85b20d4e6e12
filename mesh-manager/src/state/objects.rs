//! The objects of the cluster. A *spec* is the user's and never edited; the rest is observed or
//! allocated. Times are nanoseconds since the epoch.

use super::{Returns, RootRotation, ServiceMode, TaskState};
use crate::{command::NodeReport, traffic::Traffic};
use ipnetwork::{Ipv4Network, Ipv6Network};
use mesh_api::{Sensitive, engine, generic_resource::GenericResources};
use mesh_pki::{Role, UnlockKey};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// What every object carries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Raft index of the last change.
    pub version: u64,
    /// When it was made.
    pub created_at: i64,
    /// When it was last changed.
    pub updated_at: i64,
}

/// The cluster itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cluster {
    /// Id, as every certificate says.
    pub id: String,
    /// Version and times.
    pub meta: Meta,
    /// The user's choices.
    pub spec: engine::SwarmSpec,
    /// The root certificate, PEM.
    pub root_certificate_pem: String,
    /// The root key, PEM.
    pub root_key_pem: String,
    /// The certificate by which the root before it vouches for it, PEM, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_voucher_pem: Option<String>,
    /// The root that is to take its place, while nodes get certificates of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_rotation: Option<RootRotation>,
    /// Token that makes workers.
    pub worker_token: String,
    /// Token that makes managers.
    pub manager_token: String,
    /// What managers lock their keys with, while the spec has them do so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlock_key: Option<Sensitive>,
    /// Pools that networks are cut from, "address/length".
    pub default_addr_pool: Vec<String>,
    /// Prefix length of networks.
    pub subnet_size: u8,
    /// UDP port of VXLAN.
    pub data_path_port: u16,
}

impl Cluster {
    /// What managers lock their keys with; `None` while they do not.
    pub fn unlock_key(&self) -> Option<UnlockKey> {
        let key = self.unlock_key.as_ref()?;
        UnlockKey::from_bytes(key.reveal()).ok()
    }
}

/// Whether a node is heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    /// Never heard of.
    Unknown,
    /// Has a session.
    Ready,
    /// Fell silent.
    Down,
}

/// A node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Node {
    /// Id, as its certificate says.
    pub id: String,
    /// Version and times.
    pub meta: Meta,
    /// The user's choices.
    pub spec: engine::NodeSpec,
    /// What its certificate allows; it follows the spec once the group of managers has been changed.
    pub role: Role,
    /// When it was last asked to be a manager no more, nanoseconds since the epoch: its certificates from before then do not
    /// make it one.
    #[serde(default)]
    pub demoted_at: Option<i64>,
    /// What it says of itself.
    pub description: NodeReport,
    /// The WireGuard public key that it had before the one in its description, base64: nobody else gets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_key: Option<String>,
    /// Whether it is heard of.
    pub state: NodeState,
    /// Why it is in that state.
    pub message: String,
    /// When the state changed.
    pub state_since: i64,
    /// When it came back of late, see [`State::holds`](super::State::holds).
    #[serde(default, skip_serializing_if = "Returns::is_empty")]
    pub returns: Returns,
    /// Address of its manager, "address:port".
    pub manager_addr: Option<String>,
}

impl Node {
    /// The role that the user wants it to have.
    pub fn desired_role(&self) -> Role {
        match self.spec.role {
            Some(engine::NodeSpecRoleEnum::WORKER) => Role::Worker,
            Some(engine::NodeSpecRoleEnum::MANAGER) => Role::Manager,
            None | Some(engine::NodeSpecRoleEnum::EMPTY) => self.role,
        }
    }

    /// Availability, `active` if the spec is silent.
    pub fn availability(&self) -> engine::NodeSpecAvailabilityEnum {
        match self.spec.availability {
            None | Some(engine::NodeSpecAvailabilityEnum::EMPTY) => {
                engine::NodeSpecAvailabilityEnum::ACTIVE
            }
            Some(availability) => availability,
        }
    }

    /// Whether tasks may go on running here.
    pub fn keeps_tasks(&self) -> bool {
        self.state != NodeState::Down
            && self.availability() != engine::NodeSpecAvailabilityEnum::DRAIN
    }

    /// Whether new tasks may be put here, unless it comes and goes.
    pub fn takes_tasks(&self) -> bool {
        self.state == NodeState::Ready
            && self.availability() == engine::NodeSpecAvailabilityEnum::ACTIVE
    }
}

/// A published port with its number settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// The protocol.
    pub protocol: Protocol,
    /// Port on the nodes.
    pub published: u16,
    /// Port in the task.
    pub target: u16,
    /// On every node, or only where the task is.
    pub mode: PublishMode,
    /// The number was chosen by us.
    pub dynamic: bool,
}

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Where a published port answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PublishMode {
    /// On every node.
    Ingress,
    /// On the task's node.
    Host,
}

/// An address of a service or a task on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Id of the network.
    pub network_id: String,
    /// The address.
    pub address: Ipv4Addr,
    /// Further names on that network.
    pub aliases: Vec<String>,
}

/// State of a service's rolling update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateStatus {
    /// Docker's state.
    pub state: engine::ServiceUpdateStatusStateEnum,
    /// When it began.
    pub started_at: i64,
    /// When it ended.
    pub completed_at: Option<i64>,
    /// For people.
    pub message: String,
}

/// How often a job was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Number of the execution, from 0: each change of the service begins another one.
    pub iteration: u64,
    /// When it began.
    pub last_execution: i64,
}

/// A service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Service {
    /// Id.
    pub id: String,
    /// Version and times.
    pub meta: Meta,
    /// The user's choices.
    pub spec: engine::ServiceSpec,
    /// The spec before the last update.
    pub previous_spec: Option<Box<engine::ServiceSpec>>,
    /// Raft index of the last change that makes running tasks out of date.
    pub spec_version: u64,
    /// Published ports.
    pub ports: Vec<Port>,
    /// Virtual addresses, one per network (the ingress network too, where ports are published).
    pub vips: Vec<Address>,
    /// Networks of its tasks, by id, with the tasks' further names there.
    pub networks: Vec<(String, Vec<String>)>,
    /// Rolling update, if there was one.
    pub update: Option<UpdateStatus>,
    /// Of a job: its execution. Other services have none.
    #[serde(default)]
    pub job: Option<JobStatus>,
    /// Registry credentials, base64 JSON, or empty.
    pub registry_auth: String,
}

impl Service {
    /// The service's name.
    pub fn name(&self) -> &str {
        self.spec.name.as_deref().unwrap_or_default()
    }

    /// Where its tasks may run.
    pub(crate) fn placement(&self) -> Option<&engine::TaskSpecPlacement> {
        self.spec.task_template.as_ref()?.placement.as_ref()
    }

    /// Whether its name resolves to the tasks instead of a VIP.
    pub fn is_dnsrr(&self) -> bool {
        self.spec.endpoint_spec.as_ref().and_then(|e| e.mode)
            == Some(engine::EndpointSpecModeEnum::DNSRR)
    }

    /// Whether published ports are answered by the asked node's own tasks only.
    pub fn is_local_only(&self) -> bool {
        Traffic::of(self.spec.labels.as_ref()).is_ok_and(|traffic| traffic.local_only)
    }

    /// Whether replies to clients of published ports need not go back through the node that was asked.
    pub fn returns_directly(&self) -> bool {
        Traffic::of(self.spec.labels.as_ref()).is_ok_and(|traffic| traffic.direct_return)
    }

    /// Its mode.
    pub fn mode(&self) -> ServiceMode {
        ServiceMode::of(&self.spec)
    }

    /// Of a job: the number of its execution.
    pub fn iteration(&self) -> Option<u64> {
        self.job.map(|job| job.iteration)
    }

    /// Wanted number of tasks of a replicated service.
    pub fn replicas(&self) -> u64 {
        self.spec
            .mode
            .as_ref()
            .and_then(|m| m.replicated.as_ref())
            .and_then(|r| r.replicas)
            .map_or(1, |r| u64::try_from(r).unwrap_or(0))
    }

    /// Of a replicated job: how many tasks have to complete.
    pub fn completions(&self) -> u64 {
        let wanted = self.replicated_job().and_then(|job| job.total_completions);
        wanted.map_or_else(|| self.max_concurrent(), |n| u64::try_from(n).unwrap_or(0))
    }

    /// Of a replicated job: how many tasks may run at the same time.
    pub fn max_concurrent(&self) -> u64 {
        let wanted = self.replicated_job().and_then(|job| job.max_concurrent);
        wanted.map_or(1, |n| u64::try_from(n).unwrap_or(0))
    }

    fn replicated_job(&self) -> Option<&engine::ServiceSpecModeReplicatedJob> {
        self.spec.mode.as_ref()?.replicated_job.as_ref()
    }

    /// Whether it publishes a port on every node.
    pub fn has_ingress_ports(&self) -> bool {
        self.ports.iter().any(|p| p.mode == PublishMode::Ingress)
    }
}

/// What the node last said of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// The state.
    pub state: TaskState,
    /// When.
    pub timestamp: i64,
    /// What is going on.
    pub message: String,
    /// What went wrong, or empty.
    pub error: String,
    /// Id of the container, or empty.
    pub container_id: String,
    /// Process id on its node, 0 if none.
    pub pid: i32,
    /// Exit code of the process.
    pub exit_code: Option<i32>,
    /// Its health check has failed for good: it gets nothing new, and is ended.
    #[serde(default)]
    pub unhealthy: bool,
    /// It has a health check, which has succeeded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub healthy: bool,
}

/// A task: one run of one container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// Id.
    pub id: String,
    /// Version and times.
    pub meta: Meta,
    /// Id of its service.
    pub service_id: String,
    /// Name of its service when the task was made.
    pub service_name: String,
    /// Labels of its service when the task was made.
    pub service_labels: BTreeMap<String, String>,
    /// Slot of a replicated task from 1, 0 for a global one.
    pub slot: u64,
    /// The node, once it has one.
    pub node_id: Option<String>,
    /// The service's template at that time.
    pub spec: Arc<engine::TaskSpec>,
    /// The service's `spec_version` when it was made, or the last one by which it is as one would be made.
    pub spec_version: u64,
    /// Of a job: the execution that it belongs to.
    #[serde(default)]
    pub job_iteration: Option<u64>,
    /// It was made to take the place of a replica that ran, on another node.
    #[serde(default)]
    pub moved: bool,
    /// Copy of the service's host-mode ports.
    pub host_ports: Vec<Port>,
    /// What the managers want: *running* also of a job's task, which is shown as *complete*.
    pub desired: TaskState,
    /// What the node says.
    pub status: TaskStatus,
    /// When it began to run.
    pub running_since: Option<i64>,
    /// A waiting task starts at this time.
    pub start_after: Option<i64>,
    /// Raft index at which it was taken out of load balancing.
    pub drained_at: Option<u64>,
    /// When that was.
    pub drained_time: Option<i64>,
    /// The desired state to set once every node has heard of it. *Rejected*: shutdown, and its status becomes that.
    pub drain_to: Option<TaskState>,
    /// Its addresses. An ended task keeps the record but no longer owns them.
    pub attachments: Vec<Address>,
    /// What it was given of its node's generic resources; see [`Task::holds_resources`].
    #[serde(default, skip_serializing_if = "GenericResources::is_empty")]
    pub generic_resources: GenericResources,
    /// Registry credentials, base64 JSON, or empty.
    pub registry_auth: String,
}

impl Task {
    /// Whether the constraint enforcer took it from its node: no failure of its own.
    pub(crate) fn has_lost_its_node(&self) -> bool {
        self.drain_to == Some(TaskState::Rejected)
    }

    /// `<service>.<slot|node id>.<task id>`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.short_name(), self.id)
    }

    /// `<service>.<slot|node id>`.
    pub fn short_name(&self) -> String {
        match self.shown_slot() {
            0 => {
                let node = self.node_id.as_deref().unwrap_or_default();
                format!("{}.{node}", self.service_name)
            }
            slot => format!("{}.{slot}", self.service_name),
        }
    }

    /// Its slot as users see it: those of a replicated job count from 0, as Swarm's do and its clients expect. Where it is
    /// 0, the node is named in its place.
    pub fn shown_slot(&self) -> u64 {
        match self.job_iteration {
            Some(_) => self.slot.saturating_sub(1),
            None => self.slot,
        }
    }

    /// Whether it is a job's and has done its work.
    pub(crate) fn has_done_its_job(&self) -> bool {
        self.job_iteration.is_some() && self.status.state == TaskState::Complete
    }

    /// Whether the managers want it to run, now or later; or wanted it, until it completed.
    pub fn is_wanted(&self) -> bool {
        self.desired <= TaskState::Running && self.drained_at.is_none()
    }

    /// Whether it owns its addresses.
    pub fn owns_addresses(&self) -> bool {
        !self.status.state.is_terminal()
    }

    /// Whether it holds what it was given of its node's generic resources. Only its end, which its node reports, gives them
    /// back: until then its processes may use them, whatever the managers want of it.
    pub fn holds_resources(&self) -> bool {
        self.status.state >= TaskState::Assigned && !self.status.state.is_terminal()
    }

    /// Whether it owns an address on the network of this id.
    pub fn is_on(&self, network_id: &str) -> bool {
        self.owns_addresses() && self.attachments.iter().any(|a| a.network_id == network_id)
    }

    /// Whether new connections are given to it.
    pub fn is_active(&self) -> bool {
        self.is_endpoint() && self.is_wanted() && !self.status.unhealthy
    }

    /// Whether connections may reach it.
    pub fn is_endpoint(&self) -> bool {
        self.status.state == TaskState::Running
    }
}

/// The option of a network with its MTU.
pub const MTU_OPTION: &str = "com.docker.network.driver.mtu";
/// Least MTU of a network, bytes: IPv4's (RFC 791).
pub const MIN_MTU: u32 = 68;
/// Largest MTU of a network, bytes: the longest packet of IPv4.
pub const MAX_MTU: u32 = 65_535;

/// A network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Network {
    /// Id.
    pub id: String,
    /// Version and times.
    pub meta: Meta,
    /// The user's choices.
    pub spec: engine::NetworkCreateRequest,
    /// VXLAN network identifier.
    pub vni: u32,
    /// Addresses of the network.
    pub subnet: Ipv4Network,
    /// The gateway's address; never given to a task.
    pub gateway: Ipv4Addr,
    /// The part of the subnet that addresses are given from, if not all of it.
    #[serde(default)]
    pub range: Option<Ipv4Network>,
    /// Addresses that are never given to a task.
    #[serde(default)]
    pub reserved: BTreeSet<Ipv4Addr>,
    /// IPv6 addresses of the network, where it has them: see [`Network::v6`].
    #[serde(default)]
    pub subnet_v6: Option<Ipv6Network>,
    /// Published ports travel on this one.
    pub ingress: bool,
    /// Where the search for a free address goes on: offset from the subnet's first address.
    pub cursor: u32,
}

impl Network {
    /// The network's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Whether nodes encrypt what they send one another on it. As in Docker, the option counts, not its value; but for
    /// one that says no.
    pub fn is_encrypted(&self) -> bool {
        let option = self.spec.options.as_ref().and_then(|o| o.get("encrypted"));
        option.is_some_and(|value| value != "false")
    }

    /// The largest packet that the user wants tasks to send on it, bytes; what is none is left out, as logs from before may
    /// have anything.
    pub fn mtu(&self) -> Option<u32> {
        let options = self.spec.options.as_ref()?;
        let mtu = options.get(MTU_OPTION)?.parse().ok()?;
        (MIN_MTU..=MAX_MTU).contains(&mtu).then_some(mtu)
    }

    /// The IPv6 address of whatever has `address` on this network: the subnet's first one, with `address` in its last
    /// 32 bits. So one allocation serves both.
    pub fn v6(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        self.subnet_v6.map(|subnet| v6(subnet, address))
    }
}

/// The address of an IPv6 subnet with `address` in its last 32 bits.
pub(crate) fn v6(subnet: Ipv6Network, address: Ipv4Addr) -> Ipv6Addr {
    let first = u128::from(subnet.network());
    Ipv6Addr::from(first | u128::from(u32::from(address)))
}
