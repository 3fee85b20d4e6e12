//! Watches a service until its tasks are as asked for, as Docker shows it: bars on a terminal, one
//! line per change elsewhere. Ctrl-C leaves the service to itself.

pub(crate) mod applied;
mod deadline;
mod job;
pub(crate) mod root;
mod screen;

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use mesh_api::{
    Client, ClientError, Filters,
    engine::{NodeState, Service, ServiceUpdateStatusStateEnum as Update, Task, TaskState},
};

use crate::view::{created_at, word};
use job::Active;
use screen::Screen;

/// How often the service is looked at.
const POLL: Duration = Duration::from_millis(200);
/// How long tasks have to stay up before the service counts as converged, unless it says so itself.
const DEFAULT_MONITOR: Duration = Duration::from_secs(5);
/// With more tasks than this, only the overall line is shown.
const MAX_BARS: usize = 20;

/// How long nobody may answer before the display ends: an agent is restarted, or another manager comes to lead, sooner.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks, and for a while again where that may help: what is looked at goes on meanwhile.
async fn asked<T>(question: impl AsyncFn() -> Result<T, ClientError>) -> Result<T, ClientError> {
    asked_again(question, |_| ()).await
}

/// As [`asked`]; tells what failed before it asks again.
async fn asked_again<T>(
    question: impl AsyncFn() -> Result<T, ClientError>,
    mut failed: impl FnMut(&ClientError),
) -> Result<T, ClientError> {
    let begun = Instant::now();
    loop {
        match question().await {
            Err(error) if error.is_passing() && begun.elapsed() < PATIENCE => {
                failed(&error);
                tokio::time::sleep(POLL).await;
            }
            answer => return answer,
        }
    }
}

/// How waiting came to its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// What was waited for has come.
    Converged,
    /// The user has waited long enough.
    Interrupted,
}

/// Waits until the service has converged. A rollback meanwhile is a failure.
pub(crate) async fn wait(client: &Client, id: &str, quiet: bool) -> Result<Waited> {
    wait_for(client, id, quiet, false).await
}

/// Waits until the service that is being rolled back has converged.
pub(crate) async fn wait_for_rollback(client: &Client, id: &str, quiet: bool) -> Result<Waited> {
    wait_for(client, id, quiet, true).await
}

async fn wait_for(client: &Client, id: &str, quiet: bool, rollback: bool) -> Result<Waited> {
    let mut screen = Screen::new(quiet);
    tokio::select! {
        result = watch(client, id, &mut screen, rollback) => result.map(|()| Waited::Converged),
        _ = tokio::signal::ctrl_c() => {
            say!(
                "Operation continuing in background.\nUse `mesh-ctl service ps {id}` to check progress."
            )?;
            Ok(Waited::Interrupted)
        }
    }
}

async fn watch(client: &Client, id: &str, screen: &mut Screen, rollback: bool) -> Result<()> {
    let mut converged_at: Option<Instant> = None;
    let mut rolled_back: Option<String> = None;
    let mut course = deadline::Course::default();
    loop {
        let service = asked(async || client.service(id, false).await).await?;
        let monitor = monitor(&service);
        if let Some(update) = &service.update_status {
            let message = update.message.clone().unwrap_or_default();
            match update.state {
                Some(Update::PAUSED) => bail!("service update paused: {message}"),
                Some(Update::ROLLBACK_PAUSED) => bail!("service rollback paused: {message}"),
                Some(Update::ROLLBACK_STARTED) if rolled_back.is_none() => {
                    screen.line("rollback", &message);
                    rolled_back = Some(message);
                }
                Some(Update::ROLLBACK_COMPLETED) if !rollback && converged_at.is_none() => {
                    if let Some(cause) = rolled_back {
                        bail!("service rolled back: {cause}")
                    }
                }
                _ => {}
            }
        }
        let updating = matches!(
            service
                .update_status
                .as_ref()
                .and_then(|update| update.state),
            Some(Update::UPDATING | Update::ROLLBACK_STARTED)
        );
        let filters = Filters::new()
            .with("service", id)
            .with("_up-to-date", "true");
        let tasks = asked(async || client.tasks(&filters).await).await?;
        let nodes = live_nodes(client).await?;
        let picture = Picture::new(&service, &tasks, &nodes);
        screen.show(&picture);
        if picture.converged() && picture.job.is_some() {
            // What is done stays done.
            screen.finish("job complete");
            return Ok(());
        }
        if picture.job == Some(Active::GivenUp) {
            let Picture { done, wanted, .. } = picture;
            bail!("job failed: {done} of {wanted} tasks completed, the others are not tried again");
        }
        if let Some(cause) = course.look(&service, &tasks, picture.converged(), Instant::now()) {
            bail!("service does not converge: {cause}");
        }
        if picture.converged() && !updating {
            let since = *converged_at.get_or_insert_with(Instant::now);
            match monitor.checked_sub(since.elapsed()) {
                Some(left) if !left.is_zero() => {
                    let seconds = left.as_secs_f64().ceil() as u64;
                    screen.verify(&format!(
                        "Waiting {seconds} seconds to verify that tasks are stable..."
                    ));
                }
                _ => {
                    screen.verify("Service converged");
                    return Ok(());
                }
            }
        } else if converged_at.take().is_some() {
            screen.verify("Detected task failure");
        }
        tokio::time::sleep(POLL).await;
    }
}

