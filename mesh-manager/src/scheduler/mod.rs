//! Puts pending tasks on nodes: filters first, then spreading. Pure.

mod constraint;
mod filter;
mod node_set;

pub use constraint::{Constraint, ConstraintError};
pub(crate) use filter::fits_node;

use crate::{
    Change,
    state::{State, Task},
};
use filter::{Filter, Verdict};
use node_set::{Candidate, NodeSet};

/// Where the pending tasks go, and why the others stay. `now` is nanoseconds since the epoch.
pub(crate) fn schedule(state: &State, now: i64) -> Vec<Change> {
    let mut pending: Vec<&Task> = state.pending_tasks().collect();
    if pending.is_empty() {
        return Vec::new();
    }
    pending.sort_by(|a, b| (&a.service_id, a.slot, &a.id).cmp(&(&b.service_id, b.slot, &b.id)));
    let mut nodes = NodeSet::build(state);
    let mut changes = Vec::with_capacity(pending.len());
    for task in pending {
        match place(&nodes, state, task, now) {
            Ok(index) => {
                let node_id = nodes.assign(index, task);
                changes.push(Change::Assign {
                    task_id: task.id.clone(),
                    node_id,
                });
            }
            Err(error) if error != task.status.error => {
                changes.push(Change::Explain {
                    task_id: task.id.clone(),
                    error,
                });
            }
            Err(_) => {}
        }
    }
    changes
}

/// The best node for one task, or why there is none.
fn place(nodes: &NodeSet<'_>, state: &State, task: &Task, now: i64) -> Result<usize, String> {
    let filter = Filter::new(task, state);
    let mut refusals = [0usize; Verdict::COUNT];
    let mut fitting: Vec<usize> = Vec::new();
    for (index, candidate) in nodes.candidates().iter().enumerate() {
        // A global task knows its node.
        if task
            .node_id
            .as_ref()
            .is_some_and(|id| *id != candidate.node.id)
        {
            continue;
        }
        match filter.check(candidate) {
            Ok(()) => fitting.push(index),
            Err(verdict) => refusals[verdict as usize] += 1,
        }
    }
    if fitting.is_empty() {
        return Err(Verdict::explain(&refusals));
    }
    let fitting = preferred(nodes, task, fitting);
    let key = |index: &usize| {
        let candidate: &Candidate<'_> = &nodes.candidates()[*index];
        (
            candidate.fails_often(state, &task.service_id, now),
            candidate.tasks_of(&task.service_id),
            candidate.tasks,
            candidate.node.id.as_str(),
        )
    };
    fitting
        .into_iter()
        .min_by_key(key)
        .ok_or_else(|| Verdict::explain(&refusals))
}

/// Walks the tree of spread preferences: at each level only the branch (label value, a missing
/// label being one as well) with the fewest tasks of the service is followed.
fn preferred(nodes: &NodeSet<'_>, task: &Task, mut fitting: Vec<usize>) -> Vec<usize> {
    let preferences = task
        .spec
        .placement
        .as_ref()
        .and_then(|p| p.preferences.as_deref())
        .unwrap_or_default();
    for preference in preferences {
        let Some(descriptor) = preference
            .spread
            .as_ref()
            .and_then(|s| s.spread_descriptor.as_deref())
        else {
            continue;
        };
        let label = |index: usize| nodes.candidates()[index].label(descriptor);
        // The weight of a branch counts its tasks on all nodes that fit.
        let mut branches = std::collections::BTreeMap::<String, u64>::new();
        for index in &fitting {
            *branches.entry(label(*index)).or_default() +=
                nodes.candidates()[*index].tasks_of(&task.service_id);
        }
        let Some((best, _)) = branches.into_iter().min_by_key(|(_, tasks)| *tasks) else {
            continue;
        };
        fitting.retain(|index| label(*index) == best);
    }
    fitting
}

#[cfg(test)]
mod tests;
