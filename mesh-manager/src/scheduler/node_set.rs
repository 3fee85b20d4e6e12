//! The nodes with what runs on them, kept up while a batch of tasks is placed.

use super::{constraint, filter::Reserved};
use crate::{
    generic::Left,
    state::{Node, Protocol, State, Task, TaskState},
};
use std::collections::{BTreeMap, BTreeSet};

/// A node and its load.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    pub(super) node: &'a Node,
    /// It comes and goes, and is held back.
    pub(super) is_held: bool,
    /// Tasks in all that have not ended.
    pub(super) tasks: u64,
    pub(super) reserved: Reserved,
    pub(super) generic: Left<'a>,
    pub(super) host_ports: BTreeSet<(Protocol, u16)>,
    by_service: BTreeMap<String, u64>,
}

impl Candidate<'_> {
    /// Tasks of a service that have not ended.
    pub(super) fn tasks_of(&self, service_id: &str) -> u64 {
        self.by_service.get(service_id).copied().unwrap_or(0)
    }

    /// The value of a spread descriptor; the empty string when the label is missing.
    pub(super) fn label(&self, descriptor: &str) -> String {
        constraint::label(self.node, descriptor).unwrap_or_default()
    }

    /// A task is put here.
    fn add(&mut self, task: &Task) {
        self.generic.take(task);
        self.count(task);
    }

    /// Counts a task, but for its generic resources.
    fn count(&mut self, task: &Task) {
        self.tasks += 1;
        *self.by_service.entry(task.service_id.clone()).or_default() += 1;
        let reserved = Reserved::of(task);
        self.reserved.nano_cpus += reserved.nano_cpus;
        self.reserved.memory_bytes += reserved.memory_bytes;
        self.host_ports
            .extend(task.host_ports.iter().map(|p| (p.protocol, p.published)));
    }

    fn remove(&mut self, task: &Task) {
        self.generic.give_back(task);
        self.tasks -= 1;
        if let Some(count) = self.by_service.get_mut(&task.service_id) {
            *count -= 1;
        }
        let reserved = Reserved::of(task);
        self.reserved.nano_cpus -= reserved.nano_cpus;
        self.reserved.memory_bytes -= reserved.memory_bytes;
        for port in &task.host_ports {
            self.host_ports.remove(&(port.protocol, port.published));
        }
    }
}

/// Whether a task counts for its node. One that is told to stop still holds its resources, but what it leaves behind must not
/// push its replacement away.
pub(super) fn weighs(task: &Task) -> bool {
    let state = task.status.state;
    !state.is_terminal() && state >= TaskState::Assigned && task.is_wanted()
}

/// Every node, ordered by id.
#[derive(Debug)]
pub(super) struct NodeSet<'a> {
    candidates: Vec<Candidate<'a>>,
}

impl<'a> NodeSet<'a> {
    /// Those that are held back `now`, nanoseconds since the epoch, are marked.
    pub(super) fn build(state: &'a State, now: i64) -> Self {
        let holds = state.holds(now);
        let candidate = |node: &'a Node| {
            let mut candidate = Candidate {
                node,
                is_held: holds.until(&node.id).is_some(),
                tasks: 0,
                reserved: Reserved::default(),
                generic: Left::of(state, node),
                host_ports: BTreeSet::new(),
                by_service: BTreeMap::new(),
            };
            state
                .tasks_of_node(&node.id)
                .filter(|t| weighs(t))
                .for_each(|t| candidate.count(t));
            candidate
        };
        Self {
            candidates: state.nodes().map(candidate).collect(),
        }
    }

    pub(super) fn candidates(&self) -> &[Candidate<'a>] {
        &self.candidates
    }

    /// The node that a task is on.
    pub(super) fn index_of(&self, task: &Task) -> Option<usize> {
        let id = task.node_id.as_deref()?;
        self.candidates
            .binary_search_by(|c| c.node.id.as_str().cmp(id))
            .ok()
    }

    /// Counts a task on a node no more.
    pub(super) fn remove(&mut self, index: usize, task: &Task) {
        self.candidates[index].remove(task);
    }

    /// Counts a task on a node; returns the node's id.
    pub(super) fn assign(&mut self, index: usize, task: &Task) -> String {
        let candidate = &mut self.candidates[index];
        candidate.add(task);
        candidate.node.id.clone()
    }
}
