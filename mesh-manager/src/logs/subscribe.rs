//! Asks the nodes for logs and keeps asking as tasks come, while the reader is there.

use super::{Had, LogItem, LogSelector, LogStream, LogTarget};
use crate::{
    ErrorKind, ManagerError,
    core::Core,
    dispatcher::Session,
    state::{Event, NodeState, State, Task, TaskState},
};
use futures::future::join_all;
use mesh_api::proto::{LogSubscription, manager_message::Message};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::{broadcast::error::RecvError, mpsc, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;

/// Lines that wait for a slow reader before the nodes are held back.
const BACKLOG: usize = 256;
/// A node that says nothing for so long after all tasks that are followed have ended is waited for no more.
const LAST_LINES: Duration = Duration::from_secs(3);
/// A node that was asked and says nothing for so long is waited for no more.
const SILENCE: Duration = Duration::from_secs(10);
/// Longest wait for a node to take a question.
const QUESTION: Duration = Duration::from_secs(5);
/// Longest wait for nodes that are held for alive and not connected: a new leader's are on their way.
const RETURN: Duration = Duration::from_secs(5);

/// What a selector means in terms of tasks.
#[derive(Debug, Clone)]
enum Scope {
    Service(String),
    Task(String),
}

impl Scope {
    /// Tasks that may have lines: those whose container has been made.
    fn tasks<'a>(&self, state: &'a State) -> Vec<&'a Task> {
        let has_log = |t: &&Task| t.node_id.is_some() && t.status.state >= TaskState::Ready;
        self.all(state).into_iter().filter(has_log).collect()
    }

    fn all<'a>(&self, state: &'a State) -> Vec<&'a Task> {
        match self {
            Self::Service(id) => state.tasks_of_service(id).collect(),
            Self::Task(id) => state.task(id).into_iter().collect(),
        }
    }

    /// Said of tasks that no node has yet.
    fn unscheduled(&self, state: &State) -> Vec<String> {
        let all = self.all(state).into_iter();
        let unscheduled = all.filter(|task| task.node_id.is_none() && task.is_wanted());
        unscheduled
            .map(|task| format!("task {} has not been scheduled", task.id))
            .collect()
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

/// From when on, and how many lines of before, as in [`LogSubscription`]: after the last line that the reader has, if any. A
/// node may say any time of it.
fn continued(last: Option<i64>, since: i64, tail: i64) -> (i64, i64) {
    last.map_or((since, tail), |last| (last.saturating_add(1), -1))
}

/// Asks for tasks that their node's session has not been asked for yet. Whether a node without one is likely to return.
async fn ask(core: &Core, id: &str, scope: &Scope, selector: &LogSelector) -> bool {
    let tail = selector
        .tail
        .map_or(-1, |tail| i64::try_from(tail).unwrap_or(i64::MAX));
    let mut wanted: BTreeMap<Question, (Arc<Session>, Vec<String>)> = BTreeMap::new();
    let mut returns = false;
    {
        let state = core.store.read();
        for task in scope.tasks(&state) {
            // What a node wrote that was removed is nobody's any more.
            let node = task.node_id.as_deref().and_then(|id| state.node(id));
            let Some(node) = node else { continue };
            let Some(session) = core.sessions.get(&node.id) else {
                core.logs.absent(id, &node.id);
                returns |= node.state == NodeState::Ready;
                continue;
            };
            let Some(last) = core.logs.ask(id, &session, &task.id, &task.service_id) else {
                continue;
            };
            let (since, tail) = continued(last, selector.since, tail);
            let question = Question {
                node_id: session.node_id.clone(),
                since,
                tail,
            };
            let (_, tasks) = wanted.entry(question).or_insert((session, Vec::new()));
            tasks.push(task.id.clone());
        }
    }
    join_all(
        wanted
            .into_iter()
            .map(|(question, (session, task_ids))| async move {
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
                match timeout(QUESTION, session.send(Message::Logs(subscription))).await {
                    Ok(true) => {}
                    Ok(false) => core.logs.session_gone(&session),
                    Err(_) => core.logs.mute(id, &session),
                }
            }),
    )
    .await;
    returns
}

/// Asks, and waits for the answers.
async fn gather(
    core: &Core,
    id: &str,
    scope: &Scope,
    selector: &LogSelector,
    mut sessions: watch::Receiver<u64>,
) {
    let give_up = Instant::now() + RETURN;
    loop {
        let returns = ask(core, id, scope, selector).await;
        core.logs.finished(id, SILENCE).await;
        if !returns || !matches!(timeout_at(give_up, sessions.changed()).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn run(
    core: Arc<Core>,
    id: String,
    scope: Scope,
    selector: LogSelector,
    lines: mpsc::Sender<Result<LogItem, ManagerError>>,
) {
    let mut events = core.store.subscribe();
    let mut sessions = core.sessions.opened();
    let mut leadership = core.consensus.leadership();
    let is_whole = loop {
        if !selector.follow {
            tokio::select! {
                () = lines.closed() => {}
                () = core.cancel.cancelled() => {}
                () = gather(&core, &id, &scope, &selector, sessions.clone()) => {}
            }
            // Nodes that leave a leader that is one no more have not said all.
            break leadership.borrow().is_self && !core.cancel.is_cancelled() && !lines.is_closed();
        }
        ask(&core, &id, &scope, &selector).await;
        if scope.is_over(&core.store.read()) {
            core.logs.ending(&id);
            tokio::select! {
                () = lines.closed() => {}
                () = core.cancel.cancelled() => {}
                () = core.logs.finished(&id, LAST_LINES) => {}
            }
            break !core.cancel.is_cancelled();
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
    let last = if is_whole {
        let mut reasons = core.logs.reasons(&id);
        reasons.extend(scope.unscheduled(&core.store.read()));
        (!reasons.is_empty()).then_some(Ok(LogItem::Incomplete(reasons)))
    } else {
        Some(Err(ManagerError::no_leader()))
    };
    if let Some(last) = last {
        // Who reads no more does not miss it. One that is slow is not waited for in the end.
        let stopped = async {
            core.cancel.cancelled().await;
            tokio::time::sleep(LAST_LINES).await;
        };
        tokio::select! {
            _ = lines.send(last) => {}
            () = stopped => {}
        }
    }
    for node_id in core.logs.close(&id) {
        let Some(session) = core.sessions.get(&node_id) else {
            continue;
        };
        let close = LogSubscription {
            id: id.clone(),
            close: true,
            ..Default::default()
        };
        session.send(Message::Logs(close)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::continued;

    #[test]
    fn what_the_reader_has_is_not_asked_for_again() {
        for (last, from) in [
            (None, (5, 10)),
            (Some(7), (8, -1)),
            (Some(i64::MAX), (i64::MAX, -1)),
        ] {
            assert_eq!(continued(last, 5, 10), from);
        }
    }
}
