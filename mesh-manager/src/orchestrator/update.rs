//! Rolling updates: replaces out-of-date tasks, a few at a time, and watches how the new ones do.

use super::{Group, Inputs, Plan, deadline, restart, stop};
use crate::{
    Change,
    state::{Service, State, Task, TaskState},
};
use mesh_api::engine::{
    ServiceSpecRollbackConfigFailureActionEnum as RollbackAction,
    ServiceSpecRollbackConfigOrderEnum as RollbackOrder,
    ServiceSpecUpdateConfigFailureActionEnum as UpdateAction,
    ServiceSpecUpdateConfigOrderEnum as UpdateOrder, ServiceUpdateStatusStateEnum as Status,
};

/// A new task that ends within this time fails the update: 5 s in nanoseconds.
const DEFAULT_MONITOR: i64 = 5_000_000_000;

/// What to do when too many new tasks fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Pause,
    Continue,
    Rollback,
}

/// The settings of an update or of a rollback.
#[derive(Debug, Clone, Copy)]
struct Settings {
    /// 0: all at once.
    parallelism: usize,
    delay: i64,
    monitor: i64,
    ratio: f64,
    start_first: bool,
    action: Action,
}

impl Settings {
    fn of(service: &Service, is_rollback: bool) -> Self {
        let count = |p: Option<i64>| p.map_or(1, |p| usize::try_from(p).unwrap_or(1));
        let monitor = |m: Option<i64>| m.filter(|m| *m > 0).unwrap_or(DEFAULT_MONITOR);
        if is_rollback {
            let config = service.spec.rollback_config.clone().unwrap_or_default();
            return Self {
                parallelism: count(config.parallelism),
                delay: config.delay.unwrap_or(0),
                monitor: monitor(config.monitor),
                ratio: config.max_failure_ratio.unwrap_or(0.0),
                start_first: config.order == Some(RollbackOrder::START_FIRST),
                action: match config.failure_action {
                    Some(RollbackAction::CONTINUE) => Action::Continue,
                    _ => Action::Pause,
                },
            };
        }
        let config = service.spec.update_config.clone().unwrap_or_default();
        Self {
            parallelism: count(config.parallelism),
            delay: config.delay.unwrap_or(0),
            monitor: monitor(config.monitor),
            ratio: config.max_failure_ratio.unwrap_or(0.0),
            start_first: config.order == Some(UpdateOrder::START_FIRST),
            action: match config.failure_action {
                Some(UpdateAction::CONTINUE) => Action::Continue,
                Some(UpdateAction::ROLLBACK) => Action::Rollback,
                _ => Action::Pause,
            },
        }
    }
}

/// Whether tasks are being replaced, forwards or back.
pub(super) fn is_running(service: &Service) -> bool {
    let status = service.update.as_ref().map(|update| update.state);
    matches!(status, Some(Status::UPDATING | Status::ROLLBACK_STARTED))
}

