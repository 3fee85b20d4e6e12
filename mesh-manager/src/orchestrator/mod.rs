//! What the leader decides: how many tasks there are, which are replaced, stopped and forgotten.
//!
//! [`plan`] is pure: the state and the time in, changes out. `driver` runs it. Everything is
//! level-triggered: a plan follows from the state alone, so that a new leader goes on where the
//! old one stopped, and a change that apply has skipped is planned again.

mod constraints;
mod deadline;
mod driver;
mod group;
mod jobs;
mod liveness;
mod reaper;
mod rebalance;
mod restart;
mod round;
mod stop;
mod update;

pub(crate) use driver::Driver;
pub(crate) use liveness::{Liveness, heartbeat_period};
pub(crate) use rebalance::LABEL as REBALANCE;
pub use rebalance::budget as rebalance_budget;

use crate::{
    Change, NewTask,
    config::Timings,
    state::{Node, NodeState, Service, ServiceMode, State, Task, TaskState},
};
use group::{Group, GroupKey};
use std::collections::HashSet;

/// New tasks of a replicated service in one plan, so that it takes no longer than silent nodes can wait to be looked for.
const MAX_NEW: u64 = 20_000;

/// What a plan depends on besides the state.
pub(crate) struct Inputs<'a> {
    /// Nanoseconds since the epoch.
    pub(crate) now: i64,
    /// When this manager began to lead, nanoseconds since the epoch.
    pub(crate) leads_since: i64,
    /// Reaction times.
    pub(crate) timings: &'a Timings,
    /// Whether every node that is not down has applied the state of this index, or has stood still for long.
    pub(crate) is_acknowledged: &'a dyn Fn(u64) -> bool,
}

impl Inputs<'_> {
    /// When something was that has this stamp. One that is later than now is of another leader's clock, or of this one's
    /// before it was set back: then it was when this manager began to lead.
    fn at(&self, stamp: i64) -> i64 {
        match stamp > self.now {
            true => self.leads_since.min(self.now),
            false => stamp,
        }
    }
}

/// Changes of one service, and when to look again without an event.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// To be proposed together: they make sense only so.
    pub(crate) changes: Vec<Change>,
    /// Each makes sense by itself, whether or not the others happen.
    pub(crate) apart: Vec<Change>,
    /// Nanoseconds since the epoch.
    pub(crate) wake_at: Option<i64>,
}

impl Plan {
    fn push(&mut self, change: Change) {
        self.changes.push(change);
    }

    fn push_apart(&mut self, change: Change) {
        self.apart.push(change);
    }

    fn wake(&mut self, at: i64) {
        self.wake_at = Some(self.wake_at.map_or(at, |w| w.min(at)));
    }
}

/// Plans one service; also one that was removed but has tasks left.
pub(crate) fn plan(state: &State, service_id: &str, inputs: &Inputs<'_>) -> Plan {
    let mut plan = Plan::default();
    stop::finish_drains(state, service_id, inputs, &mut plan);
    match state.service(service_id) {
        None => {
            for task in state.tasks_of_service(service_id).filter(|t| t.is_wanted()) {
                stop::stop(state, task, TaskState::Remove, &mut plan);
            }
            // Those that were told to stop are history of nothing; a drain that is under way is not cut short.
            for task in state.tasks_of_service(service_id) {
                if task.desired > TaskState::Running {
                    stop::desire(task, TaskState::Remove, &mut plan);
                }
            }
            // Nothing takes the place of what ends.
            plan.apart.append(&mut plan.changes);
        }
        Some(service) => {
            let mut groups = group::groups(state, service);
            let plan_groups = match service.mode() {
                ServiceMode::Replicated => plan_replicated,
                ServiceMode::ReplicatedJob => jobs::plan_replicated,
                ServiceMode::Global | ServiceMode::GlobalJob => plan_global,
            };
            plan_groups(state, service, &mut groups, inputs, &mut plan);
            if service.mode().is_job() {
                jobs::end_former(state, service, &mut plan);
            } else {
                update::plan(state, service, &groups, inputs, &mut plan);
            }
            if service.mode() == ServiceMode::Replicated {
                rebalance::plan(state, service, &groups, inputs, &mut plan);
            }
        }
    }
    reaper::plan(state, service_id, inputs, &mut plan);
    plan
}

fn plan_replicated(
    state: &State,
    service: &Service,
    groups: &mut [Group<'_>],
    inputs: &Inputs<'_>,
    plan: &mut Plan,
) {
    let wanted = service.replicas();
    let surplus = group::surplus(state, groups, wanted);
    for group in groups.iter_mut() {
        if surplus.contains(&group.key) {
            group.retire(state, plan);
        } else {
            restart::plan(state, service, group, inputs, plan);
        }
    }
    // Slots without a task: those past the wanted number were given up earlier.
    let occupied: HashSet<&GroupKey> = groups
        .iter()
        .filter(|g| g.is_occupied())
        .map(|g| &g.key)
        .collect();
    let missing = wanted.saturating_sub(occupied.len() as u64);
    // The new tasks mark the service: it is planned again, and gets the others.
    let mut missing = missing.min(MAX_NEW);
    let mut slot = 1;
    while missing > 0 {
        if !occupied.contains(&GroupKey::Slot(slot)) {
            plan.push_apart(Change::CreateTask(NewTask::of(service, slot)));
            missing -= 1;
        }
        slot += 1;
    }
}

fn plan_global(
    state: &State,
    service: &Service,
    groups: &mut [Group<'_>],
    inputs: &Inputs<'_>,
    plan: &mut Plan,
) {
    let fits = |node: &Node| crate::scheduler::fits_node(service.placement(), node);
    for group in groups.iter_mut() {
        let node = match &group.key {
            GroupKey::Node(id) => state.node(id),
            GroupKey::Slot(_) => None,
        };
        match node {
            // It is done with, whatever becomes of the node.
            Some(_) if group.is_complete => group.finish(state, plan),
            Some(node) if node.keeps_tasks() && fits(node) => {
                restart::plan(state, service, group, inputs, plan);
            }
            // A node that is down keeps its task on paper, told to stop when it comes back.
            Some(node) if node.state == NodeState::Down => group.shut_down(state, plan),
            Some(node) if node.keeps_tasks() => group.enforce(state, service, plan),
            // It may complete while it is given up, and is not to run again then.
            Some(_) if service.mode().is_job() => group.shut_down(state, plan),
            _ => group.retire(state, plan),
        }
    }
    let occupied: HashSet<&GroupKey> = groups
        .iter()
        .filter(|g| g.is_occupied())
        .map(|g| &g.key)
        .collect();
    for node in state.nodes().filter(|n| n.takes_tasks() && fits(n)) {
        if !occupied.contains(&GroupKey::Node(node.id.clone())) {
            plan.push_apart(Change::CreateTask(NewTask {
                node_id: Some(node.id.clone()),
                ..NewTask::of(service, 0)
            }));
        }
    }
}

/// Whether a task's node is known and not down: it will report the task's end.
fn node_reports(state: &State, task: &Task) -> bool {
    task.node_id
        .as_deref()
        .and_then(|id| state.node(id))
        .is_some_and(|n| n.state != NodeState::Down)
}

#[cfg(test)]
mod flapping_tests;
#[cfg(test)]
mod tests;
