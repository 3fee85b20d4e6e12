//! Stopping tasks without losing requests: first every node takes the task out of load balancing
//! and says so, then the task is told to stop.

use super::{Inputs, Plan, node_reports};
use crate::{
    Change,
    state::{State, Task, TaskState},
};
use std::time::Duration;

/// How often a drain is looked at while nodes have not answered, nanoseconds.
const POLL: i64 = 20_000_000;

/// As the state counts time.
pub(super) fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Begins to stop a task; `then` is its desired state in the end, or *rejected*, which its status becomes.
pub(super) fn stop(state: &State, task: &Task, then: TaskState, plan: &mut Plan) {
    if task.drained_at.is_some() {
        return;
    }
    // What the report of its end becomes is noted with the drain.
    if then == TaskState::Rejected || task.is_endpoint() && node_reports(state, task) {
        plan.push(Change::Drain {
            task_id: task.id.clone(),
            then,
        });
    } else {
        desire(task, then, plan);
    }
}

/// Raises a desired state at once.
pub(super) fn desire(task: &Task, desired: TaskState, plan: &mut Plan) {
    if desired > task.desired {
        plan.push(Change::Desire {
            task_id: task.id.clone(),
            desired,
        });
    }
}

/// Tells drained tasks to stop, once the nodes have answered and requests on their way have come
/// to their end, or have had long enough.
pub(super) fn finish_drains(state: &State, service_id: &str, inputs: &Inputs<'_>, plan: &mut Plan) {
    for task in state.tasks_of_service(service_id) {
        let (Some(index), Some(since), Some(then)) =
            (task.drained_at, task.drained_time, task.drain_to)
        else {
            continue;
        };
        // Managers desire a stop; that it was a rejection is its status.
        let then = match then {
            TaskState::Rejected => TaskState::Shutdown,
            then => then,
        };
        if task.desired >= then {
            continue;
        }
        let since = inputs.at(since);
        let settled = since.saturating_add(nanos(inputs.timings.drain_settle));
        // Nodes may not have heard of it from a leader that ended.
        let asked = since.max(inputs.leads_since);
        let limit = asked.saturating_add(nanos(inputs.timings.drain_limit));
        let is_gone = !task.is_endpoint() || !node_reports(state, task);
        let is_done = inputs.now >= settled && (inputs.is_acknowledged)(index);
        if is_gone || is_done || inputs.now >= limit {
            desire(task, then, plan);
        } else {
            plan.wake(settled.max(inputs.now + POLL).min(limit));
        }
    }
}

#[cfg(test)]
#[path = "stop_tests.rs"]
mod tests;