pub(super) fn plan(
    state: &State,
    service: &Service,
    groups: &[Group<'_>],
    inputs: &Inputs<'_>,
    plan: &mut Plan,
) {
    let status = service.update.as_ref().map(|u| u.state);
    if matches!(status, Some(Status::PAUSED | Status::ROLLBACK_PAUSED)) {
        // What was begun before comes to its end: one task a replica.
        for group in groups.iter().filter(|g| !g.is_retired) {
            if newest_that_serves(service, group).is_some() {
                give_way(state, service, group, plan);
            }
        }
        return;
    }
    let is_rollback = status == Some(Status::ROLLBACK_STARTED);
    let settings = Settings::of(service, is_rollback);
    let groups: Vec<&Group<'_>> = groups.iter().filter(|g| !g.is_retired).collect();
    let first_failure = |group: &Group<'_>| {
        let failed = group
            .tasks()
            .filter(|task| failed_early(service, settings, inputs, task));
        failed.map(|task| inputs.at(task.meta.updated_at)).min()
    };
    let is_running = is_running(service);
    if is_running && has_failed(service, &groups, settings, inputs) {
        let reason = "failure or early termination of task";
        plan.push(failure(service, is_rollback, settings.action, reason));
        return;
    }

    let (mut in_progress, mut retried) = (0, 0);
    let (mut latest_start, mut latest_turn) = (i64::MIN, i64::MIN);
    // Those without a task that is up to date, and whether one has failed.
    let mut dirty: Vec<(bool, &Group<'_>)> = Vec::new();
    for group in &groups {
        // What failed here is tolerated: the restart policy goes on with that replica, and the update with the others. The delay
        // is counted from the first failure: later ones are no steps of the update.
        let failed = first_failure(group);
        let had_its_turn = failed.is_some();
        latest_turn = latest_turn.max(failed.unwrap_or(i64::MIN));
        if group.is_refilled {
            match had_its_turn {
                true => retried += 1,
                false => in_progress += 1,
            }
            continue;
        }
        let has_clean = group.live.iter().any(|t| !is_dirty(service, t));
        let has_dirty = group.live.iter().any(|t| is_dirty(service, t));
        if let Some(task) = newest_that_serves(service, group) {
            give_way(state, service, group, plan);
            if !had_its_turn {
                let since = inputs.at(task.running_since.unwrap_or(inputs.now));
                latest_start = latest_start.max(since);
            }
            // A predecessor that is on its way out still counts: never fewer than wanted.
            in_progress += usize::from(has_dirty);
        } else if has_clean {
            // The task that it is to replace would make one more than the settings allow.
            match !has_dirty && had_its_turn {
                true => retried += 1,
                false => in_progress += 1,
            }
        } else if has_dirty {
            keep_one(state, group, plan);
            dirty.push((had_its_turn, group));
        }
    }
    // With a deadline, the last ones have to run by then.
    let is_awaited = in_progress > 0 || retried > 0 && deadline::is_set(service);
    if dirty.is_empty() && (!is_awaited || !is_running) {
        if is_running {
            complete(service, is_rollback, latest_start, settings, inputs, plan);
        }
        return;
    }
    // What was lost is told as lost only once what takes its place is there.
    if is_running && !groups.iter().any(|group| group.is_refilled) {
        let pause = if dirty.is_empty() { 0 } else { settings.delay };
        let cause = deadline::cause(service, &groups, pause, inputs, plan);
        match (settings.action, cause) {
            (Action::Continue, cause) => plan.changes.extend(goes_on(service, cause.as_deref())),
            (_, None) => {}
            (action, Some(cause)) => {
                let reason = format!("lack of progress: {cause}");
                plan.push(failure(service, is_rollback, action, &reason));
                return;
            }
        }
    }
    let latest_turn = latest_turn.max(latest_start);
    if settings.delay > 0 && latest_turn > i64::MIN {
        let next = latest_turn.saturating_add(settings.delay);
        if inputs.now < next {
            plan.wake(next);
            return;
        }
    }
    let mut room = match settings.parallelism {
        0 => dirty.len(),
        parallelism => parallelism.saturating_sub(in_progress),
    };
    dirty.sort_by_key(|(had_its_turn, _)| *had_its_turn);
    for (_, group) in dirty {
        if room == 0 {
            break;
        }
        if settings.start_first {
            match restart::retry_at(service, group, inputs) {
                Some(at) if inputs.now < at => {
                    plan.wake(at);
                    continue;
                }
                Some(_) => {}
                None => continue,
            }
            let running = TaskState::Running;
            plan.push(restart::replacement(service, &group.key, running, None));
        } else {
            for old in &group.live {
                stop::stop(state, old, TaskState::Shutdown, plan);
            }
            let ready = TaskState::Ready;
            plan.push(restart::replacement(service, &group.key, ready, None));
        }
        room -= 1;
    }
}

/// Whether a task is out of date.
fn is_dirty(service: &Service, task: &Task) -> bool {
    task.spec_version != service.spec_version
}

/// The newest task that is up to date, if it serves.
fn newest_that_serves<'a>(service: &Service, group: &Group<'a>) -> Option<&'a Task> {
    let newest = group.live.iter().rfind(|t| !is_dirty(service, t))?;
    let serves = newest.status.state == TaskState::Running && !newest.status.unhealthy;
    serves.then_some(newest)
}

/// Lets those go that are out of date, as a new one serves.
fn give_way(state: &State, service: &Service, group: &Group<'_>, plan: &mut Plan) {
    for old in group.live.iter().filter(|t| is_dirty(service, t)) {
        stop::stop(state, old, TaskState::Shutdown, plan);
    }
}

/// Of several tasks that are out of date, because an update was overtaken by the next one, one goes on until it is replaced.
fn keep_one(state: &State, group: &Group<'_>, plan: &mut Plan) {
    let serves = |task: &&&Task| task.status.state == TaskState::Running && !task.status.unhealthy;
    let kept = group.live.iter().find(serves).or(group.live.first());
    for task in &group.live {
        if kept.is_some_and(|kept| kept.id != task.id) {
            stop::stop(state, task, TaskState::Shutdown, plan);
        }
    }
}

