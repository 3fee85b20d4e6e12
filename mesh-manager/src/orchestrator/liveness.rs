//! Which nodes are heard of. Pure: the shell feeds it heartbeats and asks who fell silent.

use crate::config::{DEFAULT_HEARTBEAT, MIN_HEARTBEAT, MISSED_HEARTBEATS};
use std::{
    collections::HashMap,
    mem,
    time::{Duration, Instant},
};

/// Nodes that a new leader has not heard of yet get this many times as long.
const FAILOVER: u32 = 2;

/// Last signs of life by node id.
#[derive(Debug)]
pub(crate) struct Liveness {
    heard: HashMap<String, Instant>,
    /// By node id: the period of its heartbeats, as it was told last or says by itself. A shorter one that is asked for by
    /// now may not have reached it.
    paces: HashMap<String, Duration>,
    /// Nodes not heard of yet are judged from here on.
    since: Instant,
}

impl Liveness {
    /// Begins to watch at `now`.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            heard: HashMap::new(),
            paces: HashMap::new(),
            since: now,
        }
    }

    /// Nodes have not been heard for another reason than their silence: all of them are judged from `now` on.
    pub(crate) fn excuse(&mut self, now: Instant) {
        self.heard.clear();
        self.since = now;
    }

    /// From now on a node says something once in each such period.
    pub(crate) fn go_by(&mut self, node_id: &str, period: Duration) {
        match self.paces.get_mut(node_id) {
            Some(pace) => *pace = period,
            None => drop(self.paces.insert(node_id.to_owned(), period)),
        }
    }

    /// A sign of life; gives the one before it.
    pub(crate) fn hear(&mut self, node_id: &str, now: Instant) -> Option<Instant> {
        match self.heard.get_mut(node_id) {
            Some(last) => Some(mem::replace(last, now)),
            None => self.heard.insert(node_id.to_owned(), now),
        }
    }

    /// The sign of life at this time was none: the one before it counts, unless there has been another since.
    pub(crate) fn unhear(&mut self, node_id: &str, at: Instant, before: Option<Instant>) {
        if self.heard.get(node_id) != Some(&at) {
            return;
        }
        match before {
            Some(before) => drop(self.heard.insert(node_id.to_owned(), before)),
            None => drop(self.heard.remove(node_id)),
        }
    }

    /// Forgets a removed node.
    pub(crate) fn forget(&mut self, node_id: &str) {
        self.heard.remove(node_id);
        self.paces.remove(node_id);
    }

    /// Whether a node has been silent for longer than it may, where nodes are asked for a heartbeat in each `period`.
    pub(crate) fn is_silent(&self, node_id: &str, period: Duration, now: Instant) -> bool {
        let pace = self.paces.get(node_id);
        let period = pace.map_or(period, |pace| period.max(*pace));
        match self.heard.get(node_id) {
            Some(last) => now.saturating_duration_since(*last) > period * MISSED_HEARTBEATS,
            // After a failover it has to find the new leader first, which a shorter period makes no faster.
            None => {
                let period = period.max(DEFAULT_HEARTBEAT);
                now.saturating_duration_since(self.since) > period * MISSED_HEARTBEATS * FAILOVER
            }
        }
    }
}

/// The heartbeat period that a cluster's spec asks for; not less than agents can do.
pub(crate) fn heartbeat_period(state: &crate::state::State) -> Duration {
    state
        .cluster()
        .and_then(|c| c.spec.dispatcher.as_ref())
        .and_then(|d| d.heartbeat_period)
        .and_then(|p| u64::try_from(p).ok())
        .filter(|p| *p > 0)
        .map_or(DEFAULT_HEARTBEAT, Duration::from_nanos)
        .max(MIN_HEARTBEAT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_measured_from_the_last_word() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let period = Duration::from_millis(1000);
        let mut liveness = Liveness::new(start);
        assert!(
            !liveness.is_silent("a", period, at(9000)),
            "after a failover, twice the time that is the least by default"
        );
        assert!(liveness.is_silent("a", period, at(9001)));
        liveness.hear("a", at(1000));
        assert!(!liveness.is_silent("a", period, at(4000)));
        assert!(liveness.is_silent("a", period, at(4001)));
        liveness.hear("a", at(4500));
        assert!(!liveness.is_silent("a", period, at(7500)));
        // One that came to nothing.
        let before = liveness.hear("a", at(7000));
        liveness.unhear("a", at(6999), before);
        assert!(!liveness.is_silent("a", period, at(7501)), "heard since");
        liveness.unhear("a", at(7000), before);
        assert!(liveness.is_silent("a", period, at(7501)));
        let before = liveness.hear("b", at(9100));
        assert!(!liveness.is_silent("b", period, at(9100)));
        liveness.unhear("b", at(9100), before);
        assert!(liveness.is_silent("b", period, at(9100)));
        liveness.forget("a");
        assert!(liveness.is_silent("a", period, at(9001)));
    }

    #[test]
    fn a_shorter_period_holds_for_a_node_once_it_goes_by_it() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let [long, short] = [1000, 100].map(Duration::from_millis);
        let mut liveness = Liveness::new(start);
        liveness.go_by("a", long);
        liveness.hear("a", at(0));
        assert!(
            !liveness.is_silent("a", short, at(3000)),
            "it was told long"
        );
        assert!(liveness.is_silent("a", short, at(3001)));
        liveness.go_by("a", short);
        assert!(!liveness.is_silent("a", short, at(300)));
        assert!(liveness.is_silent("a", short, at(301)));
        // A longer one holds at once: no node is hurt by it.
        assert!(!liveness.is_silent("a", long, at(3000)));
        // A manager that stood still knows what it has told all the same.
        liveness.go_by("a", long);
        liveness.excuse(at(10_000));
        assert!(!liveness.is_silent("a", short, at(19_000)));
        assert!(liveness.is_silent("a", short, at(19_001)));
        liveness.go_by("a", long * 2);
        assert!(!liveness.is_silent("a", short, at(22_000)));
        assert!(liveness.is_silent("a", short, at(22_001)));
        liveness.forget("a");
        assert!(liveness.is_silent("a", short, at(19_001)));
    }

    #[test]
    fn no_node_is_judged_by_a_period_that_agents_cannot_keep() {
        let mut world = crate::fixture::World::new(&[]);
        for (asked, period) in [(1, 100), (100_000_000, 100), (2_000_000_000, 2000)] {
            let mut cluster = world.state.cluster().unwrap().clone();
            let dispatcher = cluster.spec.dispatcher.get_or_insert_default();
            dispatcher.heartbeat_period = Some(asked);
            world.state.put_cluster(cluster);
            assert_eq!(
                heartbeat_period(&world.state),
                Duration::from_millis(period)
            );
        }
    }
}
