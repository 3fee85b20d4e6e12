//! The handle that the API server, the session and the reconciler share: one per process.

mod error;
mod state;
mod tasks;

use std::sync::{Arc, RwLock};

use mesh_api::engine::{SwarmInitRequest, SwarmJoinRequest};
use tokio::sync::watch;

pub use error::NodeError;
pub use state::{ClusterInfo, NodeState, Role};
pub use tasks::LocalTask;

use crate::config::Config;

/// A node; cheap to clone.
#[derive(Debug, Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    instance: String,
    hostname: String,
    state: watch::Sender<NodeState>,
    tasks: RwLock<Arc<Vec<LocalTask>>>,
}

impl Node {
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

    /// Membership as of now.
    pub fn state(&self) -> NodeState {
        self.inner.state.borrow().clone()
    }

    /// Membership, to wait for changes.
    pub fn watch_state(&self) -> watch::Receiver<NodeState> {
        self.inner.state.subscribe()
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
        let _ = (request, availability);
        Err(NodeError::AlreadyMember)
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
        let _ = (request, availability);
        Err(NodeError::AlreadyMember)
    }

    /// `swarm leave`: stops every task and forgets the cluster. Managers want `force`.
    ///
    /// # Errors
    /// Not part of a cluster, or a manager without `force`.
    pub async fn swarm_leave(&self, force: bool) -> Result<(), NodeError> {
        let _ = force;
        Err(NodeError::NotMember)
    }

    /// The tasks of this node with what is known of their containers, ended ones included until
    /// the managers forget them.
    pub fn tasks(&self) -> Arc<Vec<LocalTask>> {
        Arc::clone(
            &self
                .inner
                .tasks
                .read()
                .unwrap_or_else(|poisoned| poisoned.into_inner()),
        )
    }

    /// The task whose id, container id, name or unique prefix of an id this is.
    ///
    /// # Errors
    /// None or several match.
    pub fn find_task(&self, key: &str) -> Result<LocalTask, NodeError> {
        tasks::find(&self.tasks(), key)
    }
}