fn monitor(service: &Service) -> Duration {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.update_config.as_ref()?.monitor)
        .and_then(|nanos| u64::try_from(nanos).ok())
        .filter(|nanos| *nanos > 0)
        .map_or(DEFAULT_MONITOR, Duration::from_nanos)
}

/// Ids of the nodes that are not down.
async fn live_nodes(client: &Client) -> Result<HashSet<String>, ClientError> {
    let all = Filters::new();
    let nodes = asked(async || client.nodes(&all).await).await?;
    Ok(nodes
        .into_iter()
        .filter(|node| {
            node.status
                .as_ref()
                .is_none_or(|s| s.state != Some(NodeState::DOWN))
        })
        .filter_map(|node| node.id)
        .collect())
}

/// How far a service is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Picture {
    done: usize,
    wanted: usize,
    /// One for each slot; none if there are too many.
    bars: Vec<Bar>,
    /// Of a job.
    job: Option<Active>,
}

/// How far a slot is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bar {
    name: String,
    state: TaskState,
    error: String,
}

impl Picture {
    fn new(service: &Service, tasks: &[Task], nodes: &HashSet<String>) -> Self {
        let mode = service
            .spec
            .as_ref()
            .and_then(|spec| spec.mode.clone())
            .unwrap_or_default();
        if let Some(job) = &mode.replicated_job {
            return job::replicated(service, job, tasks);
        }
        if mode.global_job.is_some() {
            return job::global(service, tasks);
        }
        let global = mode.global.is_some();
        let slots = newest_by_slot(tasks, nodes, global);
        let wanted = if global {
            // The tasks of a new service are not there at once.
            slots.len().max(1)
        } else {
            let replicas = mode.replicated.and_then(|replicated| replicated.replicas);
            usize::try_from(replicas.unwrap_or(1)).unwrap_or(0)
        };
        let done = slots
            .values()
            .filter(|task| state(task) == TaskState::RUNNING)
            .count();
        let mut bars = Vec::new();
        if wanted <= MAX_BARS {
            bars.extend((1..=wanted).map(|number| Bar {
                name: format!("{number}/{wanted}"),
                state: TaskState::NEW,
                error: String::new(),
            }));
            for (position, (slot, task)) in slots.iter().enumerate() {
                let number = match slot.parse() {
                    Ok(number) if !global && (1..=wanted).contains(&number) => number,
                    _ => position + 1,
                };
                if let Some(bar) = bars.get_mut(number - 1) {
                    if global {
                        bar.name = slot.chars().take(12).collect();
                    }
                    bar.state = state(task);
                    bar.error = failure(task);
                }
            }
        }
        Self {
            done,
            wanted,
            bars,
            job: None,
        }
    }

    fn converged(&self) -> bool {
        self.done >= self.wanted
    }
}

/// The newest live task of each slot (each node for a global service).
fn newest_by_slot<'a>(
    tasks: &'a [Task],
    nodes: &HashSet<String>,
    global: bool,
) -> BTreeMap<String, &'a Task> {
    let mut newest: BTreeMap<String, &Task> = BTreeMap::new();
    for task in tasks {
        let node = task.node_id.clone().unwrap_or_default();
        let gone = !node.is_empty() && !nodes.contains(&node);
        let wanted = !matches!(
            task.desired_state,
            Some(TaskState::SHUTDOWN | TaskState::REMOVE | TaskState::FAILED | TaskState::REJECTED)
        );
        if gone || !wanted {
            continue;
        }
        let slot = if global {
            node
        } else {
            format!("{:06}", task.slot.unwrap_or(0))
        };
        let entry = newest.entry(slot).or_insert(task);
        if created_at(entry) < created_at(task) {
            *entry = task;
        }
    }
    newest
}

