//! How far a job is: what of its present iteration has completed, and what is on its way.

use std::collections::BTreeMap;

use mesh_api::engine::{Service, ServiceSpecModeReplicatedJob, Task, TaskState};

use super::{Bar, MAX_BARS, Picture, failure, state};
use crate::view::created_at;

/// What is told of a job besides what has completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Active {
    /// Global: it has no tasks yet.
    Awaited,
    /// Global: all its tasks are under way at once.
    All,
    /// Replicated: so many tasks are under way, out of so many.
    Some(usize, usize),
    /// What is left has failed, and is not tried again.
    GivenUp,
}

/// The tasks of a job's iteration by what stands for them: of several, the one that has completed, or else the newest.
fn current<K: Ord>(
    service: &Service,
    tasks: &[Task],
    key: impl Fn(&Task) -> K,
) -> BTreeMap<K, Task> {
    let iteration = |of: Option<&mesh_api::engine::ObjectVersion>| of.and_then(|v| v.index);
    let status = service.job_status.as_ref();
    let now = iteration(status.and_then(|job| job.job_iteration.as_ref()));
    let rank = |task: &Task| (state(task) == TaskState::COMPLETE, created_at(task));
    let mut current: BTreeMap<K, Task> = BTreeMap::new();
    for task in tasks {
        if iteration(task.job_iteration.as_ref()) != now {
            continue;
        }
        let entry = current.entry(key(task)).or_insert_with(|| task.clone());
        if rank(entry) < rank(task) {
            *entry = task.clone();
        }
    }
    current
}

fn bar(name: String, task: Option<&Task>) -> Bar {
    Bar {
        name,
        state: task.map_or(TaskState::NEW, state),
        error: task.map(failure).unwrap_or_default(),
    }
}

/// Whether a task has failed and none takes its place: that would be made in the same moment as this one is given up.
fn is_given_up(task: &Task) -> bool {
    matches!(state(task), TaskState::FAILED | TaskState::REJECTED)
        && task.desired_state == Some(TaskState::SHUTDOWN)
}

fn completed<'a>(tasks: impl Iterator<Item = &'a Task>) -> usize {
    tasks
        .filter(|task| state(task) == TaskState::COMPLETE)
        .count()
}

/// Of a replicated job.
pub(super) fn replicated(
    service: &Service,
    job: &ServiceSpecModeReplicatedJob,
    tasks: &[Task],
) -> Picture {
    let count = |number: Option<i64>| usize::try_from(number.unwrap_or(1)).unwrap_or(0);
    let wanted = count(job.total_completions);
    // The first slot is number 0, which is left out.
    let slots = current(service, tasks, |task| {
        usize::try_from(task.slot.unwrap_or(0)).unwrap_or(0)
    });
    let done = completed(slots.values());
    let active = slots.values().filter(|task| is_active(task)).count();
    let given_up = slots.values().filter(|task| is_given_up(task)).count();
    let at_once = count(job.max_concurrent).min(wanted.saturating_sub(done));
    let numbers = (0..wanted).filter(|_| wanted <= MAX_BARS);
    Picture {
        done,
        wanted,
        bars: numbers
            .map(|slot| bar(format!("{}/{wanted}", slot + 1), slots.get(&slot)))
            .collect(),
        job: Some(match given_up > 0 && done + given_up == wanted {
            true => Active::GivenUp,
            false => Active::Some(active, at_once),
        }),
    }
}

fn is_active(task: &Task) -> bool {
    let state = state(task);
    state == TaskState::RUNNING || super::place(state).1 < super::GOAL
}

