//! The restart supervisor: replaces tasks that ended, became unhealthy or whose node is gone, and lets
//! replacements start in time.

use super::{
    Group, GroupKey, Inputs, Plan,
    constraints::{Fate, fate},
    node_reports, stop,
};
use crate::{
    Change, NewTask,
    state::{Service, State, Task, TaskState},
};
use mesh_api::engine::{TaskSpecRestartPolicy, TaskSpecRestartPolicyConditionEnum as Condition};

/// Default delay between a task's end and its replacement's start: 5 s in nanoseconds.
pub(super) const DEFAULT_DELAY: i64 = 5_000_000_000;
/// A replacement waits at most this long for the old task to stop: one minute.
const MAX_WAIT: i64 = 60_000_000_000;

fn policy(service: &Service) -> Option<&TaskSpecRestartPolicy> {
    service
        .spec
        .task_template
        .as_ref()
        .and_then(|t| t.restart_policy.as_ref())
}

/// Tasks that a group needs as history to count its restarts.
pub(super) fn history_needed(service: &Service) -> Option<usize> {
    let attempts = policy(service)
        .and_then(|p| p.max_attempts)
        .filter(|a| *a > 0)?;
    usize::try_from(attempts).ok()?.checked_add(1)
}

/// Whether the policy wants another task after `task`.
fn should_restart(service: &Service, group: &Group<'_>, task: &Task, now: i64) -> bool {
    let policy = policy(service);
    // An out-of-date task says nothing of the new spec.
    if task.spec_version != service.spec_version {
        return true;
    }
    let is_wanted = match policy.and_then(|p| p.condition) {
        Some(Condition::NONE) => false,
        Some(Condition::ON_FAILURE) => task.status.state != TaskState::Complete,
        // A job's task that has done its work would have to do it again.
        _ if task.has_done_its_job() => false,
        Some(Condition::ANY | Condition::EMPTY) | None => true,
    };
    let Some(attempts) = policy.and_then(|p| p.max_attempts).filter(|a| *a > 0) else {
        return is_wanted;
    };
    let window = policy.and_then(|p| p.window).unwrap_or(0);
    // A move is no restart: neither the task that was stopped for it, nor a try that came to nothing.
    let has_moved = |t: &Task| {
        let is_stopped = t.status.state == TaskState::Shutdown && !t.status.unhealthy;
        is_stopped || t.moved && t.running_since.is_none()
    };
    let counts = |t: &&&Task| {
        t.spec_version == service.spec_version && !t.has_lost_its_node() && !has_moved(t)
    };
    let made = group.live.iter().chain(&group.history).filter(counts);
    let mut made: Vec<i64> = made.map(|t| t.meta.created_at).collect();
    made.sort_unstable();
    // The first is no restart, however long ago it was.
    let restarts = made.into_iter().skip(1);
    let restarts = restarts.filter(|at| window <= 0 || now - at < window);
    is_wanted && i64::try_from(restarts.count()).is_ok_and(|restarts| restarts < attempts)
}

fn delay(service: &Service) -> i64 {
    policy(service)
        .and_then(|p| p.delay)
        .unwrap_or(DEFAULT_DELAY)
        .max(0)
}

/// When a replica may get another task of the current spec, should one have ended already; `None`: never.
pub(super) fn retry_at(service: &Service, group: &Group<'_>, inputs: &Inputs<'_>) -> Option<i64> {
    let tried = |t: &&&Task| t.spec_version == service.spec_version && t.status.state.is_terminal();
    let Some(last) = group.history.iter().rfind(tried) else {
        return Some(inputs.now);
    };
    should_restart(service, group, last, inputs.now).then(|| {
        inputs
            .at(last.meta.updated_at)
            .saturating_add(delay(service))
    })
}

/// When a waiting task may start. A time further off than the delay is of another clock.
fn start_of(service: &Service, task: &Task, inputs: &Inputs<'_>) -> i64 {
    let (start, delay) = (task.start_after.unwrap_or(0), delay(service));
    if start > inputs.now.saturating_add(delay) {
        inputs.leads_since.min(inputs.now).saturating_add(delay)
    } else {
        start
    }
}

