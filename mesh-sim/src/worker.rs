//! Worker nodes: they speak the dispatcher's protocol as agents do, and pretend to run tasks, which take their time, fail,
//! and are lost with their node.

use crate::{
    machine::certify,
    network::{Caller, Network, address},
    process,
    sim::{Life, Sim},
    specs,
    violation::Plant,
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
/// Probability that an agent, when it has something to say, says again what was true before.
const LATE: f64 = 0.1;

/// A task, as its node has it.
#[derive(Debug, Clone)]
struct Local {
    desired: TaskState,
    state: TaskState,
    /// The states that it had before.
    past: Vec<TaskState>,
    /// It comes to an end by itself.
    is_job: bool,
}

/// A worker node. It stays what it is when its agent ends.
pub(crate) struct Worker {
    pub(crate) number: usize,
    pub(crate) node_id: String,
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
        let (identity, certificate) = certify(sim, caller.clone(), 1, token).await?;
        drop(caller.certificate.set(certificate));
        let worker = Self {
            number,
            node_id: identity.node_id,
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

    /// How this node calls managers.
    pub(crate) fn caller(&self) -> Caller {
        self.caller.clone()
    }

    /// The agent starts. It finds its tasks running, unless the whole machine was down.
    pub(crate) fn start(self: &Arc<Self>, was_down: bool) {
        let life = Life::default();
        std::mem::replace(&mut *self.life(), life.clone()).end();
        if was_down {
            let mut tasks = self.tasks();
            for task in tasks.values_mut().filter(|t| !t.state.is_terminal()) {
                task.reach(TaskState::Failed);
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
            let is_busy = self.tasks().values().any(|task| self.goes_on(task));
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
                _ = heartbeat.tick() => send(&out, Out::Heartbeat(proto::Heartbeat::default())).await?,
                () = tokio::time::sleep(step), if is_busy => {
                    let changed = self.advance();
                    self.report(&out, changed).await?;
                    if self.sim.chance(LATE) {
                        self.report_late(&out).await?;
                    }
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
            generic_resources: specs::resources(),
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
            let new = || Local {
                desired: TaskState::Ready,
                state: TaskState::Assigned,
                past: Vec::new(),
                is_job: task.service_name.starts_with(specs::JOB),
            };
            let local = Local {
                desired: TaskState::parse(&task.desired_state).unwrap_or(TaskState::Shutdown),
                ..known.unwrap_or_else(new)
            };
            tasks.insert(task.id, local);
        }
        for gone in assignment.removed {
            tasks.remove(&gone.id);
        }
    }

    fn goes_on(&self, task: &Local) -> bool {
        let is_deaf = self.sim.plant == Some(Plant::DeafNodes);
        task.is_on_its_way() && !(is_deaf && task.desired > TaskState::Running)
    }

    /// Tasks go on, each by itself; those that did.
    fn advance(&self) -> Vec<String> {
        let is_failing = self.is_failing.load(Ordering::Relaxed);
        let mut changed = Vec::new();
        for (id, task) in self.tasks().iter_mut() {
            if self.goes_on(task) && self.sim.chance(0.6) {
                task.step(is_failing && self.sim.chance(FAILS));
                changed.push(id.clone());
            } else if task.state == TaskState::Running && is_failing && self.sim.chance(FAILS / 4.0)
            {
                task.reach(TaskState::Failed);
                changed.push(id.clone());
            }
        }
        changed
    }

    async fn report(&self, out: &mpsc::Sender<NodeMessage>, ids: Vec<String>) -> Result<()> {
        let states = {
            let tasks = self.tasks();
            let state = |id: String| Some((tasks.get(&id)?.state, id));
            ids.into_iter().filter_map(state).collect()
        };
        tell(out, states).await
    }

    /// Says again what was true of a task before, as an agent does that has lost what it knew last.
    async fn report_late(&self, out: &mpsc::Sender<NodeMessage>) -> Result<()> {
        let past: Vec<(TaskState, String)> = {
            let tasks = self.tasks();
            let past = |(id, task): (&String, &Local)| {
                Some((self.sim.pick(&task.past).copied()?, id.clone()))
            };
            tasks.iter().filter_map(past).collect()
        };
        let told = self.sim.pick(&past).cloned();
        tell(out, told.into_iter().collect()).await
    }
}

impl Local {
    fn is_on_its_way(&self) -> bool {
        !self.state.is_terminal()
            && match self.desired {
                TaskState::Ready => self.state < TaskState::Ready,
                TaskState::Running => self.is_job || self.state < TaskState::Running,
                desired => desired > TaskState::Running,
            }
    }

    fn reach(&mut self, state: TaskState) {
        self.past.push(std::mem::replace(&mut self.state, state));
    }

    fn step(&mut self, fails: bool) {
        let next = match self.state {
            _ if self.desired > TaskState::Running => TaskState::Shutdown,
            state if fails && state >= TaskState::Starting => TaskState::Failed,
            _ if fails => TaskState::Rejected,
            TaskState::Assigned => TaskState::Accepted,
            TaskState::Accepted => TaskState::Preparing,
            TaskState::Preparing => TaskState::Ready,
            TaskState::Ready => TaskState::Starting,
            TaskState::Running => TaskState::Complete,
            _ => TaskState::Running,
        };
        self.reach(next);
    }
}

/// Reports states of tasks; that one is assigned is no news.
async fn tell(out: &mpsc::Sender<NodeMessage>, mut states: Vec<(TaskState, String)>) -> Result<()> {
    states.retain(|(state, _)| *state > TaskState::Assigned);
    if states.is_empty() {
        return Ok(());
    }
    let status = |(state, task_id): (TaskState, String)| proto::TaskStatus {
        task_id,
        state: state.as_str().to_owned(),
        timestamp: process::time_of_day(),
        ..Default::default()
    };
    let statuses = states.into_iter().map(status).collect();
    send(out, Out::Statuses(proto::TaskStatuses { statuses })).await
}

async fn send(out: &mpsc::Sender<NodeMessage>, message: Out) -> Result<()> {
    let message = NodeMessage {
        message: Some(message),
    };
    let sent = out.send(message).await;
    sent.map_err(|_| anyhow::anyhow!("the session is over"))
}
