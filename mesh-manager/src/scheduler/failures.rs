//! Which nodes are a last resort for a service: those where its tasks fail often.

use crate::state::{State, Task, TaskState};
use std::collections::BTreeMap;

/// Failures of a service on a node within [`FAILURE_WINDOW`] that make the node a last resort.
const MAX_FAILURES: usize = 5;
/// Five minutes, in nanoseconds.
const FAILURE_WINDOW: i64 = 5 * 60 * 1_000_000_000;

/// Recent failures of one service by node.
#[derive(Debug)]
pub(super) struct Failures<'a>(BTreeMap<&'a str, usize>);

impl<'a> Failures<'a> {
    /// Counts them. `now` is nanoseconds since the epoch.
    pub(super) fn count(state: &'a State, service_id: &str, now: i64) -> Self {
        let is_recent_failure = |t: &&Task| {
            matches!(t.status.state, TaskState::Failed | TaskState::Rejected)
                && !t.has_lost_its_node()
                // By a manager's clock: the node's may be wrong.
                && now.saturating_sub(t.meta.updated_at) < FAILURE_WINDOW
        };
        let mut by_node = BTreeMap::new();
        let failed = state.tasks_of_service(service_id).filter(is_recent_failure);
        for node in failed.filter_map(|task| task.node_id.as_deref()) {
            *by_node.entry(node).or_default() += 1;
        }
        Self(by_node)
    }

    /// Whether the service failed often on this node of late.
    pub(super) fn are_many_on(&self, node_id: &str) -> bool {
        self.0
            .get(node_id)
            .is_some_and(|count| *count >= MAX_FAILURES)
    }
}
