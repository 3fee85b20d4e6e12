//! Puts pending tasks on nodes: filters first, then spreading. Pure.

mod constraint;
mod failures;
mod filter;
mod moves;
mod node_set;
mod replicas;

pub use constraint::{Constraint, ConstraintError};
pub(crate) use filter::{fits_node, has_room};
pub(crate) use moves::moves;

use crate::{
    Change,
    state::{State, Task},
};
use failures::Failures;
use filter::{Filter, Verdict};
use mesh_api::engine;
use node_set::{Candidate, NodeSet};
use replicas::Replicas;

/// Tasks placed at a time of those for each of which all nodes are looked at.
const MAX_ALONE: usize = 200;

/// Where pending tasks go, and why others stay: at most `limit` changes, for more tasks may be pending than can be placed in
/// the time that other work can wait. `now` is nanoseconds since the epoch.
pub(crate) fn schedule(state: &State, now: i64, limit: usize) -> Vec<Change> {
    let mut pending: Vec<&Task> = state.pending_tasks().collect();
    if pending.is_empty() {
        return Vec::new();
    }
    pending.sort_by(|a, b| (&a.service_id, a.slot, &a.id).cmp(&(&b.service_id, b.slot, &b.id)));
    let mut nodes = NodeSet::build(state, now);
    let mut changes = Vec::with_capacity(pending.len().min(limit));
    let mut alone = 0;
    // A change of placement alone makes no new version of the spec.
    let alike = |a: &&Task, b: &&Task| {
        let kind = |t: &Task| (t.spec_version, t.node_id.is_some());
        (&a.service_id, kind(a), &a.spec.placement) == (&b.service_id, kind(b), &b.spec.placement)
    };
    for tasks in pending.chunk_by(alike) {
        let failures = Failures::count(state, &tasks[0].service_id, now);
        let mut replicas = Replicas::of(tasks[0], &failures, &nodes, state);
        // Where one of them fits nowhere, none does: those that are placed only take room.
        let mut refused: Option<String> = None;
        for task in tasks {
            if changes.len() >= limit || alone >= MAX_ALONE {
                return changes;
            }
            let placed = match (&refused, &mut replicas) {
                (Some(error), _) => Err(error.clone()),
                (None, Some(replicas)) => replicas.place(&mut nodes, task),
                (None, None) => {
                    let place = place(&nodes, state, &failures, task);
                    alone += usize::from(place.is_ok() && task.node_id.is_none());
                    place.map(|index| nodes.assign(index, task))
                }
            };
            if task.node_id.is_none() {
                refused = placed.as_ref().err().cloned();
            }
            match placed {
                Ok(node_id) => changes.push(Change::Assign {
                    task_id: task.id.clone(),
                    node_id,
                }),
                Err(error) if error != task.status.error => changes.push(Change::Explain {
                    task_id: task.id.clone(),
                    error,
                }),
                Err(_) => {}
            }
        }
    }
    changes
}

/// What the nodes that fit a task are ordered by; the smallest is the best.
type Rank<'a> = (bool, u64, u64, &'a str);

fn rank<'a>(candidate: &Candidate<'a>, failures: &Failures<'_>, service_id: &str) -> Rank<'a> {
    (
        failures.are_many_on(&candidate.node.id),
        candidate.tasks_of(service_id),
        candidate.tasks,
        candidate.node.id.as_str(),
    )
}

/// The best node for one task, or why there is none.
fn place(
    nodes: &NodeSet<'_>,
    state: &State,
    failures: &Failures<'_>,
    task: &Task,
) -> Result<usize, String> {
    let filter = Filter::new(task, state);
    let mut refusals = [0usize; Verdict::COUNT];
    let mut fitting: Vec<usize> = Vec::new();
    // A global task knows its node, and so does one that takes the place of another.
    let eligible = match task.node_id {
        Some(_) => nodes.index_of(task).map_or(0..0, |at| at..at + 1),
        None => 0..nodes.candidates().len(),
    };
    for index in eligible {
        match filter.check(&nodes.candidates()[index]) {
            Ok(()) => fitting.push(index),
            Err(verdict) => refusals[verdict as usize] += 1,
        }
    }
    preferred(nodes, task, fitting)
        .into_iter()
        .min_by_key(|index| rank(&nodes.candidates()[*index], failures, &task.service_id))
        .ok_or_else(|| Verdict::explain(&refusals))
}

fn preferences(task: &Task) -> &[engine::TaskSpecPlacementPreferences] {
    let placement = task.spec.placement.as_ref();
    placement
        .and_then(|p| p.preferences.as_deref())
        .unwrap_or_default()
}

/// Walks the tree of spread preferences: at each level only the branch (label value, a missing
/// label being one as well) with the fewest tasks of the service is followed.
fn preferred(nodes: &NodeSet<'_>, task: &Task, mut fitting: Vec<usize>) -> Vec<usize> {
    for preference in preferences(task) {
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
