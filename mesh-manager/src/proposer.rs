//! One queue in front of consensus: whatever waits while an entry is written shares the next one,
//! so that a thousand callers cost far fewer than a thousand fsyncs.

use crate::{
    Machine, ManagerError, Operation, Outcome, Proposal, Response, command::RULES, raft::Consensus,
};
use rand::RngCore;
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Proposals in one entry.
const MAX_BATCH: usize = 128;
/// Their bytes, but for a single one that is longer: an entry goes to other managers in one message.
const MAX_BATCH_BYTES: usize = 256 << 10;
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
    machine: Machine,
}

impl Proposal {
    /// A proposal made at a time, nanoseconds since the epoch.
    pub(crate) fn new(operation: Operation, time: i64) -> Self {
        let mut seed = [0u8; 16];
        rand::rng().fill_bytes(&mut seed);
        Self {
            time,
            seed,
            rules: RULES,
            operation,
        }
    }
}

impl Proposer {
    /// Starts the queue; it ends when the last clone is gone.
    pub(crate) fn start(consensus: Arc<dyn Consensus>, machine: Machine) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE);
        tokio::spawn(run(consensus, queue));
        Self { jobs, machine }
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
        let proposal = Proposal::new(operation, self.machine.now());
        self.propose(proposal).await
    }
}

/// How many of the jobs go into one entry: at least one.
fn fitting(jobs: &[Job]) -> usize {
    let mut total = 0;
    let fits = |job: &&Job| {
        total += size(&job.proposal);
        total <= MAX_BATCH_BYTES
    };
    jobs.iter().take_while(fits).count().max(1)
}

/// Bytes that something takes in the log.
pub(crate) fn size(value: &impl Serialize) -> usize {
    let mut counter = Counter(0);
    // What cannot be encoded fails in consensus.
    let _ = serde_json::to_writer(&mut counter, value);
    counter.0
}

/// Counts what is written.
struct Counter(usize);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn run(consensus: Arc<dyn Consensus>, mut queue: mpsc::Receiver<Job>) {
    let mut jobs = Vec::with_capacity(MAX_BATCH);
    loop {
        if jobs.is_empty() && queue.recv_many(&mut jobs, MAX_BATCH).await == 0 {
            return;
        }
        let count = fitting(&jobs);
        let (proposals, waiting): (Vec<_>, Vec<_>) =
            jobs.drain(..count).map(|j| (j.proposal, j.done)).unzip();
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
