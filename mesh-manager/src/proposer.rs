//! One queue in front of consensus: whatever waits while an entry is written shares the next one,
//! so that a thousand callers cost far fewer than a thousand fsyncs.

use crate::{ManagerError, Operation, Outcome, Proposal, Response, raft::Consensus};
use rand::RngCore;
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::{mpsc, oneshot};

/// Proposals in one entry.
const MAX_BATCH: usize = 128;
/// Proposals that may wait; further callers are held back.
const QUEUE: usize = 1024;

struct Job {
    proposal: Proposal,
    done: oneshot::Sender<Outcome>,
}

/// The front of the queue. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Proposer {
    jobs: mpsc::Sender<Job>,
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

impl Proposal {
    /// A proposal made now.
    pub(crate) fn new(operation: Operation) -> Self {
        let mut seed = [0u8; 16];
        rand::rng().fill_bytes(&mut seed);
        Self {
            time: now(),
            seed,
            operation,
        }
    }
}

impl Proposer {
    /// Starts the queue; it ends when the last clone is gone.
    pub(crate) fn start(consensus: Arc<dyn Consensus>) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE);
        tokio::spawn(run(consensus, queue));
        Self { jobs }
    }

    /// Commits and applies one proposal on this manager, which has to be the leader.
    pub(crate) async fn propose(&self, proposal: Proposal) -> Outcome {
        let (done, outcome) = oneshot::channel();
        let closed =
            || ManagerError::internal("cannot change the state", "the manager is stopping");
        self.jobs
            .send(Job { proposal, done })
            .await
            .map_err(|_| closed())?;
        outcome.await.map_err(|_| closed())?
    }

    /// Proposes an operation of the manager's own.
    pub(crate) async fn operation(&self, operation: Operation) -> Result<Response, ManagerError> {
        self.propose(Proposal::new(operation)).await
    }
}

async fn run(consensus: Arc<dyn Consensus>, mut queue: mpsc::Receiver<Job>) {
    let mut jobs = Vec::with_capacity(MAX_BATCH);
    while queue.recv_many(&mut jobs, MAX_BATCH).await > 0 {
        let (proposals, waiting): (Vec<_>, Vec<_>) =
            jobs.drain(..).map(|j| (j.proposal, j.done)).unzip();
        match consensus.propose(proposals).await {
            Ok(outcomes) => {
                for (done, outcome) in waiting.into_iter().zip(outcomes) {
                    // The caller may have gone away; the change stands.
                    let _ = done.send(outcome);
                }
            }
            Err(error) => {
                for done in waiting {
                    let _ = done.send(Err(error.clone()));
                }
            }
        }
    }
}
