//! Updates that stand still: no task of the new version has become running for as long as the service's label allows.

use super::{Group, Inputs, Plan, stop::nanos};
use crate::state::{Service, Task, TaskState};
use mesh_api::{deadline, human::go_duration};
use std::time::Duration;

/// Whether updates of `service` have a deadline.
pub(super) fn is_set(service: &Service) -> bool {
    of(service).is_some()
}

fn of(service: &Service) -> Option<Duration> {
    // Labels were checked when they came in.
    deadline::of(service.spec.labels.as_ref()).ok().flatten()
}

/// Why an update of `service` stands still, or `None`: it has no deadline, or has time left. Then it is looked at again when
/// that is over. Time does not count that the update itself lets pass: `pause`, in nanoseconds, after each start, and all before a
/// task that had run was lost, say while everything was monitored; nor that before this manager came to lead, when there may have
/// been none.
pub(super) fn cause(
    service: &Service,
    groups: &[&Group<'_>],
    pause: i64,
    inputs: &Inputs<'_>,
    plan: &mut Plan,
) -> Option<String> {
    let deadline = of(service)?;
    let is_new = |task: &&Task| task.spec_version == service.spec_version;
    let tasks = groups.iter().flat_map(|g| g.live.iter().chain(&g.history));
    let new: Vec<&Task> = tasks.copied().filter(is_new).collect();
    let begun = service.update.as_ref().map(|update| update.started_at);
    let ran = new.iter().filter(|task| task.running_since.is_some());
    let is_over = |task: &Task| task.status.state.is_terminal() || !task.is_wanted();
    let ends = ran.filter(|task| is_over(task)).map(|t| t.meta.updated_at);
    let starts = new.iter().filter_map(|task| task.running_since);
    let paused = starts.map(|stamp| inputs.at(stamp).saturating_add(pause));
    let others = ends.chain(begun).map(|stamp| inputs.at(stamp));
    let last = paused.chain(others).chain([inputs.leads_since]).max()?;
    let until = last.saturating_add(nanos(deadline));
    if inputs.now < until {
        plan.wake(until);
        return None;
    }
    let what = culprit(&new).unwrap_or_else(|| "none has been made".to_owned());
    Some(format!(
        "no task of the new version has become running for {}: {what}",
        go_duration(deadline)
    ))
}

/// The newest task that does not run, its state, and the last error of its replica.
fn culprit(new: &[&Task]) -> Option<String> {
    let age = |task: &&&Task| (task.meta.created_at, task.id.clone());
    let idle = new.iter().filter(|t| t.status.state != TaskState::Running);
    let newest = idle.max_by_key(age)?;
    let (name, state) = (newest.short_name(), newest.status.state);
    let replica = new.iter().filter(|task| task.short_name() == name);
    let failed = replica.filter(|task| !task.status.error.is_empty());
    Some(match failed.max_by_key(age) {
        None => format!("{name} is {state}"),
        Some(task) if task.id == newest.id => format!("{name} is {state}: {}", task.status.error),
        Some(task) => format!(
            "{name} is {state}, the one before it was {}: {}",
            task.status.state, task.status.error
        ),
    })
}

#[cfg(test)]
#[path = "deadline_tests.rs"]
mod tests;
