//! Open log subscriptions: lines of many nodes come in, each goes to the one who asked.

use super::{Had, LogItem, LogLine};
use crate::{ManagerError, dispatcher::Session, text::cut};
use mesh_api::proto;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout_at},
};

type Lines = mpsc::Sender<Result<LogItem, ManagerError>>;

/// Reasons for missing lines that are taken from one node: its lines are missing whatever more it says.
const REASONS: usize = 1000;
/// The longest of them, bytes.
const REASON: usize = 1 << 10;

const DISCONNECTED: &str = "disconnected unexpectedly";

/// A task whose lines a node was asked for.
#[derive(Debug)]
struct Asked {
    service_id: String,
    /// Who was asked, and nobody else is listened to.
    node_id: String,
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
    /// When the node was asked, or last sent lines.
    heard: Instant,
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
    /// By node id: why it has not given its lines.
    unheard: BTreeMap<String, String>,
    /// By node id: what it could not read, in its words.
    unread: BTreeMap<String, BTreeSet<String>>,
    /// Told when no answer is pending.
    finished: Arc<Notify>,
}

impl Subscription {
    /// A node finished an answer.
    fn one_less(&mut self, node_id: &str) {
        if let Some(pending) = self.pending.get_mut(node_id) {
            pending.count -= 1;
            if pending.count == 0 {
                self.pending.remove(node_id);
                self.tell();
            }
        }
    }

    /// Nothing more is expected of a node, though it has not finished.
    fn give_up(&mut self, node_id: &str, reason: &str) {
        self.pending.remove(node_id);
        let reason = format!("node {node_id} {reason}");
        self.unheard.insert(node_id.to_owned(), reason);
        self.tell();
    }

    /// A node says why lines are missing. Only those who were asked have a say, and not for any length.
    fn misses(&mut self, node_id: &str, reasons: Vec<String>) {
        let mut asked = self.asked.values();
        if reasons.is_empty() || !asked.any(|asked| asked.node_id == node_id) {
            return;
        }
        let unread = self.unread.entry(node_id.to_owned()).or_default();
        for mut reason in reasons {
            if unread.len() >= REASONS {
                return;
            }
            cut(&mut reason, REASON);
            unread.insert(reason);
        }
    }

