//! What can be asked of the managers. Every change of state is one of these, whoever asks.

use crate::{
    ManagerError,
    state::{RootChange, Service, TaskState, TaskStatus},
};
use mesh_api::{Sensitive, engine, generic_resource::GenericResources, handout};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A request that changes the cluster's state. Objects are named by id, name or unique id prefix.
#[expect(
    clippy::large_enum_variant,
    reason = "commands are few and short-lived; boxing the swarm's spec would only complicate callers"
)]
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Command {
    /// `POST /services/create`.
    CreateService {
        /// The spec, stored verbatim.
        spec: Box<engine::ServiceSpec>,
        /// `X-Registry-Auth`, base64 JSON, or empty.
        registry_auth: String,
    },
    /// `POST /services/{id}/update`.
    UpdateService {
        /// Which service.
        id: String,
        /// The version that the caller saw.
        version: u64,
        /// The new spec; ignored when rolling back.
        spec: Box<engine::ServiceSpec>,
        /// `X-Registry-Auth`; `None` keeps the stored one.
        registry_auth: Option<String>,
        /// `rollback=previous`: go back to the spec before the last update.
        rollback: bool,
    },
    /// `DELETE /services/{id}`.
    RemoveService {
        /// Which service.
        id: String,
    },
    /// `POST /networks/create`.
    CreateNetwork {
        /// The request, stored verbatim.
        request: Box<engine::NetworkCreateRequest>,
    },
    /// `DELETE /networks/{id}`.
    RemoveNetwork {
        /// Which network.
        id: String,
    },
    /// `POST /secrets/create`, `POST /configs/create`.
    CreateHandout {
        /// Secret or config.
        kind: handout::Kind,
        /// Its name.
        name: String,
        /// The user's labels.
        labels: BTreeMap<String, String>,
        /// What it holds.
        data: Sensitive,
        /// It is a Go template, to be filled in for each task.
        #[serde(default)]
        is_template: bool,
    },
    /// `POST /secrets/{id}/update`, `POST /configs/{id}/update`.
    UpdateHandout {
        /// Secret or config.
        kind: handout::Kind,
        /// Which one.
        id: String,
        /// The version that the caller saw.
        version: u64,
        /// Its name, which has to be what it was.
        name: String,
        /// The new labels.
        labels: BTreeMap<String, String>,
        /// What it holds; if given, it has to be what it was.
        data: Option<Sensitive>,
    },
    /// `DELETE /secrets/{id}`, `DELETE /configs/{id}`.
    RemoveHandout {
        /// Secret or config.
        kind: handout::Kind,
        /// Which one.
        id: String,
    },
    /// `POST /nodes/{id}/update`.
    UpdateNode {
        /// Which node.
        id: String,
        /// The version that the caller saw.
        version: u64,
        /// The new spec.
        spec: engine::NodeSpec,
    },
    /// `DELETE /nodes/{id}`.
    RemoveNode {
        /// Which node.
        id: String,
        /// Also a node that is up.
        force: bool,
    },
    /// `POST /swarm/update`.
    UpdateSwarm {
        /// The version that the caller saw.
        version: u64,
        /// The new spec.
        spec: engine::SwarmSpec,
        /// Make a new worker token.
        rotate_worker_token: bool,
        /// Make a new manager token.
        rotate_manager_token: bool,
        /// Lock managers with another key than now, if they are locked.
        #[serde(default)]
        rotate_unlock_key: bool,
        /// That key, of 32 bytes, drawn by whoever asks. It is also taken where managers are to be locked and were not.
        #[serde(default)]
        unlock_key: Option<Sensitive>,
        /// What becomes of the root CA; see [`ManagerHandle::root_change`](crate::ManagerHandle::root_change).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        root: Option<Box<RootChange>>,
    },
}

/// What a successful [`Command`] answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// An object was made.
    Created {
        /// Its id.
        id: String,
        /// Things the user should know.
        warnings: Vec<String>,
    },
    /// An object was changed.
    Updated {
        /// Its new version.
        version: u64,
    },
    /// An object was removed.
    Removed,
    /// Internal changes were made.
    Done,
}

/// The outcome of one proposal.
pub type Outcome = Result<Response, ManagerError>;

