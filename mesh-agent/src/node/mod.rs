//! The handle that the API server, the session and the reconciler share: one per process.

mod error;
mod state;
mod tasks;

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use anyhow::Context;
use mesh_api::engine::{SwarmInitRequest, SwarmJoinRequest};
use mesh_datapath::{Datapath, ReturnPath};
use mesh_image::ImageStore;
use mesh_manager::{ManagerHandle, Unlock};
use mesh_runtime::Runtime;
use tokio::sync::watch;

pub use error::NodeError;
pub use state::{ClusterInfo, NodeState, Role};
pub use tasks::LocalTask;

use crate::{assignment::Assignment, cluster, config::Config, health, volumes::Volumes};

/// The packet path, once it is open; the reconciler writes it, others read its counters.
pub type SharedDatapath = Arc<Mutex<Option<Datapath>>>;

/// What keeps a member from its work.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// Its certificate has expired: since when, and why it has no other one yet.
    pub(crate) certificate: Option<String>,
    /// Why it is not yet the manager, or worker, that it is to be.
    pub(crate) role: Option<String>,
    /// Why it has no session.
    pub(crate) session: Option<String>,
}

/// A node; cheap to clone.
#[derive(Clone)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) instance: String,
    pub(crate) hostname: String,
    pub(crate) runtime: Runtime,
    pub(crate) images: ImageStore,
    pub(crate) volumes: Volumes,
    pub(crate) datapath: SharedDatapath,
    pub(crate) state: watch::Sender<NodeState>,
    pub(crate) tasks: watch::Sender<Arc<Vec<LocalTask>>>,
    pub(crate) health: health::Table,
    /// What is known of direct return: see `returns`.
    pub(crate) returns: RwLock<Arc<Vec<ReturnPath>>>,
    pub(crate) assignment: RwLock<Option<watch::Receiver<Arc<Assignment>>>>,
    pub(crate) manager: RwLock<Option<ManagerHandle>>,
    trouble: RwLock<Trouble>,
    /// What its keys are locked with.
    pub(crate) unlock: Unlock,
    /// The running membership; locked while it begins or ends, so that only one change goes on.
    pub(crate) membership: tokio::sync::Mutex<Option<cluster::Membership>>,
}