    /// Wakes who waits for the last answer, if that was it.
    fn tell(&self) {
        if self.pending.is_empty() {
            self.finished.notify_waiters();
        }
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
            unheard: BTreeMap::new(),
            unread: BTreeMap::new(),
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
            node_id: session.node_id.clone(),
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
            subscription.unheard.remove(&node_id);
            let fresh = || Pending {
                session_id: session.id.clone(),
                count: 0,
                heard: Instant::now(),
            };
            let pending = subscription.pending.entry(node_id).or_insert_with(fresh);
            if pending.session_id != session.id {
                *pending = fresh();
            }
            pending.count += 1;
        }
    }

    /// A node that has lines is not connected.
    pub(super) fn absent(&self, id: &str, node_id: &str) {
        if let Some(subscription) = self.lock().get_mut(id) {
            let known = subscription.unheard.entry(node_id.to_owned());
            known.or_insert_with(|| format!("node {node_id} is not available"));
        }
    }

    /// A node takes no questions.
    pub(super) fn mute(&self, id: &str, session: &Session) {
        if let Some(subscription) = self.lock().get_mut(id) {
            subscription.give_up(&session.node_id, "does not answer");
        }
    }

    /// Why lines are missing so far.
    pub(super) fn reasons(&self, id: &str) -> Vec<String> {
        let subscriptions = self.lock();
        let Some(subscription) = subscriptions.get(id) else {
            return Vec::new();
        };
        let unheard = subscription.unheard.values();
        let unread: BTreeSet<_> = subscription.unread.values().flatten().collect();
        unheard.chain(unread).cloned().collect()
    }

    /// Waits until no answer is pending. Nodes that say nothing for `silence` are waited for no more.
    pub(super) async fn finished(&self, id: &str, silence: Duration) {
        loop {
            let (finished, deadline) = {
                let subscriptions = self.lock();
                let Some(subscription) = subscriptions.get(id) else {
                    return;
                };
                let heard = subscription.pending.values().map(|pending| pending.heard);
                let Some(first) = heard.min() else {
                    return;
                };
                let finished = Arc::clone(&subscription.finished).notified_owned();
                (finished, first + silence)
            };
            if timeout_at(deadline, finished).await.is_err() {
                self.give_up_on_silent(id, silence);
            }
        }
    }

    /// All that is followed has ended: nodes have their time from now on.
    pub(super) fn ending(&self, id: &str) {
        if let Some(subscription) = self.lock().get_mut(id) {
            let now = Instant::now();
            for pending in subscription.pending.values_mut() {
                pending.heard = now;
            }
        }
    }

    fn give_up_on_silent(&self, id: &str, silence: Duration) {
        let mut subscriptions = self.lock();
        let Some(subscription) = subscriptions.get_mut(id) else {
            return;
        };
        let now = Instant::now();
        if subscription.lines.capacity() == 0 {
            // It is the reader who is slow, and holds the nodes back.
            for pending in subscription.pending.values_mut() {
                pending.heard = now;
            }
            return;
        }
        let pending = subscription.pending.iter();
        let silent_ones = pending.filter(|(_, pending)| pending.heard + silence <= now);
        let silent_ones: Vec<_> = silent_ones.map(|(node_id, _)| node_id.clone()).collect();
        for node_id in silent_ones {
            subscription.give_up(&node_id, "does not answer");
        }
    }

    /// Ends a subscription. Gives the nodes that have not finished.
    pub(super) fn close(&self, id: &str) -> Vec<String> {
        let closed = self.lock().remove(id);
        let pending = closed.map(|subscription| subscription.pending);
        pending.unwrap_or_default().into_keys().collect()
    }

    /// A session is over: what was asked in it will not be answered.
    pub(crate) fn session_gone(&self, session: &Session) {
        for subscription in self.lock().values_mut() {
            let pending = subscription.pending.get(&session.node_id);
            if pending.is_some_and(|pending| pending.session_id == session.id) {
                subscription.give_up(&session.node_id, DISCONNECTED);
            }
        }
    }

    /// A node's answer ended before it was whole. What is followed goes on with the node's next session.
    pub(crate) fn broke_off(&self, node_id: &str, id: &str) {
        if let Some(subscription) = self.lock().get_mut(id)
            && !subscription.follow
            && subscription.pending.contains_key(node_id)
        {
            subscription.give_up(node_id, DISCONNECTED);
        }
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
            if let Some(pending) = subscription.pending.get_mut(node_id) {
                pending.heard = Instant::now();
            }
            subscription.misses(node_id, batch.missing);
            for line in batch.lines {
                let asked = subscription.asked.get_mut(&line.task_id);
                let Some(asked) = asked.filter(|asked| asked.node_id == node_id) else {
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
            if lines.send(Ok(LogItem::Line(line))).await.is_err() {
                return false;
            }
        }
        if batch.end
            && let Some(subscription) = self.lock().get_mut(id)
        {
            subscription.one_less(node_id);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_util::sync::CancellationToken;

    /// A session whose node is asked and reads nothing.
    fn session(node_id: &str) -> Session {
        Session::new(node_id, CancellationToken::new(), mpsc::channel(1).0)
    }

    fn batch(lines: usize, end: bool) -> proto::LogBatch {
        let line = proto::LogLine {
            task_id: "t".to_owned(),
            ..Default::default()
        };
        proto::LogBatch {
            subscription_id: "s".to_owned(),
            lines: vec![line; lines],
            end,
            ..Default::default()
        }
    }

    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn nobody_is_waited_for_without_limit() {
        let broker = LogBroker::default();
        let (lines, _reader) = mpsc::channel(8);
        broker.open("s", false, Had::new(), lines);
        let (talks, silent, gone) = (session("talks"), session("silent"), session("gone"));
        for session in [&talks, &silent, &gone] {
            broker.expect("s", session);
        }
        broker.absent("s", "away");
        broker.session_gone(&gone);
        assert!(broker.deliver("talks", batch(1, true)).await);
        broker.finished("s", SHORT).await;
        assert_eq!(
            broker.reasons("s"),
            [
                "node away is not available",
                "node gone disconnected unexpectedly",
                "node silent does not answer"
            ]
        );
        // Who comes back is asked again.
        broker.expect("s", &session("away"));
        assert_eq!(broker.reasons("s").len(), 2);
        assert_eq!(broker.close("s"), ["away"]);
    }

    #[tokio::test]
    async fn who_was_quiet_has_time_when_all_has_ended() {
        let broker = LogBroker::default();
        let (lines, _reader) = mpsc::channel(8);
        broker.open("s", true, Had::new(), lines);
        for node in ["talks", "silent"] {
            broker.expect("s", &session(node));
        }
        tokio::time::sleep(SHORT * 2).await;
        broker.ending("s");
        let last = async { broker.deliver("talks", batch(1, true)).await };
        let ((), delivered) = tokio::join!(broker.finished("s", SHORT), last);
        assert!(delivered);
        assert_eq!(broker.reasons("s"), ["node silent does not answer"]);
    }

    #[tokio::test]
    async fn a_slow_reader_makes_no_node_silent() {
        let broker = LogBroker::default();
        let (lines, mut reader) = mpsc::channel(1);
        broker.open("s", false, Had::new(), lines);
        let node = session("n");
        broker.ask("s", &node, "t", "service");
        broker.expect("s", &node);
        let read = async {
            tokio::time::sleep(SHORT * 5).await;
            for _ in 0..3 {
                assert!(reader.recv().await.is_some());
            }
        };
        let deliver = broker.deliver("n", batch(3, true));
        let ((), delivered, ()) = tokio::join!(read, deliver, broker.finished("s", SHORT));
        assert!(delivered);
        assert_eq!(broker.reasons("s"), Vec::<String>::new());
    }

    #[tokio::test]
    async fn nobody_speaks_for_another_nodes_task() {
        let broker = LogBroker::default();
        let (lines, mut reader) = mpsc::channel(8);
        broker.open("s", false, Had::new(), lines);
        let node = session("n");
        broker.ask("s", &node, "t", "service");
        let liar = session("liar");
        let with = |reason: &str, last| {
            let mut batch = batch(1, false);
            batch.missing = vec![reason.to_owned()];
            batch.lines[0].timestamp = last;
            batch
        };
        // Neither while it is asked for nothing, nor while it is asked for another task.
        assert!(broker.deliver("liar", with("a lie", i64::MAX)).await);
        broker.ask("s", &liar, "its own", "service");
        assert!(broker.deliver("liar", with("its own", i64::MAX)).await);
        assert!(broker.deliver("n", with("said", 7)).await);
        let Ok(Ok(LogItem::Line(line))) = reader.try_recv() else {
            panic!("a line of the node that was asked");
        };
        assert_eq!((line.node_id.as_str(), line.timestamp), ("n", 7));
        assert!(reader.try_recv().is_err(), "no other line");
        assert_eq!(broker.reasons("s"), ["its own", "said"]);
        // The node's next session is asked for what comes after its own last line.
        let next = broker.ask("s", &session("n"), "t", "service");
        assert_eq!(next, Some(Some(7)));
    }

    #[tokio::test]
    async fn reasons_are_taken_for_no_length() {
        let broker = LogBroker::default();
        let (lines, _reader) = mpsc::channel(8);
        broker.open("s", false, Had::new(), lines);
        broker.ask("s", &session("n"), "t", "service");
        let mut batch = batch(0, false);
        let reason = |n| format!("{n:05}{}", "x".repeat(2 * REASON));
        batch.missing = (0..2 * REASONS).map(reason).collect();
        assert!(broker.deliver("n", batch).await);
        let reasons = broker.reasons("s");
        assert_eq!(reasons.len(), REASONS);
        assert!(reasons.iter().all(|reason| reason.len() == REASON));
    }

    #[tokio::test]
    async fn what_breaks_off_is_missed() {
        let broker = LogBroker::default();
        for (follow, missed) in [
            (false, vec!["node n disconnected unexpectedly".to_owned()]),
            // Its next session is asked.
            (true, vec![]),
        ] {
            let (lines, _reader) = mpsc::channel(1);
            broker.open("s", follow, Had::new(), lines);
            broker.expect("s", &session("n"));
            broker.broke_off("n", "s");
            assert_eq!(broker.reasons("s"), missed);
            broker.close("s");
        }
    }
}