/// The rules by which managers of this version apply what they propose. 0: health checks and jobs are refused. 1: health
/// checks are taken. 2: so are jobs. 3: so is autolock. 4: an update of the cluster that does not say how often its root was
/// to be rotated leaves that as it was. 5: a node is not given another one's WireGuard key. 6: a
/// network's addresses are of its range. 7: the rules in force are part of the state, see [`Operation::GoBy`]. 8: a node
/// that joins again by the same key is the same node. 9: a network's addresses are not those that it is to keep free. 10: it is
/// kept in mind when nodes came back. 11: nodes have generic resources, which tasks are given when they are assigned. 12:
/// tasks that are as a new spec asks for are not out of date.
pub const RULES: u32 = 12;
/// The rules from which on nodes have generic resources.
pub const GENERIC_RESOURCES: u32 = 11;
/// The rules of managers that do not tell theirs: the last before managers told them. What the log and snapshots look like has
/// changed with the next ones, so that such a manager reads nothing of these.
pub const UNTOLD: u32 = 6;

/// A change together with all that is not a function of the state: apply has no clock and rolls
/// no dice.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Proposal {
    /// When it was proposed, nanoseconds since the epoch.
    pub time: i64,
    /// Where new ids and secrets come from.
    pub seed: [u8; 16],
    /// By which rules it is applied, see [`RULES`]: what was refused stays refused when the log is read again.
    #[serde(default)]
    pub rules: u32,
    /// The change.
    pub operation: Operation,
}

/// Every change of state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Operation {
    /// The first entry of a cluster.
    Bootstrap(Box<Bootstrap>),
    /// Asked by a user.
    Command(Command),
    /// A node got its certificate.
    AddNode(AddNode),
    /// A manager is at this address from now on.
    ManagerAt {
        /// Its node.
        node_id: String,
        /// "address:port".
        address: String,
    },
    /// The group of managers agrees with the role that a node is to have.
    SetRole {
        /// Which node.
        node_id: String,
        /// Its role from now on.
        role: mesh_pki::Role,
    },
    /// A node opened a session.
    NodeUp {
        /// Which node.
        node_id: String,
        /// What it says of itself.
        description: NodeReport,
    },
    /// A node fell silent.
    NodeDown {
        /// Which node.
        node_id: String,
        /// Why.
        message: String,
    },
    /// Every node has a certificate of the root that is to be, which becomes the root.
    EndRootRotation {
        /// Digest of that root.
        digest: String,
    },
    /// Nodes report on their tasks: (task id, status).
    TaskStatuses(Vec<(String, TaskStatus)>),
    /// Changes of the leader's reconcilers.
    Reconcile(Vec<Change>),
    /// These rules are in force from now on, which every manager has told to know. They are never taken back.
    GoBy {
        /// See [`RULES`].
        rules: u32,
    },
}

/// The choices that a cluster begins with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bootstrap {
    /// The cluster's id, as the first certificate says.
    pub cluster_id: String,
    /// The root certificate, PEM.
    pub root_certificate_pem: String,
    /// The root key, PEM.
    pub root_key_pem: String,
    /// The worker token.
    pub worker_token: String,
    /// The manager token.
    pub manager_token: String,
    /// What managers are locked with, if the spec has it so; 32 bytes.
    #[serde(default)]
    pub unlock_key: Option<Sensitive>,
    /// The cluster's spec.
    pub spec: engine::SwarmSpec,
    /// Pools that networks are cut from, "address/length".
    pub default_addr_pool: Vec<String>,
    /// Prefix length of networks.
    pub subnet_size: u8,
    /// UDP port of VXLAN.
    pub data_path_port: u16,
    /// The first node.
    pub node: AddNode,
}

/// A node that owns a certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AddNode {
    /// The node's id.
    pub id: String,
    /// Its role.
    pub role: mesh_pki::Role,
    /// Its availability.
    pub availability: engine::NodeSpecAvailabilityEnum,
    /// Its host name, if known already.
    pub hostname: String,
    /// Address of its manager, "address:port", where it is one.
    pub manager_addr: Option<String>,
    /// Its tunnel end point, if known already.
    #[serde(default)]
    pub data_path_address: String,
    /// Of one that joins: digest of its key, as in [`NodeReport::key`]. By this it is known if it asks again, because the answer
    /// was lost.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
}

