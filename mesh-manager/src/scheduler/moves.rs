//! Which running tasks would do better on another node. Pure.

use super::{
    failures::Failures,
    filter::{Filter, fits_node},
    node_set::{NodeSet, weighs},
    preferences, preferred, rank,
};
use crate::state::{Node, State, Task};
use std::collections::HashMap;

/// Of a service's tasks, those that would be placed on another node today and leave the service more evenly spread, at most
/// `limit`, each with the id of that node. Nodes that `may_take` refuses get none. `now` is nanoseconds since the epoch.
pub(crate) fn moves<'a>(
    state: &'a State,
    service_id: &str,
    tasks: &[&'a Task],
    now: i64,
    limit: usize,
    may_take: &dyn Fn(&Node) -> bool,
) -> Vec<(&'a Task, &'a str)> {
    if !could_differ(state, service_id, tasks, may_take) {
        return Vec::new();
    }
    let mut nodes = NodeSet::build(state, now);
    let failures = Failures::count(state, service_id, now);
    let mut chosen = Vec::new();
    let mut left: Vec<&Task> = tasks.to_vec();
    while chosen.len() < limit {
        let better = left.iter().enumerate().find_map(|(at, task)| {
            let own = nodes.index_of(task)?;
            nodes.remove(own, task);
            let better = better_than(own, &nodes, state, &failures, task, may_take);
            nodes.assign(better.unwrap_or(own), task);
            Some((at, better?))
        });
        let Some((at, better)) = better else {
            break;
        };
        let node: &'a Node = nodes.candidates()[better].node;
        chosen.push((left.remove(at), node.id.as_str()));
    }
    chosen
}

/// Whether it is worth a look at each task: a node that takes some has two less than another, or branches matter. Looks at
/// the service's own tasks alone, as it is asked for each service whenever a node changes.
fn could_differ(
    state: &State,
    service_id: &str,
    tasks: &[&Task],
    may_take: &dyn Fn(&Node) -> bool,
) -> bool {
    let Some(task) = tasks.first() else {
        return false;
    };
    let mut counts: HashMap<&str, u64> = HashMap::new();
    for task in state.tasks_of_service(service_id).filter(|t| weighs(t)) {
        if let Some(node) = &task.node_id {
            *counts.entry(node).or_default() += 1;
        }
    }
    let count = |node: &Node| counts.get(node.id.as_str()).copied().unwrap_or(0);
    let takes = |node: &&Node| {
        node.takes_tasks() && may_take(node) && fits_node(task.spec.placement.as_ref(), node)
    };
    let most = counts.values().copied().max();
    let least = state.nodes().filter(takes).map(count).min();
    match (most, least) {
        (Some(most), Some(least)) => {
            most > least + 1 || most > least && !preferences(task).is_empty()
        }
        _ => false,
    }
}

/// A node that a task, which is not counted just now, had better be on than on its `own`.
fn better_than(
    own: usize,
    nodes: &NodeSet<'_>,
    state: &State,
    failures: &Failures<'_>,
    task: &Task,
    may_take: &dyn Fn(&Node) -> bool,
) -> Option<usize> {
    let filter = Filter::new(task, state);
    let fits = |index: &usize| {
        let candidate = &nodes.candidates()[*index];
        *index == own || filter.check(candidate).is_ok()
    };
    let fitting: Vec<usize> = (0..nodes.candidates().len()).filter(fits).collect();
    let best = preferred(nodes, task, fitting.clone())
        .into_iter()
        .filter(|index| *index == own || may_take(nodes.candidates()[*index].node))
        .min_by_key(|index| rank(&nodes.candidates()[*index], failures, &task.service_id))?;
    // Where the two part ways, the better one has to have less, even with the task: it would be moved back else.
    let mut alike = fitting;
    for preference in preferences(task) {
        let spread = preference.spread.as_ref();
        let Some(descriptor) = spread.and_then(|s| s.spread_descriptor.as_deref()) else {
            continue;
        };
        let label = |index: usize| nodes.candidates()[index].label(descriptor);
        let weight = |of: &str| -> u64 {
            let branch = alike.iter().filter(|index| label(**index) == of);
            branch
                .map(|index| nodes.candidates()[*index].tasks_of(&task.service_id))
                .sum()
        };
        let (from, to) = (label(own), label(best));
        if from != to {
            return (weight(&to) < weight(&from)).then_some(best);
        }
        alike.retain(|index| label(*index) == from);
    }
    let count = |index: usize| nodes.candidates()[index].tasks_of(&task.service_id);
    (best != own && count(best) < count(own)).then_some(best)
}
