//! Which nodes are heard of. Pure: the shell feeds it heartbeats and asks who fell silent.

use crate::config::{DEFAULT_HEARTBEAT, MISSED_HEARTBEATS};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Last signs of life by node id.
#[derive(Debug)]
pub(crate) struct Liveness {
    heard: HashMap<String, Instant>,
    /// Nodes not heard of yet are judged from here on.
    since: Instant,
}

impl Liveness {
    /// Begins to watch at `now`: a new leader gives every node a full period.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            heard: HashMap::new(),
            since: now,
        }
    }

    /// A sign of life.
    pub(crate) fn hear(&mut self, node_id: &str, now: Instant) {
        match self.heard.get_mut(node_id) {
            Some(last) => *last = now,
            None => drop(self.heard.insert(node_id.to_owned(), now)),
        }
    }

    /// Forgets a removed node.
    pub(crate) fn forget(&mut self, node_id: &str) {
        self.heard.remove(node_id);
    }

    /// Whether a node has been silent for longer than it may.
    pub(crate) fn is_silent(&self, node_id: &str, period: Duration, now: Instant) -> bool {
        let last = self
            .heard
            .get(node_id)
            .copied()
            .unwrap_or(self.since)
            .max(self.since);
        now.saturating_duration_since(last) > period * MISSED_HEARTBEATS
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
