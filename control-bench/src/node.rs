//! One simulated node: the session of an agent without what an agent does. Tasks run as soon as they are wanted, and
//! every revision is applied when it comes.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail};
use mesh_api::proto::{
    self, EndpointState, ManagerMessage, NodeMessage, dispatcher_client::DispatcherClient,
    manager_message::Message as FromManager, node_message::Message as FromNode, object::Object,
};
use mesh_manager::client;
use mesh_pki::{NodeIdentity, tls};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::fleet::{Board, Event, address};

/// Messages to the manager that may wait.
const BACKLOG: usize = 64;
/// Largest message of a manager, as agents take it.
const MAX_MESSAGE: usize = 256 << 20;
/// Pause before a session is opened anew.
const PAUSE: Duration = Duration::from_millis(500);

/// Keeps a node's session open for good.
pub(crate) async fn run(
    number: usize,
    identity: Arc<NodeIdentity>,
    manager: String,
    board: Arc<Board>,
) {
    loop {
        if let Err(error) = session(number, &identity, &manager, &board).await {
            eprintln!("node {number}: {error:#}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Counts an open session for as long as it is.
struct Open<'a>(&'a Board);

impl<'a> Open<'a> {
    fn new(board: &'a Board) -> Self {
        board.open.fetch_add(1, Ordering::AcqRel);
        Self(board)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn session(
    number: usize,
    identity: &NodeIdentity,
    manager: &str,
    board: &Board,
) -> Result<()> {
    let channel = client::connect(manager, tls::client_config(identity)?).await?;
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let hello = proto::NodeDescription {
        hostname: format!("sim{number}"),
        data_path_address: address(number).to_string(),
        architecture: "x86_64".to_owned(),
        os: "linux".to_owned(),
        engine_version: env!("CARGO_PKG_VERSION").to_owned(),
        nano_cpus: 64_000_000_000,
        memory_bytes: 256 << 30,
        ..Default::default()
    };
    send(&sender, FromNode::Hello(hello)).await?;
    let mut messages = DispatcherClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .session(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    let welcome = messages.message().await?.and_then(|first| first.message);
    let Some(FromManager::Welcome(welcome)) = welcome else {
        bail!("the manager's first word was not a welcome");
    };
    let period = Duration::from_millis(u64::from(welcome.heartbeat_period_ms.max(100)));
    let mut heartbeat = tokio::time::interval(period);
    let mut node = Simulated::new(board);
    let _open = Open::new(board);
    loop {
        tokio::select! {
            message = messages.message() => {
                let message = message?.context("the manager closed the session")?;
                if let ManagerMessage { message: Some(FromManager::Assignment(assignment)) } = message {
                    let revision = assignment.revision;
                    let statuses = node.apply(assignment);
                    if !statuses.is_empty() {
                        let statuses = proto::TaskStatuses { statuses };
                        send(&sender, FromNode::Statuses(statuses)).await?;
                    }
                    send(&sender, FromNode::Applied(proto::Applied { revision })).await?;
                }
            }
            _ = heartbeat.tick() => send(&sender, FromNode::Heartbeat(proto::Heartbeat::default())).await?,
        }
    }
}

/// What a node knows.
struct Simulated<'a> {
    board: &'a Board,
    /// Last state reported of each task.
    tasks: HashMap<String, &'static str>,
    /// Id of the watched service.
    watched: Option<String>,
}

impl<'a> Simulated<'a> {
    fn new(board: &'a Board) -> Self {
        Self {
            board,
            tasks: HashMap::new(),
            watched: None,
        }
    }

    /// Takes an assignment; what is to be reported of it.
    fn apply(&mut self, assignment: proto::Assignment) -> Vec<proto::TaskStatus> {
        let at = Instant::now();
        let mut statuses = Vec::new();
        let objects = assignment.objects.into_iter().filter_map(|it| it.object);
        // Services come before their endpoints.
        for object in objects {
            match object {
                Object::Task(task) => statuses.extend(self.task(task, at)),
                Object::Service(service) if service.name == self.board.watched => {
                    self.watched = Some(service.id);
                }
                Object::Endpoint(endpoint)
                    if Some(&endpoint.service_id) == self.watched.as_ref()
                        && endpoint.state == EndpointState::Active as i32 =>
                {
                    let told = Event::Told {
                        task: endpoint.id,
                        at,
                    };
                    self.tell(told);
                }
                _ => {}
            }
        }
        for gone in assignment.removed {
            self.tasks.remove(&gone.id);
        }
        statuses
    }

    fn task(&mut self, task: proto::Task, at: Instant) -> Option<proto::TaskStatus> {
        let state = match task.desired_state.as_str() {
            "ready" => "ready",
            "running" => "running",
            _ => "shutdown",
        };
        let before = self.tasks.insert(task.id.clone(), state);
        if before == Some(state) {
            return None;
        }
        if before.is_none() {
            self.board.given.fetch_add(1, Ordering::AcqRel);
        }
        if state == "running" && task.service_name == self.board.watched {
            let running = Event::Running {
                task: task.id.clone(),
                at,
            };
            self.tell(running);
        }
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let nanoseconds = since.map_or(0, |since| since.as_nanos());
        Some(proto::TaskStatus {
            task_id: task.id,
            state: state.to_owned(),
            timestamp: i64::try_from(nanoseconds).unwrap_or(i64::MAX),
            ..Default::default()
        })
    }

    fn tell(&self, event: Event) {
        // Nobody listens once the measurement is over.
        let _ = self.board.events.send(event);
    }
}

async fn send(sender: &mpsc::Sender<NodeMessage>, message: FromNode) -> Result<()> {
    let message = NodeMessage {
        message: Some(message),
    };
    let sent = sender.send(message).await;
    sent.map_err(|_| anyhow::anyhow!("the manager closed the session"))
}
