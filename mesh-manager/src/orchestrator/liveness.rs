//! Which nodes are heard of. Pure: the shell feeds it heartbeats and asks who fell silent.

use crate::config::{DEFAULT_HEARTBEAT, MISSED_HEARTBEATS};
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
    /// Nodes not heard of yet are judged from here on.
    since: Instant,
}

impl Liveness {
    /// Begins to watch at `now`.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            heard: HashMap::new(),
            since: now,
        }
    }

    /// A sign of life; gives the one before it.
    pub(crate) fn hear(&mut self, node_id: &str, now: Instant) -> Option<Instant> {
        match self.heard.get_mut(node_id) {
            Some(last) => Some(mem::replace(last, now)),
            None => self.heard.insert(node_id.to_owned(), now),
        }
    }

    /// The last sign of life was none: the one before it counts.
    pub(crate) fn unhear(&mut self, node_id: &str, before: Option<Instant>) {
        match before {
            Some(before) => drop(self.heard.insert(node_id.to_owned(), before)),
            None => self.forget(node_id),
        }
    }

    /// Forgets a removed node.
    pub(crate) fn forget(&mut self, node_id: &str) {
        self.heard.remove(node_id);
    }

    /// Whether a node has been silent for longer than it may.
    pub(crate) fn is_silent(&self, node_id: &str, period: Duration, now: Instant) -> bool {
        match self.heard.get(node_id) {
            Some(last) => now.saturating_duration_since(*last) > period * MISSED_HEARTBEATS,
            // After a failover it has to find the new leader first.
            None => {
                now.saturating_duration_since(self.since) > period * MISSED_HEARTBEATS * FAILOVER
            }
        }
    }
}

/// The heartbeat period that a cluster's spec asks for.
pub(crate) fn heartbeat_period(state: &crate::state::State) -> Duration {
    state
        .cluster()
        .and_then(|c| c.spec.dispatcher.as_ref())
        .and_then(|d| d.heartbeat_period)
        .and_then(|p| u64::try_from(p).ok())
        .filter(|p| *p > 0)
        .map_or(DEFAULT_HEARTBEAT, Duration::from_nanos)
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
            !liveness.is_silent("a", period, at(6000)),
            "twice the time after a failover"
        );
        assert!(liveness.is_silent("a", period, at(6001)));
        liveness.hear("a", at(1000));
        assert!(!liveness.is_silent("a", period, at(4000)));
        assert!(liveness.is_silent("a", period, at(4001)));
        liveness.hear("a", at(4500));
        assert!(!liveness.is_silent("a", period, at(7500)));
        // One that came to nothing.
        let before = liveness.hear("a", at(7000));
        liveness.unhear("a", before);
        assert!(liveness.is_silent("a", period, at(7501)));
        let before = liveness.hear("b", at(9000));
        assert!(!liveness.is_silent("b", period, at(9000)));
        liveness.unhear("b", before);
        assert!(liveness.is_silent("b", period, at(9000)));
        liveness.forget("a");
        assert!(liveness.is_silent("a", period, at(7500)));
    }
}
