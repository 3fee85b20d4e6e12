//! One queue in front of consensus: whatever waits while an entry is written shares the next one,
//! so that a thousand callers cost far fewer than a thousand fsyncs.

use crate::{
    Machine, ManagerError, Operation, Outcome, Proposal, Response, UNTOLD,
    raft::{Consensus, Store},
};
use futures::future::join_all;
use rand::RngCore;
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Proposals in one entry.
const MAX_BATCH: usize = 128;
/// Their bytes, but for a single one that is longer: an entry goes to other managers in one message.
const MAX_BATCH_BYTES: usize = 256 << 10;
/// Bytes of the longest proposal that is taken, but for the changes of reconcilers: far less than a
/// [message](crate::raft::MAX_MESSAGE) to another manager, in which an entry has to fit or nothing is written any more; more
/// than the Engine API takes in a body.
pub(crate) const MAX_PROPOSAL_BYTES: usize = 32 << 20;
/// Proposals that may wait; further callers are held back.
const QUEUE: usize = 1024;

struct Job {
    proposal: Proposal,
    /// Bytes that it takes in the log.
    size: usize,
    done: oneshot::Sender<Outcome>,
}

/// The front of the queue. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Proposer {
    jobs: mpsc::Sender<Job>,
    machine: Machine,
}

impl Proposal {
    /// A proposal made at a time, nanoseconds since the epoch. The leader says by which rules it is applied; one that is too old
    /// to say so writes it as it is.
    pub(crate) fn new(operation: Operation, time: i64) -> Self {
        let mut seed = [0u8; 16];
        rand::rng().fill_bytes(&mut seed);
        Self {
            time,
            seed,
            rules: UNTOLD,
            operation,
        }
    }
}

impl Proposer {
    /// Starts the queue; it ends when the last clone is gone.
    pub(crate) fn start(
        consensus: Arc<dyn Consensus>,
        store: Arc<Store>,
        machine: Machine,
    ) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE);
        tokio::spawn(run(consensus, store, queue));
        Self { jobs, machine }
    }

    /// Commits and applies one proposal on this manager, which has to be the leader. One that is too long is refused.
    pub(crate) async fn propose(&self, proposal: Proposal) -> Outcome {
        let size = size(&proposal);
        check_size(&proposal.operation, size)?;
        let (done, outcome) = oneshot::channel();
        let closed =
            || ManagerError::internal("cannot change the state", "the manager is stopping");
        self.jobs
            .send(Job {
                proposal,
                size,
                done,
            })
            .await
            .map_err(|_| closed())?;
        outcome.await.map_err(|_| closed())?
    }

    /// Proposes an operation of the manager's own.
    pub(crate) async fn operation(&self, operation: Operation) -> Result<Response, ManagerError> {
        let proposal = Proposal::new(operation, self.machine.now());
        self.propose(proposal).await
    }

    /// Proposes operations of the manager's own together, so that they share entries. Outcomes in order.
    pub(crate) async fn operations(
        &self,
        operations: impl IntoIterator<Item = Operation>,
    ) -> Vec<Outcome> {
        join_all(operations.into_iter().map(|one| self.operation(one))).await
    }
}

/// Refuses what would not fit into a message between managers, and stop all that comes after it. The changes of reconcilers
/// are the leader's own, so many to an entry.
fn check_size(operation: &Operation, size: usize) -> Result<(), ManagerError> {
    match operation {
        Operation::Reconcile(_) => Ok(()),
        _ if size <= MAX_PROPOSAL_BYTES => Ok(()),
        _ => Err(ManagerError::invalid(format!(
            "the change is too large: {size} bytes, and {MAX_PROPOSAL_BYTES} at most"
        ))),
    }
}

/// How many of the jobs go into one entry: at least one.
fn fitting(jobs: &[Job]) -> usize {
    let mut total = 0;
    let fits = |job: &&Job| {
        total += job.size;
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

/// By which rules an operation is applied: those in force, so that every manager knows them.
fn rules_of(operation: &Operation, in_force: u32, known: u32) -> u32 {
    match operation {
        // Nobody else is there yet.
        Operation::Bootstrap(_) => known,
        // Who does not know these rules stops here.
        Operation::GoBy { rules } => *rules,
        _ => in_force,
    }
}

async fn run(consensus: Arc<dyn Consensus>, store: Arc<Store>, mut queue: mpsc::Receiver<Job>) {
    let mut jobs = Vec::with_capacity(MAX_BATCH);
    loop {
        if jobs.is_empty() && queue.recv_many(&mut jobs, MAX_BATCH).await == 0 {
            return;
        }
        let count = fitting(&jobs);
        let (mut proposals, waiting): (Vec<_>, Vec<_>) =
            jobs.drain(..count).map(|j| (j.proposal, j.done)).unzip();
        let (in_force, known) = (store.read().rules(), store.knows());
        for proposal in &mut proposals {
            proposal.rules = rules_of(&proposal.operation, in_force, known);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RULES, fixture::World};

    #[test]
    fn what_would_stop_replication_is_refused() {
        let down = |length| Operation::NodeDown {
            node_id: "n".to_owned(),
            message: "x".repeat(length),
        };
        let checked = |operation: &Operation| check_size(operation, size(operation));
        assert_eq!(checked(&down(MAX_PROPOSAL_BYTES - 100)), Ok(()));
        let refused = checked(&down(MAX_PROPOSAL_BYTES)).unwrap_err();
        assert_eq!(refused.kind, crate::ErrorKind::InvalidArgument);
        let change = Operation::Reconcile(Vec::new());
        assert_eq!(check_size(&change, MAX_PROPOSAL_BYTES + 1), Ok(()));
        // Every entry that is taken fits into a message.
        const { assert!(2 * MAX_PROPOSAL_BYTES <= crate::raft::MAX_MESSAGE) };
    }

    #[tokio::test]
    async fn what_is_proposed_together_waits_together() {
        let (jobs, mut queue) = mpsc::channel(QUEUE);
        let proposer = Proposer {
            jobs,
            machine: Machine::default(),
        };
        let down = |n: u32| Operation::NodeDown {
            node_id: n.to_string(),
            message: String::new(),
        };
        let proposed = tokio::spawn(async move { proposer.operations((0..100).map(down)).await });
        // All are in the queue before the first is answered.
        let mut waiting = Vec::new();
        for _ in 0..100 {
            let job = tokio::time::timeout(std::time::Duration::from_secs(30), queue.recv()).await;
            waiting.push(job.expect("it waits for no other").expect("a job"));
        }
        for job in waiting {
            job.done.send(Ok(Response::Done)).unwrap();
        }
        assert_eq!(proposed.await.unwrap(), vec![Ok(Response::Done); 100]);
    }

    #[test]
    fn the_leader_writes_by_what_every_manager_knows() {
        let reconcile = Operation::Reconcile(Vec::new());
        let go_by = |rules| Operation::GoBy { rules };
        for (operation, in_force, rules) in [
            (&reconcile, UNTOLD, UNTOLD),
            (&reconcile, RULES, RULES),
            (&go_by(RULES), UNTOLD, RULES),
        ] {
            assert_eq!(rules_of(operation, in_force, RULES), rules, "{operation:?}");
        }
        // What is written by rules that all know changes nothing that only some know.
        let mut world = World::new(&[]);
        world.state = Default::default();
        world.apply_by(UNTOLD, reconcile).unwrap();
        assert_eq!(world.state.rules(), UNTOLD);
    }
}
