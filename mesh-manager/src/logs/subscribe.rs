//! Asks the nodes for logs and keeps asking as tasks come, while the reader is there.

use super::{Had, LogSelector, LogStream, LogTarget};
use crate::{
    ErrorKind, ManagerError,
    core::Core,
    dispatcher::Session,
    state::{Event, State, Task, TaskState},
};
use mesh_api::proto::{LogSubscription, manager_message::Message};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;

/// Lines that wait for a slow reader before the nodes are held back.
const BACKLOG: usize = 256;
/// Longest wait for the last lines of tasks that have all ended.
const LAST_LINES: Duration = Duration::from_secs(3);

/// What a selector means in terms of tasks.
#[derive(Debug, Clone)]
enum Scope {
    Service(String),
    Task(String),
}

impl Scope {
    /// Tasks that may have lines: those whose container has been made.
    fn tasks<'a>(&'a self, state: &'a State) -> Vec<&'a Task> {
        let has_log = |t: &&Task| t.node_id.is_some() && t.status.state >= TaskState::Ready;
        match self {
            Self::Service(id) => state.tasks_of_service(id).filter(has_log).collect(),
            Self::Task(id) => state.task(id).into_iter().filter(has_log).collect(),
        }
    }

    fn concerns(&self, event: &Event) -> bool {
        match self {
            Self::Service(id) => event.id == *id || event.service_id.as_ref() == Some(id),
            Self::Task(id) => event.id == *id,
        }
    }

    /// Whether nothing will be written any more.
    fn is_over(&self, state: &State) -> bool {
        let has_ended = |task: &Task| task.status.state.is_terminal();
        match self {
            Self::Service(id) => {
                state.service(id).is_none() && state.tasks_of_service(id).all(has_ended)
            }
            Self::Task(id) => state.task(id).is_none_or(has_ended),
        }
    }
}

/// Opens a subscription and asks the nodes that run (or ran) the tasks; the target is one by id. What the reader `had` of a
/// task is not sent again.
pub(super) fn subscribe(
    core: &Arc<Core>,
    selector: LogSelector,
    had: Had,
) -> Result<LogStream, ManagerError> {
    if !core.leadership().is_self {
        return Err(ManagerError::new(
            ErrorKind::Unavailable,
            "logs are served by the leading manager; ask it instead",
        ));
    }
    let scope = match &selector.target {
        LogTarget::Service(id) => Scope::Service(id.clone()),
        LogTarget::Task(id) => Scope::Task(id.clone()),
    };
    let id = mesh_pki::new_id();
    let (lines, reader) = mpsc::channel(BACKLOG);
    core.logs.open(&id, selector.follow, had, lines.clone());
    core.tasks
        .spawn(run(core.clone(), id, scope, selector, lines));
    Ok(Box::pin(ReceiverStream::new(reader)))
}

/// What tasks have to have in common to be asked for in one message.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Question {
    node_id: String,
    /// As in [`LogSubscription`].
    since: i64,
    tail: i64,
}

/// Asks for tasks that their node's session has not been asked for yet.
async fn ask(core: &Core, id: &str, scope: &Scope, selector: &LogSelector) {
    let tail = selector
        .tail
        .map_or(-1, |tail| i64::try_from(tail).unwrap_or(i64::MAX));
    let mut wanted: BTreeMap<Question, (Arc<Session>, Vec<String>)> = BTreeMap::new();
    {
        let state = core.store.read();
        for task in scope.tasks(&state) {
            let session = task.node_id.as_deref().and_then(|id| core.sessions.get(id));
            let Some(session) = session else { continue };
            let Some(last) = core.logs.ask(id, &session, &task.id, &task.service_id) else {
                continue;
            };
            let (since, tail) = last.map_or((selector.since, tail), |last| (last + 1, -1));
            let question = Question {
                node_id: session.node_id.clone(),
                since,
                tail,
            };
            let (_, tasks) = wanted.entry(question).or_insert((session, Vec::new()));
            tasks.push(task.id.clone());
        }
    }
    for (question, (session, task_ids)) in wanted {
        let subscription = LogSubscription {
            id: id.to_owned(),
            task_ids,
            follow: selector.follow,
            tail: question.tail,
            since: question.since,
            stdout: selector.stdout,
            stderr: selector.stderr,
            close: false,
        };
        core.logs.expect(id, &session);
        if !session.send(Message::Logs(subscription)).await {
            core.logs.session_gone(&session);
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
    let mut sessions = core.sessions.opened();
    let mut leadership = core.consensus.leadership();
    let is_whole = loop {
        ask(&core, &id, &scope, &selector).await;
        if !selector.follow {
            core.logs.close_if_done(&id);
            tokio::select! {
                () = lines.closed() => {}
                () = core.logs.finished(&id) => {}
            }
            // Nodes that leave a leader that is one no more have not said all.
            break leadership.borrow().is_self && !core.cancel.is_cancelled() && !lines.is_closed();
        }
        if scope.is_over(&core.store.read()) {
            let _ = tokio::time::timeout(LAST_LINES, core.logs.finished(&id)).await;
            break true;
        }
        let news = async {
            loop {
                match events.recv().await {
                    Ok(event) if !scope.concerns(&event) => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => return true,
                    Err(RecvError::Closed) => return false,
                }
            }
        };
        let goes_on = tokio::select! {
            () = core.cancel.cancelled() => false,
            () = lines.closed() => false,
            _ = leadership.wait_for(|l| !l.is_self) => false,
            opened = sessions.changed() => opened.is_ok(),
            goes_on = news => goes_on,
        };
        if !goes_on {
            break false;
        }
    };
    if !is_whole {
        // Who reads no more does not miss it. One that is slow is not waited for in the end.
        let stopped = async {
            core.cancel.cancelled().await;
            tokio::time::sleep(LAST_LINES).await;
        };
        tokio::select! {
            _ = lines.send(Err(ManagerError::no_leader())) => {}
            () = stopped => {}
        }
    } else if !selector.follow {
        return;
    }
    core.logs.close(&id);
    for session in core.sessions.all() {
        let close = LogSubscription {
            id: id.clone(),
            close: true,
            ..Default::default()
        };
        session.send(Message::Logs(close)).await;
    }
}