/// Looks after one replica.
pub(super) fn plan(
    state: &State,
    service: &Service,
    group: &mut Group<'_>,
    inputs: &Inputs<'_>,
    plan: &mut Plan,
) {
    let now = inputs.now;
    let mut lost: Option<(&Task, bool)> = None;
    for task in &group.live {
        // It waits for a node by what was asked for before; once it is gone, its slot is filled.
        let is_pending = task.status.state == TaskState::Pending && task.node_id.is_none();
        if is_pending && task.spec.placement.as_ref() != service.placement() {
            stop::desire(task, TaskState::Remove, plan);
        }
        if task.status.state.is_terminal() {
            // It failed before its own delay was over, say while fetching its image: a new one
            // would fail as fast, so the delay is waited for first.
            let start = start_of(service, task, inputs);
            if task.desired == TaskState::Ready && now < start {
                plan.wake(start);
                return;
            }
            stop::desire(task, TaskState::Shutdown, plan);
            lost = Some((task, true));
        } else if let Fate::Lost(end) = fate(state, service, task) {
            stop::stop(state, task, end, plan);
            lost = Some((task, false));
        } else if task.status.unhealthy {
            stop::stop(state, task, TaskState::Shutdown, plan);
            lost = Some((task, true));
        }
    }
    let is_lost = |t: &Task| {
        let has_ended = t.status.state.is_terminal() || t.status.unhealthy;
        has_ended || fate(state, service, t) != Fate::Kept
    };
    let has_more = group.live.iter().any(|t| !is_lost(t));
    if let (Some((task, has_ended)), false) = (lost, has_more) {
        if should_restart(service, group, task, now) {
            let delay = if has_ended { delay(service) } else { 0 };
            plan.push(replacement(
                service,
                &group.key,
                TaskState::Ready,
                Some(now.saturating_add(delay)),
            ));
            group.is_refilled = true;
        } else {
            group.is_finished = true;
        }
        return;
    }
    if group.live.is_empty() {
        // The last task ended earlier and was not replaced: finished, unless the spec changed.
        if let Some(newest) = group.newest() {
            let has_ended = newest.status.state.is_terminal() || newest.status.unhealthy;
            // As it was decided when it ended: the window's end is no reason to begin again.
            let then = inputs.at(newest.meta.updated_at);
            group.is_finished = has_ended && !should_restart(service, group, newest, then);
        }
        return;
    }
    start_waiting(state, service, group, inputs, plan);
}

/// Another task for a replica. A `ready` one waits for its predecessor and its time.
pub(super) fn replacement(
    service: &Service,
    key: &GroupKey,
    desired: TaskState,
    start_after: Option<i64>,
) -> Change {
    let (slot, node_id) = match key {
        GroupKey::Slot(slot) => (*slot, None),
        GroupKey::Node(id) => (0, Some(id.clone())),
    };
    Change::CreateTask(NewTask {
        node_id,
        desired,
        start_after,
        ..NewTask::of(service, slot)
    })
}

/// Starts waiting tasks whose time has come and whose predecessor has stopped.
fn start_waiting(
    state: &State,
    service: &Service,
    group: &Group<'_>,
    inputs: &Inputs<'_>,
    plan: &mut Plan,
) {
    let now = inputs.now;
    for task in group.live.iter().filter(|t| t.desired == TaskState::Ready) {
        let start = start_of(service, task, inputs);
        if now < start {
            plan.wake(start);
            continue;
        }
        let limit = start
            .max(inputs.at(task.meta.created_at))
            .saturating_add(MAX_WAIT);
        let still_runs = group.history.iter().any(|old| {
            old.meta.created_at <= task.meta.created_at
                && !old.status.state.is_terminal()
                && old.status.state >= TaskState::Assigned
                && node_reports(state, old)
        });
        if !still_runs || now >= limit {
            plan.push(Change::Start {
                task_id: task.id.clone(),
            });
        } else {
            plan.wake(limit);
        }
    }
}
