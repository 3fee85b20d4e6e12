//! Pre-vote: a manager stands for election only once most managers have not heard a leader for a while (D. Ongaro, "Consensus:
//! Bridging Theory and Practice", 9.6; here without a look at the log, which the vote itself looks at). One that was cut off, or
//! that alone does not hear the leader, raises no term, and so unseats nobody once it is heard again.

use super::{
    network::Network,
    types::{Raft, RaftId, RaftPeer},
};
use futures::{StreamExt, stream::FuturesUnordered};
use openraft::network::RaftNetworkFactory;
use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};

/// How long nothing has been heard of a leader.
#[derive(Debug)]
pub(super) struct Silence {
    /// The last sign of life.
    heard: Mutex<Option<Instant>>,
    /// After this long, another leader may be elected.
    long: Duration,
}

impl Silence {
    pub(super) fn new(long: Duration) -> Self {
        Self {
            heard: Mutex::default(),
            long,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.heard.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A leader has been heard, or this manager leads.
    pub(super) fn end(&self) {
        *self.lock() = Some(Instant::now());
    }

    /// Whether nothing has been heard for longer than that, or since this manager was started.
    pub(super) fn exceeds(&self, limit: Duration) -> bool {
        self.lock().is_none_or(|at| at.elapsed() > limit)
    }

    /// Whether another leader may be elected, as far as this manager knows.
    pub(super) fn is_long(&self) -> bool {
        self.exceeds(self.long)
    }
}

/// Lets `raft` stand for election while most managers would have one; asks them every `period`, and waits for an answer no
/// longer than `limit`.
pub(super) async fn watch(
    raft: &Raft,
    own: RaftId,
    network: &Network,
    silence: &Silence,
    period: Duration,
    limit: Duration,
) -> Infallible {
    loop {
        let is_wanted = silence.is_long() && is_wanted(raft, own, network, limit).await;
        raft.runtime_config().elect(is_wanted);
        sleep(period).await;
    }
}

/// Whether most managers would have an election, this one included.
async fn is_wanted(raft: &Raft, own: RaftId, network: &Network, limit: Duration) -> bool {
    let members = raft.metrics().borrow().membership_config.clone();
    let members = members.membership();
    let others = members
        .voter_ids()
        .filter(|id| *id != own)
        .filter_map(|id| Some((id, members.get_node(&id)?)));
    let mut answers: FuturesUnordered<_> = others
        .map(|(id, node)| async move { (id, ask(network, id, node, limit).await) })
        .collect();
    let mut agreed = BTreeSet::from([own]);
    while !are_most(&agreed, members.get_joint_config()) {
        match answers.next().await {
            Some((id, true)) => drop(agreed.insert(id)),
            Some((_, false)) => {}
            None => return false,
        }
    }
    true
}

async fn ask(network: &Network, id: RaftId, node: &RaftPeer, limit: Duration) -> bool {
    let connection = network.clone().new_client(id, node).await;
    timeout(limit, connection.pre_vote()).await.unwrap_or(false)
}

/// Whether these are a majority of each of the sets that decide.
fn are_most(agreed: &BTreeSet<RaftId>, sets: &[BTreeSet<RaftId>]) -> bool {
    let is_most = |set: &BTreeSet<RaftId>| set.intersection(agreed).count() * 2 > set.len();
    sets.iter().all(is_most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_of_every_set_decides() {
        let set = |ids: &[RaftId]| ids.iter().copied().collect::<BTreeSet<_>>();
        let three = set(&[1, 2, 3]);
        for (agreed, sets, are) in [
            (set(&[1]), vec![set(&[1])], true),
            (set(&[1]), vec![set(&[1, 2])], false),
            (set(&[1, 2]), vec![three.clone()], true),
            (set(&[1, 4]), vec![three.clone()], false),
            (set(&[1, 2]), vec![three.clone(), set(&[3, 4, 5])], false),
            (set(&[1, 2, 4, 5]), vec![three, set(&[3, 4, 5])], true),
            (set(&[9]), vec![set(&[1])], false),
        ] {
            assert_eq!(are_most(&agreed, &sets), are, "{agreed:?} of {sets:?}");
        }
    }

    #[test]
    fn silence_is_long_until_somebody_is_heard() {
        let silence = Silence::new(Duration::from_secs(3600));
        assert!(silence.is_long(), "nobody yet");
        silence.end();
        assert!(!silence.is_long());
        assert!(silence.exceeds(Duration::ZERO));
    }
}
