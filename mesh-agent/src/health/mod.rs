//! Whether tasks do well: their health checks, each in a task of its own beside the reconcile loop, which is woken when
//! one comes to another opinion.
//!
//! `check` what is run · `course` what follows from it (pure) · `probe` one run · here: who is watched, and what is known.

pub(crate) mod check;
mod course;
mod probe;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use mesh_runtime::{ContainerInfo, ContainerState, HealthCheck, Runtime};
use tokio::sync::{Notify, Semaphore};
use tokio_util::task::AbortOnDropHandle;

pub use course::{Health, Run, Status};

/// Runs that begin at the same time; more would only compete for the same processors.
const AT_ONCE: usize = 8;

/// What is known of each task that has a check, by task id. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Table(Arc<Mutex<HashMap<String, Health>>>);

impl Table {
    /// What is known of a task; `None` if it has no check, or has never run under this agent.
    pub fn get(&self, id: &str) -> Option<Health> {
        self.lock().get(id).cloned()
    }

    fn set(&self, id: &str, health: Health) {
        self.lock().insert(id.to_owned(), health);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Health>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The checks that go on. Dropped, they end.
#[derive(Debug)]
pub(crate) struct Watchers {
    table: Table,
    running: HashMap<String, AbortOnDropHandle<()>>,
    turns: Arc<Semaphore>,
    wake: Arc<Notify>,
}

impl Watchers {
    /// None yet; `wake` is notified when a task's status changes.
    pub(crate) fn new(table: Table, wake: Arc<Notify>) -> Self {
        Self {
            table,
            running: HashMap::new(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            wake,
        }
    }

    /// How a task does, as far as that is known.
    pub(crate) fn status(&self, id: &str) -> Option<Status> {
        self.table.lock().get(id).map(|health| health.status)
    }

    /// Watches a running container that has a check, unless it is watched. `begin` is what is known of it if nothing else
    /// is: that of an earlier agent's may have been found healthy.
    pub(crate) fn watch(&mut self, runtime: &Runtime, container: &ContainerInfo, begin: Status) {
        let id = &container.spec.id;
        let Some(check) = &container.spec.health else {
            return;
        };
        if self.running.contains_key(id) {
            return;
        }
        let mut table = self.table.lock();
        let known = table.entry(id.clone()).or_insert(Health::new(begin));
        if known.status == Status::Unhealthy {
            return;
        }
        let watcher = Watcher {
            runtime: runtime.clone(),
            id: id.clone(),
            process: PathBuf::from(format!("/proc/{}", container.pid)),
            started: container.started_at.unwrap_or_else(Utc::now),
            check: check.clone(),
            health: known.clone(),
        };
        drop(table);
        let (table, turns, wake) = (
            self.table.clone(),
            Arc::clone(&self.turns),
            Arc::clone(&self.wake),
        );
        let task = tokio::spawn(watcher.watch(table, turns, wake));
        self.running
            .insert(id.clone(), AbortOnDropHandle::new(task));
    }

    /// Watches a task no longer; a run that goes on is ended.
    pub(crate) fn leave(&mut self, id: &str) {
        self.running.remove(id);
    }

    /// Forgets a task.
    pub(crate) fn forget(&mut self, id: &str) {
        self.leave(id);
        self.table.lock().remove(id);
    }
}

/// The watch over one task.
struct Watcher {
    runtime: Runtime,
    id: String,
    /// Where the kernel shows the container's first process.
    process: PathBuf,
    started: DateTime<Utc>,
    check: HealthCheck,
    health: Health,
}

impl Watcher {
    async fn watch(mut self, table: Table, turns: Arc<Semaphore>, wake: Arc<Notify>) {
        while self.health.status != Status::Unhealthy {
            tokio::time::sleep(self.health.pause(&self.check, self.age(Utc::now()))).await;
            let run = probe::run(&self.runtime, &self.id, &self.check, &turns).await;
            // Of a container that ended meanwhile nothing can be said.
            if !self.is_running() {
                return;
            }
            let before = self.health.status;
            let age = self.age(run.start);
            self.health.note(&self.check, age, run);
            table.set(&self.id, self.health.clone());
            if self.health.status != before {
                tracing::info!(task = self.id, status = ?self.health.status, "health");
                wake.notify_one();
            }
        }
    }

    fn age(&self, at: DateTime<Utc>) -> Duration {
        (at - self.started).to_std().unwrap_or_default()
    }

    /// The kernel knows of its end before the shim has told, and ends what was run in it first.
    fn is_running(&self) -> bool {
        let told = self.runtime.inspect(&self.id);
        told.is_ok_and(|info| info.state == ContainerState::Running) && !is_ending(&self.process)
    }
}

/// Whether a process is gone or on its way out; `process` is its folder in /proc.
fn is_ending(process: &Path) -> bool {
    /// The kernel's PF_EXITING.
    const EXITING: u32 = 4;
    let Ok(stat) = fs::read_to_string(process.join("stat")) else {
        return true;
    };
    // proc_pid_stat(5): behind the name in brackets come the state (3rd field) and, as the 9th, the flags.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next();
    let flags = fields.nth(5).and_then(|flags| flags.parse().ok());
    matches!(state, None | Some("Z" | "X")) || flags.is_none_or(|flags: u32| flags & EXITING != 0)
}
