//! Asks the nodes for logs and keeps asking as tasks come, while the reader is there.

use super::{LogSelector, LogStream, LogTarget};
use crate::{
    ErrorKind, ManagerError,
    core::Core,
    state::{State, Task, TaskState},
};
use mesh_api::proto::{LogSubscription, manager_message::Message};
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;

/// Lines that wait for a slow reader before the nodes are held back.
const BACKLOG: usize = 256;

/// What a selector means in terms of tasks.
#[derive(Debug, Clone)]
enum Scope {
    Service(String),
    Task(String),
}

impl Scope {
    /// Tasks that may have lines: those that a node knows of.
    fn tasks<'a>(&'a self, state: &'a State) -> Vec<&'a Task> {
        let has_node = |t: &&Task| t.node_id.is_some() && t.status.state >= TaskState::Assigned;
        match self {
            Self::Service(id) => state.tasks_of_service(id).filter(has_node).collect(),
            Self::Task(id) => state.task(id).into_iter().filter(has_node).collect(),
        }
    }
}

/// Opens a subscription and asks the nodes that run (or ran) the tasks.
pub(crate) fn subscribe(
    core: &Arc<Core>,
    selector: LogSelector,
) -> Result<LogStream, ManagerError> {
    if !core.leadership().is_self {
        return Err(ManagerError::new(
            ErrorKind::Unavailable,
            "logs are served by the leading manager; ask it instead",
        ));
    }
    let scope = {
        let state = core.store.read();
        match &selector.target {
            LogTarget::Service(key) => Scope::Service(state.find_service(key)?.id.clone()),
            LogTarget::Task(key) => Scope::Task(state.find_task(key)?.id.clone()),
        }
    };
    let id = mesh_pki::new_id();
    let (lines, reader) = mpsc::channel(BACKLOG);
    core.logs.open(&id, selector.follow, lines.clone());
    core.tasks
        .spawn(run(core.clone(), id, scope, selector, lines));
    Ok(Box::pin(ReceiverStream::new(reader)))
}

/// Asks for tasks not asked for yet.
async fn ask(
    core: &Core,
    id: &str,
    scope: &Scope,
    selector: &LogSelector,
    asked: &mut HashSet<String>,
    nodes: &mut HashSet<String>,
) {
    let mut by_node: BTreeMap<String, Vec<String>> = BTreeMap::new();
    {
        let state = core.store.read();
        for task in scope.tasks(&state) {
            let Some(node_id) = &task.node_id else {
                continue;
            };
            if core.sessions.get(node_id).is_none() || !asked.insert(task.id.clone()) {
                continue;
            }
            core.logs.expect(id, node_id, &task.id, &task.service_id);
            by_node
                .entry(node_id.clone())
                .or_default()
                .push(task.id.clone());
        }
    }
    for (node_id, task_ids) in by_node {
        let subscription = LogSubscription {
            id: id.to_owned(),
            task_ids,
            follow: selector.follow,
            tail: selector
                .tail
                .map_or(-1, |t| i64::try_from(t).unwrap_or(i64::MAX)),
            since: selector.since,
            stdout: selector.stdout,
            stderr: selector.stderr,
            close: false,
        };
        let sent = match core.sessions.get(&node_id) {
            Some(session) => session.send(Message::Logs(subscription)).await,
            None => false,
        };
        if sent {
            nodes.insert(node_id);
        } else {
            core.logs.node_gone(&node_id);
        }
    }
}

async fn run(
    core: Arc<Core>,
    id: String,
    scope: Scope,
    selector: LogSelector,
    lines: mpsc::Sender<Result<super::LogLine, ManagerError>>,
) {
    let mut events = core.store.subscribe();
    let mut asked = HashSet::new();
    let mut nodes = HashSet::new();
    ask(&core, &id, &scope, &selector, &mut asked, &mut nodes).await;
    if !selector.follow {
        core.logs.close_if_done(&id);
        // The stream ends with the broker's sender, once all nodes are done; a reader that leaves
        // early is noticed at the next line.
        return;
    }
    loop {
        tokio::select! {
            () = core.cancel.cancelled() => break,
            () = lines.closed() => break,
            event = events.recv() => match event {
                Ok(event) => {
                    let concerns = match &scope {
                        Scope::Service(service) => event.service_id.as_ref() == Some(service),
                        Scope::Task(task) => event.id == *task,
                    };
                    if !concerns {
                        continue;
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => break,
            },
        }
        ask(&core, &id, &scope, &selector, &mut asked, &mut nodes).await;
    }
    core.logs.close(&id);
    for node_id in nodes {
        if let Some(session) = core.sessions.get(&node_id) {
            let close = LogSubscription {
                id: id.clone(),
                close: true,
                ..Default::default()
            };
            session.send(Message::Logs(close)).await;
        }
    }
}
