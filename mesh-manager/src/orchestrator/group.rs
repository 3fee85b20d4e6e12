//! The tasks that stand for one replica: those of a slot, or of a node for a global service.

use super::{
    Plan,
    constraints::{Fate, fate},
    stop,
};
use crate::state::{Service, State, Task, TaskState};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// What a group is named by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum GroupKey {
    /// Slot of a replicated service.
    Slot(u64),
    /// Node of a global service.
    Node(String),
}

impl GroupKey {
    /// Where a task belongs.
    pub(super) fn of(task: &Task) -> Self {
        match (&task.node_id, task.slot) {
            (Some(node), 0) => Self::Node(node.clone()),
            (_, slot) => Self::Slot(slot),
        }
    }
}

/// One replica's tasks.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) key: GroupKey,
    /// Wanted tasks, oldest first.
    pub(super) live: Vec<&'a Task>,
    /// Those that were shut down or are on their way, oldest first.
    pub(super) history: Vec<&'a Task>,
    /// It is a job's, and one of its tasks has done its work.
    pub(super) is_complete: bool,
    /// Nothing runs and nothing shall, by the restart policy.
    pub(super) is_finished: bool,
    /// A replacement is planned in this very round.
    pub(super) is_refilled: bool,
    /// Its live tasks are given up in this very round.
    pub(super) is_retired: bool,
}

impl<'a> Group<'a> {
    /// Whether the replica needs no new task.
    pub(super) fn is_occupied(&self) -> bool {
        let has_tasks = !self.live.is_empty() || self.is_refilled;
        !self.is_retired && (has_tasks || self.is_finished || self.is_complete)
    }

    /// All that there are of it.
    pub(super) fn tasks(&self) -> impl Iterator<Item = &'a Task> {
        self.live.iter().chain(&self.history).copied()
    }

    /// The newest task of all.
    pub(super) fn newest(&self) -> Option<&'a Task> {
        self.tasks().max_by_key(|t| (t.meta.created_at, &t.id))
    }

    /// Removes the replica: its tasks stop and leave no history.
    pub(super) fn retire(&mut self, state: &State, plan: &mut Plan) {
        self.is_retired = true;
        for task in &self.live {
            stop::stop(state, task, TaskState::Remove, plan);
        }
        for task in &self.history {
            // One that still drains is told to stop first.
            if task.desired > TaskState::Running || task.status.state.is_terminal() {
                stop::desire(task, TaskState::Remove, plan);
            }
        }
    }

    /// Stops what was to do the work that is done: one task may have taken the place of another that was thought lost.
    pub(super) fn finish(&mut self, state: &State, plan: &mut Plan) {
        let left = self.live.iter().filter(|t| !t.status.state.is_terminal());
        for task in left {
            stop::stop(state, task, TaskState::Remove, plan);
        }
    }

    /// Stops what its node does not keep; its history stays.
    pub(super) fn enforce(&mut self, state: &State, service: &Service, plan: &mut Plan) {
        self.is_retired = true;
        for task in &self.live {
            if let Fate::Lost(end) = fate(state, service, task) {
                stop::stop(state, task, end, plan);
            }
        }
    }

    /// Stops the replica, its history stays.
    pub(super) fn shut_down(&mut self, state: &State, plan: &mut Plan) {
        self.is_retired = true;
        for task in &self.live {
            stop::stop(state, task, TaskState::Shutdown, plan);
        }
    }
}

/// The groups of a service. Tasks that are to be removed belong to none, and neither do those of a job's former iterations.
pub(super) fn groups<'a>(state: &'a State, service: &Service) -> Vec<Group<'a>> {
    let mut groups: BTreeMap<GroupKey, Group<'a>> = BTreeMap::new();
    let mut tasks: Vec<&Task> = state.tasks_of_service(&service.id).collect();
    tasks.sort_by_key(|t| (t.meta.created_at, &t.id));
    for task in tasks {
        let is_former = task.job_iteration != service.iteration();
        let is_leaving =
            task.desired == TaskState::Remove || task.drain_to == Some(TaskState::Remove);
        if is_former || is_leaving {
            continue;
        }
        let key = GroupKey::of(task);
        let group = groups.entry(key.clone()).or_insert_with(|| Group {
            key,
            live: Vec::new(),
            history: Vec::new(),
            is_complete: false,
            is_finished: false,
            is_refilled: false,
            is_retired: false,
        });
        group.is_complete |= task.has_done_its_job();
        if task.is_wanted() {
            group.live.push(task);
        } else {
            group.history.push(task);
        }
    }
    groups.into_values().collect()
}

/// The node of a group's newest live task.
fn node_of<'a>(group: &Group<'a>) -> Option<&'a str> {
    let task: &'a Task = group.live.last().copied()?;
    task.node_id.as_deref()
}

/// The groups to give up so that `wanted` are left: those without a live task first, then those not running,
/// then those on the nodes with most tasks of the service, then the highest slots.
pub(super) fn surplus(state: &State, groups: &[Group<'_>], wanted: u64) -> BTreeSet<GroupKey> {
    let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
    let Some(excess) = groups.len().checked_sub(wanted).filter(|e| *e > 0) else {
        return BTreeSet::new();
    };
    let mut per_node: BTreeMap<&str, usize> = BTreeMap::new();
    for group in groups {
        if let Some(node) = node_of(group) {
            *per_node.entry(node).or_default() += 1;
        }
    }
    let runs = |group: &Group<'_>| {
        group
            .live
            .iter()
            .any(|t| t.status.state == TaskState::Running && super::node_reports(state, t))
    };
    let load = |per_node: &BTreeMap<&str, usize>, group: &Group<'_>| {
        let load = node_of(group).and_then(|node| per_node.get(node));
        load.copied().unwrap_or(0)
    };
    let mut left: BinaryHeap<_> = groups
        .iter()
        .enumerate()
        .map(|(at, group)| {
            let load = load(&per_node, group);
            (group.live.is_empty(), !runs(group), load, &group.key, at)
        })
        .collect();
    let mut chosen = BTreeSet::new();
    while chosen.len() < excess {
        let Some((is_empty, is_idle, ranked, key, at)) = left.pop() else {
            break;
        };
        // Loads only fall: one that fell since takes its new place.
        let now = load(&per_node, &groups[at]);
        if now < ranked {
            left.push((is_empty, is_idle, now, key, at));
            continue;
        }
        if let Some(count) = node_of(&groups[at]).and_then(|n| per_node.get_mut(n)) {
            *count -= 1;
        }
        chosen.insert(key.clone());
    }
    chosen
}
