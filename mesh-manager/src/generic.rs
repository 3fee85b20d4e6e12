//! Generic resources: what a node has left of them, and who has been given what. All of it follows from what the node says it
//! has and from its tasks; nothing is counted beside them. Pure.

use crate::state::{Node, State, Task};
use mesh_api::{
    engine,
    generic_resource::{Amount, GenericResources, reserved},
};
use std::collections::{BTreeMap, BTreeSet};

/// Tasks of a node that hold some, by task id.
fn holders<'a>(state: &'a State, node: &Node) -> impl Iterator<Item = &'a Task> {
    state
        .tasks_of_node(&node.id)
        .filter(|task| task.holds_resources() && !task.generic_resources.is_empty())
}

/// What a node has that no task of its holds. A task that holds what the node has no more, or has in the other manner, takes
/// nothing of what it has.
pub(crate) fn left(state: &State, node: &Node) -> GenericResources {
    let mut left = node.description.generic_resources.clone();
    if left.is_empty() {
        return left;
    }
    for task in holders(state, node) {
        for (kind, held) in &task.generic_resources {
            match (left.get_mut(kind), held) {
                (Some(Amount::Discrete(left)), Amount::Discrete(held)) => {
                    *left = left.saturating_sub(*held);
                }
                (Some(Amount::Named(left)), Amount::Named(held)) => {
                    left.retain(|name| !held.contains(name));
                }
                _ => {}
            }
        }
    }
    left
}

/// What a task is given on a node, of what that has left; `None` if there is not enough.
pub(crate) fn give(state: &State, node: &Node, task: &Task) -> Option<GenericResources> {
    let wanted = reserved(&task.spec);
    let mut given = GenericResources::new();
    if wanted.is_empty() {
        return Some(given);
    }
    let left = left(state, node);
    for (kind, number) in wanted {
        let amount = left.get(kind).filter(|left| number <= left.count())?;
        let amount = match amount {
            Amount::Discrete(_) => Amount::Discrete(number),
            Amount::Named(names) => {
                let number = usize::try_from(number).ok()?;
                Amount::Named(names.iter().take(number).cloned().collect())
            }
        };
        if number > 0 {
            given.insert(kind.to_owned(), amount);
        }
    }
    Some(given)
}

/// Whether a node, as it is now, has what a task of its holds, beside what those of its tasks hold that come first by id. A node
/// whose resources are as they were always has.
pub(crate) fn has_still(state: &State, node: &Node, task: &Task) -> bool {
    let has = |(kind, held): (&String, &Amount)| match (
        node.description.generic_resources.get(kind),
        held,
    ) {
        (Some(Amount::Named(names)), Amount::Named(held)) => held.is_subset(names),
        (Some(Amount::Discrete(number)), Amount::Discrete(_)) => {
            let mut left = *number;
            for other in holders(state, node) {
                let Some(Amount::Discrete(held)) = other.generic_resources.get(kind) else {
                    continue;
                };
                let fits = *held <= left;
                if other.id == task.id {
                    return fits;
                }
                left -= if fits { *held } else { 0 };
            }
            true
        }
        _ => false,
    };
    task.generic_resources.iter().all(has)
}

/// How many a node has left of each kind, kept up while tasks are placed in thought.
#[derive(Debug, Default)]
pub(crate) struct Left<'a>(BTreeMap<&'a str, u64>);

impl<'a> Left<'a> {
    pub(crate) fn of(state: &State, node: &'a Node) -> Self {
        let left = left(state, node);
        let kinds = node.description.generic_resources.keys();
        let count = |kind: &'a String| Some((kind.as_str(), left.get(kind)?.count()));
        Self(kinds.filter_map(count).collect())
    }

    /// Whether there is so much left; of kinds that the node does not have, there is not even nothing.
    pub(crate) fn has(&self, wanted: &BTreeMap<&str, u64>) -> bool {
        let has = |(kind, number): (&&str, &u64)| self.0.get(kind).is_some_and(|n| number <= n);
        wanted.iter().all(has)
    }

    /// A task is put here.
    pub(crate) fn take(&mut self, task: &Task) {
        self.change(task, u64::saturating_sub);
    }

    /// A task goes away.
    pub(crate) fn give_back(&mut self, task: &Task) {
        self.change(task, u64::saturating_add);
    }

    fn change(&mut self, task: &Task, change: impl Fn(u64, u64) -> u64) {
        if self.0.is_empty() {
            return;
        }
        for (kind, number) in weight(task) {
            if let Some(left) = self.0.get_mut(kind) {
                *left = change(*left, number);
            }
        }
    }
}

/// How many of each kind a task takes: what it was given, or, if it has no node yet, what it reserves. One that was placed when
/// nobody was given any takes none.
fn weight(task: &Task) -> BTreeMap<&str, u64> {
    match task.holds_resources() {
        true => {
            let given = task.generic_resources.iter();
            given.map(|(kind, n)| (kind.as_str(), n.count())).collect()
        }
        false => reserved(&task.spec),
    }
}

/// What is wrong with what a template reserves, in Swarm's words where it has any.
pub(crate) fn fault(template: &engine::TaskSpec) -> Option<String> {
    let mut kinds = BTreeSet::new();
    for resource in mesh_api::generic_resource::reservations(template) {
        let Some(discrete) = &resource.discrete_resource_spec else {
            let named = resource.named_resource_spec.as_ref();
            let kind = named.and_then(|named| named.kind.as_deref());
            return Some(format!(
                "invalid argument for resource {}",
                kind.unwrap_or_default()
            ));
        };
        let kind = discrete.kind.as_deref().unwrap_or_default();
        if kind.is_empty() || kind.contains(['=', '\0']) {
            return Some(format!("invalid kind of generic resource {kind:?}"));
        }
        if let Some(number) = discrete.value.filter(|number| *number < 0) {
            return Some(format!(
                "invalid generic resource {kind}={number}: Must not be negative"
            ));
        }
        if !kinds.insert(kind) {
            return Some(format!("generic resource {kind} is reserved twice"));
        }
    }
    None
}

#[cfg(test)]
#[path = "generic_tests.rs"]
mod tests;