/// When the update began, or was tried again; nanoseconds since the epoch.
fn begun(service: &Service, inputs: &Inputs<'_>) -> i64 {
    let update = service.update.as_ref();
    update.map_or(0, |update| inputs.at(update.started_at))
}

/// Whether it is a new task that ended within the monitor period of these settings. What failed before a paused update was
/// tried again does not count.
fn failed_early(service: &Service, settings: Settings, inputs: &Inputs<'_>, task: &Task) -> bool {
    let ended = task.meta.updated_at;
    task.spec_version == service.spec_version
        && ended >= begun(service, inputs)
        && matches!(
            task.status.state,
            TaskState::Failed | TaskState::Rejected | TaskState::Complete
        )
        && task
            .running_since
            .is_none_or(|since| ended - since < settings.monitor)
}

/// Whether more new tasks failed within the monitor period than is allowed, of the replicas that had to be replaced.
fn has_failed(
    service: &Service,
    groups: &[&Group<'_>],
    settings: Settings,
    inputs: &Inputs<'_>,
) -> bool {
    if settings.action == Action::Continue {
        return false;
    }
    let since = begun(service, inputs);
    // One that was out of date when the update began, or when it was tried again. What was replaced stays in the history as
    // long as the update goes on, unless tasks of its slot have failed since: such a slot counts anyway.
    let was_dirty = |task: &Task, is_live: bool| {
        task.spec_version != service.spec_version && (is_live || task.meta.updated_at >= since)
    };
    let (mut failures, mut dirty) = (0_u32, 0_u32);
    for group in groups {
        let has_failed = group
            .tasks()
            .any(|task| failed_early(service, settings, inputs, task));
        let is_dirty = group.live.iter().any(|t| was_dirty(t, true))
            || group.history.iter().any(|t| was_dirty(t, false));
        failures += u32::from(has_failed);
        dirty += u32::from(has_failed || is_dirty);
    }
    failures > 0 && f64::from(failures) / f64::from(dirty) > settings.ratio
}

/// What is done about an update that does not come off for this reason.
fn failure(service: &Service, is_rollback: bool, action: Action, reason: &str) -> Change {
    let paused = format!("update paused due to {reason}");
    match action {
        Action::Rollback if !is_rollback && service.previous_spec.is_some() => Change::Rollback {
            service_id: service.id.clone(),
            spec_version: service.spec_version,
            message: format!("update rolled back due to {reason}"),
        },
        _ if is_rollback => told(
            service,
            Status::ROLLBACK_PAUSED,
            format!("rollback {paused}"),
        ),
        _ => told(service, Status::PAUSED, paused),
    }
}

/// Says that an update stands still that is to go on whatever happens, or does so no more, if that is news.
fn goes_on(service: &Service, cause: Option<&str>) -> Option<Change> {
    let update = service.update.as_ref()?;
    let what = match update.state {
        Status::ROLLBACK_STARTED => "rollback",
        _ => "update",
    };
    let stalled = format!("{what} goes on despite lack of progress: ");
    let is_told = update.message.starts_with(&stalled);
    let message = match cause {
        // The first cause stays: with each new one the service would have another version, and nobody could change it.
        Some(cause) if !is_told => format!("{stalled}{cause}"),
        None if is_told => format!("{what} in progress"),
        _ => return None,
    };
    Some(told(service, update.state, message))
}

/// Another state of the update, or only another message.
fn told(service: &Service, state: Status, message: String) -> Change {
    Change::UpdateStatus {
        service_id: service.id.clone(),
        spec_version: service.spec_version,
        state,
        message,
    }
}

fn complete(
    service: &Service,
    is_rollback: bool,
    latest_start: i64,
    settings: Settings,
    inputs: &Inputs<'_>,
    plan: &mut Plan,
) {
    // The last ones have to prove themselves as well; so have those that were left as they are.
    let update = service.update.as_ref();
    let since = update.map_or(i64::MIN, |update| inputs.at(update.started_at));
    let proven = latest_start.max(since).saturating_add(settings.monitor);
    if inputs.now < proven {
        plan.wake(proven);
        return;
    }
    let (state, message) = if is_rollback {
        (Status::ROLLBACK_COMPLETED, "rollback completed")
    } else {
        (Status::COMPLETED, "update completed")
    };
    plan.push(told(service, state, message.to_owned()));
}

#[cfg(test)]
#[path = "update_tests.rs"]
mod tests;