fn state(task: &Task) -> TaskState {
    task.status
        .as_ref()
        .and_then(|status| status.state)
        .unwrap_or(TaskState::NEW)
}

fn failure(task: &Task) -> String {
    task.status
        .as_ref()
        .and_then(|status| status.err.clone())
        .unwrap_or_default()
}

/// A state's word and its place among the states, out of [`GOAL`].
fn place(state: TaskState) -> (String, usize) {
    let place = match state {
        TaskState::NEW => 1,
        TaskState::ALLOCATED | TaskState::PENDING => 2,
        TaskState::ASSIGNED => 3,
        TaskState::ACCEPTED => 4,
        TaskState::PREPARING => 5,
        TaskState::READY => 6,
        TaskState::STARTING => 7,
        _ => GOAL,
    };
    (word(Some(state)), place)
}

/// The place of running, and of the states after it; a job's task has one more to go then.
const GOAL: usize = 8;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(replicas: i64) -> Service {
        serde_json::from_value(json!({"Spec": {"Mode": {"Replicated": {"Replicas": replicas}}}}))
            .expect("service")
    }

    fn task(slot: i64, state: &str, created: &str) -> Task {
        serde_json::from_value(json!({
            "ID": "t", "Slot": slot, "NodeID": "n", "CreatedAt": created, "DesiredState": "running",
            "Status": {"State": state, "Err": if state == "rejected" { "no such image" } else { "" }}
        }))
        .expect("task")
    }

    #[tokio::test]
    async fn a_look_that_fails_for_a_moment_is_tried_again() {
        let refused = || ClientError::Connect {
            socket: "mesh.sock".into(),
            cause: std::io::ErrorKind::ConnectionRefused.into(),
        };
        let looks = std::cell::Cell::new(0);
        let answer = asked(async || {
            looks.set(looks.get() + 1);
            match looks.get() {
                1 => Err(refused()),
                number => Ok(number),
            }
        });
        assert_eq!(answer.await.expect("an answer"), 2);
        looks.set(0);
        let answer: Result<(), _> = asked(async || {
            looks.set(looks.get() + 1);
            Err(ClientError::Stream("it broke".to_owned()))
        })
        .await;
        answer.expect_err("it is no passing failure");
        assert_eq!(looks.get(), 1);
    }

    #[test]
    fn counts_the_newest_of_each_slot() {
        let nodes = HashSet::from(["n".to_owned()]);
        let tasks = [
            task(1, "running", "2026-01-01T00:00:00Z"),
            task(2, "rejected", "2026-01-01T00:00:00Z"),
            task(2, "preparing", "2026-01-01T00:00:05Z"),
        ];
        let picture = Picture::new(&service(2), &tasks, &nodes);
        assert_eq!((picture.done, picture.wanted), (1, 2));
        assert_eq!(picture.bars[0].state, TaskState::RUNNING);
        assert_eq!(picture.bars[1].state, TaskState::PREPARING);
        assert!(!picture.converged());
    }

    #[test]
    fn tasks_of_dead_nodes_do_not_count() {
        let tasks = [task(1, "running", "2026-01-01T00:00:00Z")];
        assert_eq!(Picture::new(&service(1), &tasks, &HashSet::new()).done, 0);
    }

    #[test]
    fn a_global_service_waits_for_its_first_task() {
        let service: Service =
            serde_json::from_value(json!({"Spec": {"Mode": {"Global": {}}}})).expect("service");
        let nodes = HashSet::from(["n".to_owned()]);
        assert!(!Picture::new(&service, &[], &nodes).converged());
        let tasks = [task(0, "running", "2026-01-01T00:00:00Z")];
        let picture = Picture::new(&service, &tasks, &nodes);
        assert!(picture.converged());
        assert_eq!(picture.bars[0].name, "n");
    }

    #[test]
    fn many_tasks_have_no_bars() {
        assert!(
            Picture::new(&service(21), &[], &HashSet::new())
                .bars
                .is_empty()
        );
        assert!(Picture::new(&service(0), &[], &HashSet::new()).converged());
    }
}
