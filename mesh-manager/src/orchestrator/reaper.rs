//! Forgets tasks: those to be removed once they have stopped, and history beyond the limit.

use super::{Inputs, Plan, group::GroupKey, restart, stop, update};
use crate::{
    Change,
    state::{NodeState, State, Task, TaskState},
};
use std::collections::BTreeMap;

/// Tasks kept per slot if the cluster does not say. With a negative number in its spec, all are kept.
const DEFAULT_HISTORY: usize = 5;

pub(super) fn plan(state: &State, service_id: &str, inputs: &Inputs<'_>, plan: &mut Plan) {
    let mut groups: BTreeMap<GroupKey, Vec<&Task>> = BTreeMap::new();
    for task in state.tasks_of_service(service_id) {
        orphan(state, task, inputs, plan);
        if task.desired == TaskState::Remove {
            // A task that no node knows of will never be reported.
            if task.status.state.is_terminal() || task.status.state < TaskState::Assigned {
                plan.push_apart(Change::DeleteTask {
                    task_id: task.id.clone(),
                });
            }
            continue;
        }
        groups.entry(GroupKey::of(task)).or_default().push(task);
    }
    let Some(service) = state.service(service_id) else {
        return;
    };
    let configured = state
        .cluster()
        .and_then(|c| c.spec.orchestration.as_ref())
        .and_then(|o| o.task_history_retention_limit)
        .map_or(DEFAULT_HISTORY, |l| {
            usize::try_from(l).unwrap_or(usize::MAX)
        });
    let limit = restart::history_needed(service).unwrap_or(configured);
    // What an update replaces counts for its failure ratio, and stays as long.
    let least = if update::is_running(service) { 2 } else { 1 };
    for mut tasks in groups.into_values() {
        let excess = tasks.len().saturating_sub(limit.max(least));
        tasks.sort_by_key(|t| (t.meta.created_at, &t.id));
        // What a job's tasks of this iteration have completed is no history yet.
        let is_past = |t: &&Task| match t.job_iteration == service.iteration() {
            true => t.desired == TaskState::Shutdown && !t.has_done_its_job(),
            false => true,
        };
        let ended = |t: &&Task| is_past(t) && t.status.state.is_terminal();
        // An update counts its delay from the first failure of a replica.
        let is_new = |t: &&&Task| ended(t) && t.spec_version == service.spec_version;
        let first = tasks.iter().find(is_new).map(|task| task.id.clone());
        let first = first.filter(|_| update::is_running(service));
        let past = tasks.into_iter().filter(ended);
        let past = past.filter(|task| first.as_ref() != Some(&task.id));
        for task in past.take(excess) {
            plan.push_apart(Change::DeleteTask {
                task_id: task.id.clone(),
            });
        }
    }
}

/// Gives up a task whose node has been down for too long or is no more.
fn orphan(state: &State, task: &Task, inputs: &Inputs<'_>, plan: &mut Plan) {
    if task.status.state.is_terminal() || task.status.state < TaskState::Assigned {
        return;
    }
    let Some(node_id) = &task.node_id else { return };
    let after = stop::nanos(inputs.timings.orphan_after);
    let is_lost = match state.node(node_id) {
        None => true,
        Some(node) if node.state == NodeState::Down => {
            let due = node.state_since.saturating_add(after);
            if inputs.now < due {
                plan.wake(due);
            }
            inputs.now >= due
        }
        Some(_) => false,
    };
    if is_lost {
        plan.push(Change::SetStatus {
            task_id: task.id.clone(),
            state: TaskState::Orphaned,
            error: "the node has been gone for too long".to_owned(),
        });
    }
}