/// Memory of the machine, bytes.
pub(crate) fn memory() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|rest| rest.split_whitespace().next()?.parse::<i64>().ok());
    kibibytes.map_or(0, |kibibytes| kibibytes * 1024)
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("instance", &self.inner.instance)
            .field("state", &*self.inner.state.borrow())
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Puts a node together; a membership found on disk is pending until [`Node::resume`].
    pub fn new(
        config: Config,
        instance: String,
        hostname: String,
        runtime: Runtime,
        images: ImageStore,
        volumes: Volumes,
    ) -> Self {
        let state = if cluster::was_member(&config) {
            NodeState::Pending(None)
        } else {
            NodeState::Inactive
        };
        Self {
            inner: Arc::new(Inner {
                config,
                instance,
                hostname,
                runtime,
                images,
                volumes,
                datapath: SharedDatapath::default(),
                state: watch::channel(state).0,
                tasks: watch::channel(Arc::default()).0,
                health: health::Table::default(),
                returns: RwLock::default(),
                assignment: RwLock::default(),
                manager: RwLock::default(),
                trouble: RwLock::default(),
                unlock: Unlock::default(),
                membership: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// What the flags say.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Name of this agent's kernel objects.
    pub fn instance(&self) -> &str {
        &self.inner.instance
    }

    /// Host name the node reports.
    pub fn hostname(&self) -> &str {
        &self.inner.hostname
    }

    /// The containers of this node; tasks' containers are named by their task id.
    pub fn runtime(&self) -> &Runtime {
        &self.inner.runtime
    }

    /// The images of this node.
    pub fn images(&self) -> &ImageStore {
        &self.inner.images
    }

    /// The volumes of this node.
    pub fn volumes(&self) -> &Volumes {
        &self.inner.volumes
    }

    /// Membership as of now.
    pub fn state(&self) -> NodeState {
        self.inner.state.borrow().clone()
    }

    /// Notes what keeps the node from its work, or that it does not any more.
    pub(crate) fn note(&self, note: impl FnOnce(&mut Trouble)) {
        let trouble = self.inner.trouble.write();
        note(&mut trouble.unwrap_or_else(PoisonError::into_inner));
    }

    /// What keeps the node from its work, as far as is known.
    pub(crate) fn trouble(&self) -> Trouble {
        let trouble = self.inner.trouble.read();
        trouble.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The manager in this process, on a manager.
    pub fn manager(&self) -> Option<ManagerHandle> {
        self.inner
            .manager
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Changes it; gives the one that was there.
    pub(crate) fn host(&self, manager: Option<ManagerHandle>) -> Option<ManagerHandle> {
        let mut hosted = self
            .inner
            .manager
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *hosted, manager)
    }

    /// What the managers want of this node, as last heard.
    pub fn assignment(&self) -> Arc<Assignment> {
        self.inner
            .assignment
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(|receiver| Arc::clone(&receiver.borrow()))
            .unwrap_or_default()
    }

    /// Reads something of the packet path; `None` while it is not open. Reads maps entry by entry: not for an
    /// asynchronous thread.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn read_datapath<T>(
        &self,
        read: impl FnOnce(&Datapath) -> Result<T, mesh_datapath::Error>,
    ) -> Result<Option<T>, NodeError> {
        self.inner
            .datapath
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(read)
            .transpose()
            .context("read the packet path's maps")
            .map_err(NodeError::from)
    }

    /// How WireGuard is; `None` where there is none, or it does not answer. Blocks.
    pub fn encryption(&self) -> Option<mesh_wireguard::Status> {
        let socket = self.inner.config.wireguard_socket();
        let wireguard = mesh_wireguard::Handle::find(&socket, &self.inner.instance)?;
        let status = wireguard.ask(&mesh_wireguard::Request::Status);
        status
            .inspect_err(|error| tracing::warn!(%error, "WireGuard does not answer"))
            .ok()
    }

    /// Turns a switch of the packet path that is no part of its desired state; `None` while it is not open.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub(crate) fn switch_datapath<T>(
        &self,
        turn: impl FnOnce(&mut Datapath) -> Result<T, mesh_datapath::Error>,
    ) -> Result<Option<T>, NodeError> {
        self.inner
            .datapath
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
            .map(turn)
            .transpose()
            .context("turn a switch of the packet path")
            .map_err(NodeError::from)
    }

    /// Under which addresses of other nodes replies leave this one directly, and under which they do not: nothing while it
    /// has no task of a service that asks for it.
    pub(crate) fn returns(&self) -> Arc<Vec<ReturnPath>> {
        let returns = self.inner.returns.read();
        Arc::clone(&returns.unwrap_or_else(PoisonError::into_inner))
    }

    /// Goes on with the membership found on disk, if there is one.
    ///
    /// # Errors
    /// When it is unreadable or the manager cannot be started.
    pub async fn resume(&self) -> Result<(), NodeError> {
        cluster::resume(self).await
    }

    /// `swarm init`: creates a cluster with this node as its first manager; returns the node id.
    /// `availability` is `active`, `pause` or `drain` (Engine models leave it out).
    ///
    /// # Errors
    /// Already part of a cluster, no usable address, the state cannot be written.
    pub async fn swarm_init(
        &self,
        request: SwarmInitRequest,
        availability: Option<String>,
    ) -> Result<String, NodeError> {
        let node = self.clone();
        // A caller that goes away leaves nothing half done.
        let making = async move { cluster::init(&node, request, availability).await };
        tokio::spawn(making).await.context("init")?
    }

    /// `swarm init --restore`: goes on with the cluster of a backup, as its only manager; returns the node id.
    ///
    /// # Errors
    /// Already part of a cluster, no usable address, the backup cannot be read, the state cannot be written.
    pub(crate) async fn swarm_restore(
        &self,
        request: cluster::RestoreRequest,
        backup: Vec<u8>,
    ) -> Result<String, NodeError> {
        let node = self.clone();
        // A caller that goes away leaves nothing half done.
        let restoring = async move { cluster::restore(&node, request, backup).await };
        tokio::spawn(restoring).await.context("restore")?
    }

    /// `swarm join`: becomes a node of the cluster the token belongs to.
    ///
    /// # Errors
    /// Already part of a cluster, a wrong token, no manager reached.
    pub async fn swarm_join(
        &self,
        request: SwarmJoinRequest,
        availability: Option<String>,
    ) -> Result<(), NodeError> {
        let node = self.clone();
        // A caller that goes away leaves nothing half done.
        let joining = async move { cluster::join(&node, request, availability).await };
        tokio::spawn(joining).await.context("join")?
    }

    /// `swarm unlock`: goes on with the manager that is locked.
    ///
    /// # Errors
    /// It is not locked, the key is none or another one, or the manager cannot be started.
    pub(crate) async fn swarm_unlock(&self, key: String) -> Result<(), NodeError> {
        let node = self.clone();
        // A caller that goes away leaves nothing half done.
        let unlocking = async move { cluster::unlock(&node, &key).await };
        tokio::spawn(unlocking).await.context("unlock")?
    }

    /// `swarm leave`: stops every task and forgets the cluster. Managers want `force`.
    ///
    /// # Errors
    /// Not part of a cluster, or a manager without `force`.
    pub async fn swarm_leave(&self, force: bool) -> Result<(), NodeError> {
        let node = self.clone();
        let leaving = async move { cluster::leave(&node, force).await };
        tokio::spawn(leaving).await.context("leave")?
    }

    /// The tasks of this node with what is known of their containers, ended ones included until
    /// the managers forget them.
    pub fn tasks(&self) -> Arc<Vec<LocalTask>> {
        Arc::clone(&self.inner.tasks.borrow())
    }

    /// What is known of a task's health; `None` if it has no health check.
    pub fn health(&self, task: &LocalTask) -> Option<health::Health> {
        self.inner.health.get(&task.task.id)
    }

    /// The task whose id, container id, name or unique prefix of an id this is.
    ///
    /// # Errors
    /// None or several match.
    pub fn find_task(&self, key: &str) -> Result<LocalTask, NodeError> {
        tasks::find(&self.tasks(), key, &self.assignment())
    }
}
