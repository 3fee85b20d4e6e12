//! Open log subscriptions: lines of many nodes come in, each goes to the one who asked.

use super::{Had, LogLine};
use crate::{ManagerError, dispatcher::Session};
use mesh_api::proto;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::sync::{Notify, mpsc};

type Lines = mpsc::Sender<Result<LogLine, ManagerError>>;

/// A task whose lines a node was asked for.
#[derive(Debug)]
struct Asked {
    service_id: String,
    /// The session it was asked in: the node's next one knows nothing of it.
    session_id: String,
    /// Time of the last line, nanoseconds since the epoch.
    last: Option<i64>,
}

/// Answers that a node has not finished.
#[derive(Debug)]
struct Pending {
    session_id: String,
    count: usize,
}

/// One reader.
#[derive(Debug)]
struct Subscription {
    lines: Lines,
    follow: bool,
    /// What the reader has from a leader before this one.
    had: Had,
    /// By node id.
    pending: HashMap<String, Pending>,
    /// By task id.
    asked: HashMap<String, Asked>,
    /// Told when no answer is pending.
    finished: Arc<Notify>,
}

impl Subscription {
    /// Whether it is over, now that nodes have finished.
    fn is_over(&self) -> bool {
        if !self.pending.is_empty() {
            return false;
        }
        self.finished.notify_waiters();
        !self.follow
    }
}

/// Every open subscription by id.
#[derive(Debug, Default)]
pub(crate) struct LogBroker(Mutex<HashMap<String, Subscription>>);

impl LogBroker {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Subscription>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Opens a subscription.
    pub(super) fn open(&self, id: &str, follow: bool, had: Had, lines: Lines) {
        let subscription = Subscription {
            lines,
            follow,
            had,
            pending: HashMap::new(),
            asked: HashMap::new(),
            finished: Arc::default(),
        };
        self.lock().insert(id.to_owned(), subscription);
    }

    /// Whether a session was asked for a task's lines; if not, it counts as asked from now on. Gives the time of the last
    /// line that the reader has, of an earlier session or leader.
    pub(super) fn ask(
        &self,
        id: &str,
        session: &Session,
        task_id: &str,
        service_id: &str,
    ) -> Option<Option<i64>> {
        let mut subscriptions = self.lock();
        let subscription = subscriptions.get_mut(id)?;
        let asked = &mut subscription.asked;
        let last = match asked.get(task_id) {
            Some(asked) if asked.session_id == session.id => return None,
            earlier => earlier.and_then(|asked| asked.last),
        };
        let last = last.or_else(|| subscription.had.get(task_id).copied());
        let now = Asked {
            service_id: service_id.to_owned(),
            session_id: session.id.clone(),
            last,
        };
        asked.insert(task_id.to_owned(), now);
        Some(last)
    }

    /// A node is about to be asked, and will say when it has finished.
    pub(super) fn expect(&self, id: &str, session: &Session) {
        if let Some(subscription) = self.lock().get_mut(id) {
            let node_id = session.node_id.clone();
            let fresh = || Pending {
                session_id: session.id.clone(),
                count: 0,
            };
            let pending = subscription.pending.entry(node_id).or_insert_with(fresh);
            if pending.session_id != session.id {
                *pending = fresh();
            }
            pending.count += 1;
        }
    }

    /// Ends a subscription that expects nothing (more).
    pub(super) fn close_if_done(&self, id: &str) {
        let mut subscriptions = self.lock();
        if subscriptions.get(id).is_some_and(Subscription::is_over) {
            subscriptions.remove(id);
        }
    }

    /// Waits until no answer is pending.
    pub(super) async fn finished(&self, id: &str) {
        loop {
            let finished = match self.lock().get(id) {
                Some(subscription) if !subscription.pending.is_empty() => {
                    Arc::clone(&subscription.finished).notified_owned()
                }
                _ => return,
            };
            finished.await;
        }
    }

    /// Ends a subscription.
    pub(super) fn close(&self, id: &str) {
        self.lock().remove(id);
    }

    /// A session is over: what was asked in it will not be answered.
    pub(crate) fn session_gone(&self, session: &Session) {
        self.lock().retain(|_, subscription| {
            let pending = &mut subscription.pending;
            let was_asked = pending
                .get(&session.node_id)
                .is_some_and(|pending| pending.session_id == session.id);
            if was_asked {
                pending.remove(&session.node_id);
            }
            !(was_asked && subscription.is_over())
        });
    }

    /// Lines from a node; false when nobody reads them any more. Waits for slow readers.
    pub(crate) async fn deliver(&self, node_id: &str, batch: proto::LogBatch) -> bool {
        let id = &batch.subscription_id;
        let mut ready = Vec::with_capacity(batch.lines.len());
        let lines = {
            let mut subscriptions = self.lock();
            let Some(subscription) = subscriptions.get_mut(id) else {
                return false;
            };
            for line in batch.lines {
                let Some(asked) = subscription.asked.get_mut(&line.task_id) else {
                    continue;
                };
                asked.last = asked.last.max(Some(line.timestamp));
                ready.push(LogLine {
                    service_id: asked.service_id.clone(),
                    task_id: line.task_id,
                    node_id: node_id.to_owned(),
                    timestamp: line.timestamp,
                    stream: if line.stream == 2 { 2 } else { 1 },
                    data: line.data,
                });
            }
            subscription.lines.clone()
        };
        for line in ready {
            if lines.send(Ok(line)).await.is_err() {
                self.close(id);
                return false;
            }
        }
        if batch.end {
            let mut subscriptions = self.lock();
            if let Some(subscription) = subscriptions.get_mut(id) {
                if let Some(pending) = subscription.pending.get_mut(node_id) {
                    pending.count -= 1;
                    if pending.count == 0 {
                        subscription.pending.remove(node_id);
                    }
                }
                if subscription.is_over() {
                    subscriptions.remove(id);
                }
            }
        }
        true
    }
}