/// What a node says of itself; see `NodeDescription` in `mesh.proto`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Host name.
    pub hostname: String,
    /// Control address.
    pub address: String,
    /// VXLAN tunnel end point.
    pub data_path_address: String,
    /// As `x86_64`.
    pub architecture: String,
    /// As `linux`.
    pub os: String,
    /// Version of the agent.
    pub engine_version: String,
    /// Processor time per second, in nanoseconds.
    pub nano_cpus: i64,
    /// Memory in bytes.
    pub memory_bytes: i64,
    /// Labels of the engine.
    pub engine_labels: BTreeMap<String, String>,
    /// What it has of the kinds that only its users know.
    #[serde(default, skip_serializing_if = "GenericResources::is_empty")]
    pub generic_resources: GenericResources,
    /// Its end of WireGuard, once it takes part in encrypted networks.
    #[serde(default)]
    pub cipher: Option<Cipher>,
    /// Largest packet that its uplink takes; zero: not known.
    #[serde(default)]
    pub mtu: u32,
    /// Its agent knows encrypted networks; older ones would take them for plain.
    #[serde(default)]
    pub encrypts: bool,
    /// Its agent hands secrets and configs to tasks; older ones would start them without.
    #[serde(default)]
    pub hands_out: bool,
    /// Its agent fills in secrets and configs that are templates; older ones would hand them out as they are.
    #[serde(default)]
    pub fills_in: bool,
    /// Digest of the root that it trusts; empty if its agent does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trusted_root: String,
    /// Digest of the root whose key has signed the certificate that it shows, which its manager has seen; empty if that is
    /// none in use.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// Digest of the key of that certificate, see [`PeerIdentity::key_digest`](mesh_pki::PeerIdentity::key_digest); empty if
    /// its manager did not note it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
}

/// A node's end of WireGuard.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cipher {
    /// Public key, base64.
    pub key: String,
    /// UDP port, host byte order.
    pub port: u16,
    /// Which change of keys it is of; none: its agent knows none.
    #[serde(default)]
    pub epoch: Option<u64>,
    /// UDP port of its next key, host byte order; zero: the same.
    #[serde(default)]
    pub next_port: u16,
    /// The public key before, base64, if it still had that when it made this one; empty: it had none, or its agent does not
    /// say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub former_key: String,
}

/// A task that is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTask {
    /// Of which service, by id.
    pub service_id: String,
    /// Slot of a replicated task from 1, 0 for a global one.
    pub slot: u64,
    /// The only node that may run it: a global task's, or the one that a replica moves to.
    pub node_id: Option<String>,
    /// `Running`, or `Ready` for one that waits.
    pub desired: TaskState,
    /// When a waiting task may start, nanoseconds since the epoch.
    pub start_after: Option<i64>,
    /// Of a job: the execution that it was planned for. In another one it is not made.
    #[serde(default)]
    pub job_iteration: Option<u64>,
}

impl NewTask {
    /// One that is to run at once, on any node.
    pub(crate) fn of(service: &Service, slot: u64) -> Self {
        Self {
            service_id: service.id.clone(),
            slot,
            node_id: None,
            desired: TaskState::Running,
            start_after: None,
            job_iteration: service.iteration(),
        }
    }
}

/// One change that a reconciler asks for. Apply skips those that the state has overtaken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Make a task of a service.
    CreateTask(NewTask),
    /// Put a pending task on a node.
    Assign {
        /// Which task.
        task_id: String,
        /// Which node.
        node_id: String,
    },
    /// Say why a pending task is pending.
    Explain {
        /// Which task.
        task_id: String,
        /// The reason.
        error: String,
    },
    /// Take a task out of load balancing, its connections stay.
    Drain {
        /// Which task.
        task_id: String,
        /// The desired state to set once the nodes know.
        then: TaskState,
    },
    /// Raise a task's desired state.
    Desire {
        /// Which task.
        task_id: String,
        /// The new desired state.
        desired: TaskState,
    },
    /// Let a task that waits start.
    Start {
        /// Which task.
        task_id: String,
    },
    /// Set the status of a task whose node cannot.
    SetStatus {
        /// Which task.
        task_id: String,
        /// The new state, a terminal one.
        state: TaskState,
        /// Why.
        error: String,
    },
    /// Forget a task.
    DeleteTask {
        /// Which task.
        task_id: String,
    },
    /// Set the state of a rolling update.
    UpdateStatus {
        /// Which service, by id.
        service_id: String,
        /// The version of the spec that this is about; another one is skipped.
        spec_version: u64,
        /// The new state.
        state: engine::ServiceUpdateStatusStateEnum,
        /// The text that `service inspect` shows.
        message: String,
    },
    /// Put the previous spec of a service back because its update failed.
    Rollback {
        /// Which service, by id.
        service_id: String,
        /// The version of the spec that failed.
        spec_version: u64,
        /// The text that `service inspect` shows.
        message: String,
    },
}