/// Of a global job: of the nodes that it has tasks on.
pub(super) fn global(service: &Service, tasks: &[Task]) -> Picture {
    let nodes = current(service, tasks, |task| {
        task.node_id.clone().unwrap_or_default()
    });
    let bars = nodes.iter().filter(|_| nodes.len() <= MAX_BARS);
    let done = completed(nodes.values());
    let given_up = nodes.values().filter(|task| is_given_up(task)).count();
    Picture {
        done,
        // They are not there at once.
        wanted: nodes.len().max(1),
        bars: bars
            .map(|(node, task)| bar(node.chars().take(12).collect(), Some(task)))
            .collect(),
        job: Some(if nodes.is_empty() {
            Active::Awaited
        } else if given_up > 0 && done + given_up == nodes.len() {
            Active::GivenUp
        } else {
            Active::All
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(mode: Value) -> Service {
        let json = json!({"Spec": {"Mode": mode}, "JobStatus": {"JobIteration": {"Index": 2}}});
        serde_json::from_value(json).expect("service")
    }

    fn task(slot: i64, node: &str, iteration: u64, state: &str, second: u64) -> Task {
        serde_json::from_value(json!({
            "ID": "t", "Slot": slot, "NodeID": node, "JobIteration": {"Index": iteration},
            "CreatedAt": format!("2026-01-01T00:00:0{second}Z"), "DesiredState": "complete",
            "Status": {"State": state, "Err": if state == "failed" { "exit 1" } else { "" }}
        }))
        .expect("task")
    }

    #[test]
    fn slots_of_this_iteration_count() {
        let job = json!({"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 4}});
        let service = service(job);
        let tasks = [
            task(3, "n", 1, "complete", 0),
            task(0, "n", 2, "complete", 1),
            task(1, "n", 2, "failed", 1),
            task(1, "n", 2, "running", 2),
            task(2, "n", 2, "failed", 1),
            // It was thought lost and completed all the same.
            task(3, "m", 2, "complete", 1),
            task(3, "n", 2, "ready", 2),
        ];
        let job = service.spec.as_ref().and_then(|s| s.mode.clone());
        let job = job.and_then(|mode| mode.replicated_job).expect("a job");
        let picture = replicated(&service, &job, &tasks);
        assert_eq!((picture.done, picture.wanted), (2, 4));
        assert_eq!(picture.job, Some(Active::Some(1, 2)));
        let bars: Vec<_> = picture
            .bars
            .iter()
            .map(|bar| (bar.name.as_str(), bar.state, bar.error.as_str()))
            .collect();
        assert_eq!(
            bars,
            [
                ("1/4", TaskState::COMPLETE, ""),
                ("2/4", TaskState::RUNNING, ""),
                ("3/4", TaskState::FAILED, "exit 1"),
                ("4/4", TaskState::COMPLETE, ""),
            ]
        );
        assert!(!picture.converged());
    }

    #[test]
    fn a_job_of_which_the_rest_has_failed_for_good_is_given_up() {
        let mut failed = task(1, "m", 1, "failed", 1);
        let retried = task(1, "m", 1, "ready", 2);
        let done = task(0, "n", 1, "complete", 1);
        for mode in [
            json!({"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 2}}),
            json!({"GlobalJob": {}}),
        ] {
            let mut service = service(mode);
            service.job_status =
                serde_json::from_value(json!({"JobIteration": {"Index": 1}})).expect("status");
            failed.desired_state = Some(TaskState::SHUTDOWN);
            let job = |tasks: &[Task]| Picture::new(&service, tasks, &Default::default()).job;
            let given_up = job(&[done.clone(), failed.clone()]);
            assert_eq!(given_up, Some(Active::GivenUp));
            let tried = job(&[done.clone(), failed.clone(), retried.clone()]);
            assert_ne!(tried, Some(Active::GivenUp));
            failed.desired_state = Some(TaskState::COMPLETE);
            let told = job(&[done.clone(), failed.clone()]);
            assert_ne!(told, Some(Active::GivenUp), "another may be made");
        }
    }

    #[test]
    fn nodes_of_this_iteration_count() {
        let service = service(json!({"GlobalJob": {}}));
        let before = [task(0, "n", 1, "complete", 0)];
        let picture = global(&service, &before);
        assert_eq!(picture.job, Some(Active::Awaited));
        assert!(!picture.converged());
        let tasks = [
            task(0, "n", 2, "complete", 0),
            task(0, "m", 2, "preparing", 0),
        ];
        let picture = global(&service, &tasks);
        assert_eq!((picture.done, picture.wanted), (1, 2));
        assert_eq!(picture.job, Some(Active::All));
        assert!(global(&service, &tasks[..1]).converged());
    }
}
