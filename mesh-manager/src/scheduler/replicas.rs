//! Many tasks that are alike: the nodes are looked at and ordered once, and placing one more costs the logarithm of their
//! number.

use super::{Failures, Filter, NodeSet, Rank, Verdict, preferences, rank};
use crate::state::{State, Task};
use std::{cmp::Reverse, collections::BinaryHeap};

/// Where the next task of a service goes.
#[derive(Debug)]
pub(super) struct Replicas<'a, 'f> {
    filter: Filter<'f>,
    failures: &'f Failures<'f>,
    /// The nodes that fitted when they were last looked at, with their index in the [`NodeSet`].
    queue: BinaryHeap<Reverse<(Rank<'a>, usize)>>,
    refusals: [usize; Verdict::COUNT],
}

impl<'a, 'f> Replicas<'a, 'f> {
    /// For tasks like this one; `None` if each of them has to be looked at by itself: it knows its node, or what it prefers
    /// depends on all nodes.
    pub(super) fn of(
        task: &'f Task,
        failures: &'f Failures<'f>,
        nodes: &NodeSet<'a>,
        state: &State,
    ) -> Option<Self> {
        if task.node_id.is_some() || !preferences(task).is_empty() {
            return None;
        }
        let mut replicas = Self {
            filter: Filter::new(task, state),
            failures,
            queue: BinaryHeap::with_capacity(nodes.candidates().len()),
            refusals: [0; Verdict::COUNT],
        };
        for index in 0..nodes.candidates().len() {
            replicas.look_at(nodes, index, &task.service_id);
        }
        Some(replicas)
    }

    /// Puts a task on the best node; the node's id, or why there is none.
    pub(super) fn place(&mut self, nodes: &mut NodeSet<'a>, task: &Task) -> Result<String, String> {
        // Only what is placed here changes the nodes meanwhile: those in the queue still fit.
        let Some(Reverse((_, index))) = self.queue.pop() else {
            return Err(Verdict::explain(&self.refusals));
        };
        let node_id = nodes.assign(index, task);
        self.look_at(nodes, index, &task.service_id);
        Ok(node_id)
    }

    /// Whether one more of the tasks fits on a node, and how well.
    fn look_at(&mut self, nodes: &NodeSet<'a>, index: usize, service_id: &str) {
        let candidate = &nodes.candidates()[index];
        match self.filter.check(candidate) {
            Ok(()) => {
                let rank = rank(candidate, self.failures, service_id);
                self.queue.push(Reverse((rank, index)));
            }
            Err(verdict) => self.refusals[verdict as usize] += 1,
        }
    }
}
