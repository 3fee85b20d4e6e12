//! What the parts of a running manager share.

use crate::{
    Config, ManagerError, Operation, Proposal, Response,
    credentials::Credentials,
    dispatcher::Sessions,
    leader::LeaderChannel,
    logs::LogBroker,
    orchestrator::Liveness,
    proposer::Proposer,
    queries::Queries,
    raft::{Consensus, Leadership, Store},
};
use mesh_pki::NodeIdentity;
use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A running manager.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) identity: NodeIdentity,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) store: Arc<Store>,
    pub(crate) consensus: Arc<dyn Consensus>,
    pub(crate) proposer: Proposer,
    pub(crate) sessions: Sessions,
    pub(crate) logs: LogBroker,
    pub(crate) queries: Queries,
    pub(crate) cancel: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) liveness: Mutex<Liveness>,
    /// This manager leads, and has applied what former leaders committed.
    pub(crate) leading: watch::Sender<bool>,
    pub(crate) leader_channel: LeaderChannel,
}

impl Core {
    /// Who leads.
    pub(crate) fn leadership(&self) -> Leadership {
        self.consensus.leadership().borrow().clone()
    }

    /// Who is heard of.
    pub(crate) fn liveness(&self) -> MutexGuard<'_, Liveness> {
        self.liveness.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Notes a sign of life of a node.
    pub(crate) fn hear(&self, node_id: &str) {
        self.liveness().hear(node_id, Instant::now());
    }

    /// Changes the state here or, on a follower, at the leader.
    pub(crate) async fn change(&self, operation: Operation) -> Result<Response, ManagerError> {
        let now = self.config.machine.now();
        self.commit(Proposal::new(operation, now)).await
    }
}
