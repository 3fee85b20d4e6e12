//! What the parts of a running manager share.

use crate::{
    Config, ManagerError, Operation, Outcome, Proposal, Response, client,
    credentials::Credentials,
    dispatcher::Sessions,
    logs::LogBroker,
    orchestrator::Liveness,
    proposer::Proposer,
    queries::Queries,
    raft::{Consensus, Leadership, Store},
};
use mesh_api::proto::{ForwardRequest, control_client::ControlClient};
use mesh_pki::NodeIdentity;
use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest wait for a leader before a call fails.
const LEADER_WAIT: Duration = Duration::from_secs(10);

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
        self.change_with(Proposal::new(operation)).await
    }

    async fn change_with(&self, proposal: Proposal) -> Outcome {
        let mut changes = self.consensus.leadership();
        let found = async {
            changes
                .wait_for(|l| l.leader.is_some() || l.failure.is_some())
                .await
                .ok()
                .map(|l| l.clone())
        };
        let Ok(Some(leadership)) = tokio::time::timeout(LEADER_WAIT, found).await else {
            return Err(ManagerError::no_leader());
        };
        if let Some(failure) = leadership.failure {
            return Err(failure);
        }
        if leadership.is_self {
            return self.proposer.propose(proposal).await;
        }
        let leader = leadership.leader.ok_or_else(ManagerError::no_leader)?;
        self.forward(&leader.addr, &proposal).await
    }

    /// Hands a proposal to the leader.
    async fn forward(&self, address: &str, proposal: &Proposal) -> Outcome {
        let failed = |e: &dyn std::fmt::Display| {
            ManagerError::internal(&format!("cannot reach the leader at {address}"), e)
        };
        let tls = self.credentials.client();
        let channel = client::connect(address, tls)
            .await
            .map_err(|e| failed(&e))?;
        let command_json = serde_json::to_vec(proposal).map_err(|e| failed(&e))?;
        let answer = ControlClient::new(channel)
            .forward(ForwardRequest { command_json })
            .await
            .map_err(|e| failed(&e))?;
        serde_json::from_slice::<Outcome>(&answer.into_inner().result_json)
            .map_err(|e| failed(&e))?
    }
}
