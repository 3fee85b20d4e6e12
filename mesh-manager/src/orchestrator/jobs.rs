//! Jobs: services whose tasks are to come to their end. Each change of one begins another iteration, in which a slot (a node, of
//! a global job) that has a completed task is done with. What fails is the restart supervisor's, as in other services.

use super::{
    Inputs, MAX_NEW, Plan,
    group::{Group, GroupKey},
    restart, stop,
};
use crate::{
    Change, NewTask,
    state::{Service, ServiceMode, State, TaskState},
};
use std::collections::BTreeSet;

/// Ends what is left of former iterations. As in Swarm, what a replicated job's tasks have come to remains, as history.
pub(super) fn end_former(state: &State, service: &Service, plan: &mut Plan) {
    let is_history = |is_over| is_over && service.mode() == ServiceMode::ReplicatedJob;
    for task in state.tasks_of_service(&service.id) {
        let is_former = task.job_iteration != service.iteration();
        if is_former && !is_history(task.status.state.is_terminal()) {
            stop::stop(state, task, TaskState::Remove, plan);
        }
    }
}

/// As many tasks at a time as may run, until as many slots as wanted are done with.
pub(super) fn plan_replicated(
    state: &State,
    service: &Service,
    groups: &mut [Group<'_>],
    inputs: &Inputs<'_>,
    plan: &mut Plan,
) {
    let mut busy = 0;
    let mut taken = BTreeSet::new();
    for group in groups.iter_mut() {
        let slot = match group.key {
            GroupKey::Slot(slot) if slot <= service.completions() => slot,
            // There are fewer of them than in the iteration before.
            _ => {
                group.retire(state, plan);
                continue;
            }
        };
        if group.is_complete {
            group.finish(state, plan);
        } else {
            restart::plan(state, service, group, inputs, plan);
        }
        if group.is_occupied() {
            taken.insert(slot);
            // One that has failed for good gives way to others.
            busy += u64::from(!group.is_complete && !group.is_finished);
        }
    }
    let free = (1..=service.completions()).filter(|slot| !taken.contains(slot));
    // The new tasks mark the service: it is planned again, and gets the others.
    let room = service.max_concurrent().saturating_sub(busy).min(MAX_NEW);
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    for slot in free.take(room) {
        plan.push_apart(Change::CreateTask(NewTask::of(service, slot)));
    }
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;
