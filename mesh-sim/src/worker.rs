//! Worker nodes: they speak the dispatcher's protocol as agents do, and pretend to run tasks, which take their time, fail,
//! and are lost with their node.

use crate::{
    machine::certify,
    network::{Caller, Network, address},
    process,
    sim::{Life, Sim},
};
use anyhow::{Context, Result, bail};
use mesh_api::proto::{
    self, NodeMessage, dispatcher_client::DispatcherClient, manager_message::Message as In,
    node_message::Message as Out, object::Object,
};
use mesh_manager::{client::LEADER_ADDRESS, state::TaskState};
use rand::Rng;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Messages that may wait.
const BACKLOG: usize = 64;
/// Probability that a task fails at one of its steps, while anything may.
const FAILS: f64 = 0.03;

/// A task, as its node has it.
#[derive(Debug, Clone)]
struct Local {
    desired: TaskState,
    state: TaskState,
}

/// A worker node. It stays what it is when its agent ends.
pub(crate) struct Worker {
    pub(crate) number: usize,
    sim: Arc<Sim>,
    managers: usize,
    caller: Caller,
    tasks: Mutex<BTreeMap<String, Local>>,
    life: Mutex<Life>,
    /// Tasks fail now and then.
    is_failing: AtomicBool,
}

impl Worker {
    /// Joins by the manager on machine 1.
    pub(crate) async fn join(
        sim: &Arc<Sim>,
        number: usize,
        managers: usize,
        token: &str,
    ) -> Result<Arc<Self>> {
        let caller = Caller {
            machine: number,
            life: Life::default(),
            certificate: Arc::default(),
        };
        let (_, certificate) = certify(sim, caller.clone(), 1, token).await?;
        drop(caller.certificate.set(certificate));
        let worker = Self {
            number,
            sim: sim.clone(),
            managers,
            caller,
            tasks: Mutex::default(),
            life: Mutex::default(),
            is_failing: AtomicBool::new(true),
        };
        Ok(Arc::new(worker))
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<String, Local>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent starts. It finds its tasks running, unless the whole machine was down.
    pub(crate) fn start(self: &Arc<Self>, was_down: bool) {
        let life = Life::default();
        std::mem::replace(&mut *self.life(), life.clone()).end();
        if was_down {
            let mut tasks = self.tasks();
            for task in tasks.values_mut().filter(|t| !t.state.is_terminal()) {
                task.state = TaskState::Failed;
            }
        }
        let worker = self.clone();
        tokio::spawn(async move { life.during(worker.run(&life)).await });
    }

    /// The agent ends, without a word.
    pub(crate) fn stop(&self) {
        self.life().end();
    }

    /// Tasks do not fail any more.
    pub(crate) fn heal(self: &Arc<Self>) {
        self.is_failing.store(false, Ordering::Relaxed);
        let is_stopped = self.life().is_over();
        if is_stopped {
            self.start(false);
        }
    }

    /// Keeps a session open, with whoever leads.
    async fn run(&self, life: &Life) {
        let mut to = address(self.sim.dice().random_range(1..=self.managers));
        loop {
            let named = self.session(&to, life).await.unwrap_or_default();
            tokio::time::sleep(self.sim.millis(100, 1000)).await;
            to = named.unwrap_or_else(|| address(self.sim.dice().random_range(1..=self.managers)));
        }
    }

    /// One session; the address of the leader, if another manager was asked.
    async fn session(&self, to: &str, life: &Life) -> Result<Option<String>> {
        let caller = Caller {
            life: life.clone(),
            ..self.caller.clone()
        };
        let line = Network::line(&self.sim, caller, to);
        let (out, messages) = mpsc::channel(BACKLOG);
        send(&out, Out::Hello(self.hello())).await?;
        let opened = DispatcherClient::new(line)
            .session(ReceiverStream::new(messages))
            .await;
        let mut incoming = match opened {
            Ok(answer) => answer.into_inner(),
            Err(refusal) => {
                let named = refusal.metadata().get(LEADER_ADDRESS);
                return Ok(named.and_then(|at| at.to_str().ok()).map(str::to_owned));
            }
        };
        let first = incoming.message().await?.and_then(|first| first.message);
        let Some(In::Welcome(welcome)) = first else {
            bail!("the manager's first word was not a welcome");
        };
        let period = Duration::from_millis(u64::from(welcome.heartbeat_period_ms.max(100)));
        let mut heartbeat = tokio::time::interval(period);
        loop {
            let is_busy = self.tasks().values().any(Local::is_on_its_way);
            let step = self.sim.millis(20, 300);
            tokio::select! {
                biased;
                message = incoming.message() => {
                    let message = message?.context("the manager closed the session")?;
                    if let Some(In::Assignment(assignment)) = message.message {
                        let (revision, is_full) = (assignment.revision, assignment.full);
                        self.take(assignment);
                        if is_full {
                            // Reports may have been lost with the last session.
                            let all = self.tasks().keys().cloned().collect();
                            self.report(&out, all).await?;
                        }
                        send(&out, Out::Applied(proto::Applied { revision })).await?;
                    }
                }
                _ = heartbeat.tick() => send(&out, Out::Heartbeat(proto::Heartbeat {})).await?,
                () = tokio::time::sleep(step), if is_busy => {
                    let changed = self.advance();
                    self.report(&out, changed).await?;
                }
            }
        }
    }

    fn hello(&self) -> proto::NodeDescription {
        let number = self.number;
        proto::NodeDescription {
            hostname: format!("worker{number}"),
            address: format!("10.1.0.{number}"),
            data_path_address: format!("10.1.0.{number}"),
            architecture: "x86_64".to_owned(),
            os: "linux".to_owned(),
            nano_cpus: 4_000_000_000,
            memory_bytes: 8 << 30,
            ..Default::default()
        }
    }

    fn take(&self, assignment: proto::Assignment) {
        let mut tasks = self.tasks();
        let mut before = match assignment.full {
            true => std::mem::take(&mut *tasks),
            false => BTreeMap::new(),
        };
        for object in assignment.objects.into_iter().filter_map(|o| o.object) {
            let Object::Task(task) = object else { continue };
            let known = tasks.get(&task.id).cloned().or(before.remove(&task.id));
            let local = Local {
                desired: TaskState::parse(&task.desired_state).unwrap_or(TaskState::Shutdown),
                state: known.map_or(TaskState::Assigned, |known| known.state),
            };
            tasks.insert(task.id, local);
        }
        for gone in assignment.removed {
            tasks.remove(&gone.id);
        }
    }

    /// Tasks go on, each by itself; those that did.
    fn advance(&self) -> Vec<String> {
        let is_failing = self.is_failing.load(Ordering::Relaxed);
        let mut changed = Vec::new();
        for (id, task) in self.tasks().iter_mut() {
            if task.is_on_its_way() && self.sim.chance(0.6) {
                task.step(is_failing && self.sim.chance(FAILS));
                changed.push(id.clone());
            } else if task.state == TaskState::Running && is_failing && self.sim.chance(FAILS / 4.0)
            {
                task.state = TaskState::Failed;
                changed.push(id.clone());
            }
        }
        changed
    }

    async fn report(&self, out: &mpsc::Sender<NodeMessage>, ids: Vec<String>) -> Result<()> {
        let statuses: Vec<_> = {
            let tasks = self.tasks();
            let known = ids.into_iter().filter_map(|id| {
                let state = tasks.get(&id)?.state;
                (state > TaskState::Assigned).then_some((id, state))
            });
            known
                .map(|(task_id, state)| proto::TaskStatus {
                    task_id,
                    state: state.as_str().to_owned(),
                    timestamp: process::time_of_day(),
                    ..Default::default()
                })
                .collect()
        };
        if !statuses.is_empty() {
            send(out, Out::Statuses(proto::TaskStatuses { statuses })).await?;
        }
        Ok(())
    }
}

impl Local {
    fn is_on_its_way(&self) -> bool {
        !self.state.is_terminal()
            && match self.desired {
                TaskState::Ready => self.state < TaskState::Ready,
                TaskState::Running => self.state < TaskState::Running,
                desired => desired > TaskState::Running,
            }
    }

    fn step(&mut self, fails: bool) {
        self.state = match self.state {
            _ if self.desired > TaskState::Running => TaskState::Shutdown,
            state if fails && state >= TaskState::Starting => TaskState::Failed,
            _ if fails => TaskState::Rejected,
            TaskState::Assigned => TaskState::Accepted,
            TaskState::Accepted => TaskState::Preparing,
            TaskState::Preparing => TaskState::Ready,
            TaskState::Ready => TaskState::Starting,
            _ => TaskState::Running,
        };
    }
}

async fn send(out: &mpsc::Sender<NodeMessage>, message: Out) -> Result<()> {
    let message = NodeMessage {
        message: Some(message),
    };
    let sent = out.send(message).await;
    sent.map_err(|_| anyhow::anyhow!("the session is over"))
}
