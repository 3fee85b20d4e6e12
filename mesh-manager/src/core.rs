//! What the parts of a running manager share.

use crate::{
    Config, ManagerError, Operation, Proposal, Response,
    credentials::Credentials,
    dispatcher::{Catalog, Sessions},
    leader::LeaderChannel,
    logs::LogBroker,
    orchestrator::Liveness,
    proposer::Proposer,
    queries::Queries,
    raft::{Consensus, Leadership, Sealer, Store},
};
use mesh_pki::{NodeIdentity, PkiError, UnlockKey};
use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A running manager.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) identity: NodeIdentity,
    pub(crate) credentials: Arc<Credentials>,
    /// What the log is encrypted with.
    pub(crate) keys: Arc<Sealer>,
    /// Held while they are locked anew, or renewed.
    pub(crate) locking: tokio::sync::Mutex<()>,
    /// The log has another key, and is to be compacted.
    pub(crate) rekeyed: Notify,
    /// What the node's private key is to be encrypted with.
    pub(crate) node_lock: watch::Sender<Option<UnlockKey>>,
    pub(crate) store: Arc<Store>,
    pub(crate) consensus: Arc<dyn Consensus>,
    pub(crate) proposer: Proposer,
    pub(crate) sessions: Sessions,
    pub(crate) catalog: Arc<Catalog>,
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

    /// Writes this node's identity to disk, locked as managers are.
    pub(crate) fn save_identity(&self) -> Result<(), PkiError> {
        let lock = self.keys.node_lock();
        self.identity.save(&self.config.identity_dir, lock.as_ref())
    }

    /// Works whenever this manager leads, until it stops. What is under way when it leads no more is given up.
    pub(crate) async fn while_leading<W: Future<Output = ()>>(
        self: &Arc<Self>,
        work: impl Fn(Arc<Self>) -> W,
    ) {
        let mut leading = self.leading.subscribe();
        let terms = async {
            while leading.wait_for(|leads| *leads).await.is_ok() {
                let mut lost = leading.clone();
                tokio::select! {
                    _ = lost.wait_for(|leads| !*leads) => {}
                    () = work(self.clone()) => {}
                }
            }
        };
        self.cancel.run_until_cancelled(terms).await;
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
