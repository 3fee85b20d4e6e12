//! The nodes' open sessions: who they are, what they have applied, how to reach them.

use mesh_api::proto;
use std::{
    cmp::Ordering,
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering as Access},
    },
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// One node's session.
#[derive(Debug)]
pub(crate) struct Session {
    /// Random; tells sessions of one node apart.
    pub(crate) id: String,
    /// The node.
    pub(crate) node_id: String,
    /// Ends the session.
    pub(crate) cancel: CancellationToken,
    messages: mpsc::Sender<Result<proto::ManagerMessage, tonic::Status>>,
    progress: Mutex<Progress>,
    /// The longest period of heartbeats that it was told, milliseconds.
    longest_period: AtomicU32,
}

/// How far a node follows what its session tells it.
#[derive(Debug)]
struct Progress {
    /// Revision of the first assignment sent, which is whole; 0 before that.
    first: u64,
    /// Revision of the last assignment sent.
    sent: u64,
    /// Index of the last state looked at, sent or found to hold nothing new.
    covered: u64,
    /// Revision that the node says it has applied.
    applied: u64,
    /// Since when it stands still with something left to apply, in this session or the ones before it.
    still_since: Option<Instant>,
}

impl Progress {
    /// The newest state that the node has applied in full.
    fn acknowledged(&self) -> u64 {
        match self.applied.cmp(&self.sent) {
            Ordering::Less => self.applied,
            Ordering::Equal => self.covered,
            // It had that from others, before the assignment of this session.
            Ordering::Greater => 0,
        }
    }

    /// Whether the node has applied what this session told it first. What it says to have applied before that, it had kept.
    fn is_caught_up(&self) -> bool {
        self.first > 0 && self.acknowledged() >= self.first
    }

    /// Whether it has stood still at `now` for as long as this.
    fn is_still(&self, patience: Duration, now: Instant) -> bool {
        self.still_since
            .is_some_and(|since| is_over(since, patience, now))
    }
}

/// Whether `now` is so long after `since`.
fn is_over(since: Instant, patience: Duration, now: Instant) -> bool {
    now.saturating_duration_since(since) >= patience
}

impl Session {
    pub(crate) fn new(
        node_id: &str,
        cancel: CancellationToken,
        messages: mpsc::Sender<Result<proto::ManagerMessage, tonic::Status>>,
    ) -> Self {
        Self {
            id: mesh_pki::new_id(),
            node_id: node_id.to_owned(),
            cancel,
            messages,
            progress: Mutex::new(Progress {
                first: 0,
                sent: 0,
                covered: 0,
                applied: 0,
                still_since: Some(Instant::now()),
            }),
            longest_period: AtomicU32::new(0),
        }
    }

    /// The node is about to be told to send heartbeats with this period, milliseconds.
    pub(crate) fn note_period(&self, period_ms: u32) {
        self.longest_period.fetch_max(period_ms, Access::Relaxed);
    }

    /// The period that the node goes by, as its heartbeat says, milliseconds: none that is longer than what it was told.
    /// `None` where it does not say.
    pub(crate) fn pace(&self, said_ms: u32) -> Option<Duration> {
        let pace = said_ms.min(self.longest_period.load(Access::Relaxed));
        (pace > 0).then(|| Duration::from_millis(pace.into()))
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // It is whole between any two statements.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a message; false once the session is over.
    pub(crate) async fn send(&self, body: proto::manager_message::Message) -> bool {
        let message = proto::ManagerMessage {
            message: Some(body),
        };
        tokio::select! {
            () = self.cancel.cancelled() => false,
            sent = self.messages.send(Ok(message)) => sent.is_ok(),
        }
    }

    /// An assignment of this revision is about to be sent.
    pub(crate) fn note_sent(&self, revision: u64) {
        let mut progress = self.progress();
        if progress.first == 0 {
            progress.first = revision;
        }
        progress.sent = revision;
        progress.covered = revision;
        if progress.applied == revision {
            // It had this before, and has said so already.
            progress.still_since = None;
        } else {
            progress.still_since.get_or_insert_with(Instant::now);
        }
    }

    /// The state of this index holds nothing new for the node.
    pub(crate) fn note_covered(&self, index: u64) {
        self.progress().covered = index;
    }

    /// The node has applied this revision.
    pub(crate) fn note_applied(&self, revision: u64) {
        let mut progress = self.progress();
        // What the node has from before this session is no progress.
        let is_told = progress.first > 0 && (progress.first..=progress.sent).contains(&revision);
        if is_told && revision == progress.sent {
            progress.still_since = None;
        } else if is_told && revision != progress.applied {
            progress.still_since = Some(Instant::now());
        }
        progress.applied = revision;
    }

    /// The newest state that the node has applied in full.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.progress().acknowledged()
    }
}

/// The nodes by their ids.
#[derive(Debug, Default)]
struct Nodes {
    /// The open sessions.
    open: HashMap<String, Arc<Session>>,
    /// Nodes that stood still when their last session ended, and have no other one so far: since when.
    between: HashMap<String, Instant>,
}

/// Every open session, and what is kept of a node from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    nodes: Mutex<Nodes>,
    /// Rises with each new one.
    opened: watch::Sender<u64>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Nodes> {
        // The maps are whole between any two statements.
        self.nodes.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Adds a session; an older one of the same node ends. A node that stood still does so until it has applied something of
    /// the new one, however often it comes back.
    pub(crate) fn add(&self, session: Arc<Session>) {
        let mut nodes = self.lock();
        let old = nodes.open.insert(session.node_id.clone(), session.clone());
        let between = nodes.between.remove(&session.node_id);
        let still_since = old
            .as_ref()
            .map_or(between, |old| old.progress().still_since);
        if still_since.is_some() {
            session.progress().still_since = still_since;
        }
        drop(nodes);
        if let Some(old) = old {
            old.cancel.cancel();
        }
        self.opened.send_modify(|count| *count += 1);
    }

    /// Changes with each new session.
    pub(crate) fn opened(&self) -> watch::Receiver<u64> {
        self.opened.subscribe()
    }

    /// Removes this very session.
    pub(crate) fn remove(&self, session: &Session) {
        let mut nodes = self.lock();
        let open = nodes.open.get(&session.node_id);
        if open.is_some_and(|open| open.id == session.id) {
            nodes.open.remove(&session.node_id);
            if let Some(since) = session.progress().still_since {
                nodes.between.insert(session.node_id.clone(), since);
            }
        }
    }

    /// A node was down, or is removed: what it told before is over, and its session with it, if one is left.
    pub(crate) fn forget(&self, node_id: &str) {
        let mut nodes = self.lock();
        nodes.between.remove(node_id);
        if let Some(session) = nodes.open.remove(node_id) {
            session.cancel.cancel();
        }
    }

    /// A node's session.
    pub(crate) fn get(&self, node_id: &str) -> Option<Arc<Session>> {
        self.lock().open.get(node_id).cloned()
    }

    /// How many are open.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.lock().open.len()).unwrap_or(u32::MAX)
    }

    /// Every open session.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.lock().open.values().cloned().collect()
    }

    /// Ends every session: this manager no longer leads.
    pub(crate) fn close_all(&self) {
        let mut nodes = self.lock();
        nodes.between.clear();
        for (_, session) in nodes.open.drain() {
            session.cancel.cancel();
        }
    }

    /// The newest state that all of these nodes have applied: none while one of them has no session, or has yet to apply what
    /// it was told first in it, as it goes by older news until then. One that has stood still at `now` for as long as
    /// `patience`, in one session or several, does not count until it moves on.
    pub(crate) fn acknowledged<'a>(
        &self,
        nodes: impl Iterator<Item = &'a str>,
        patience: Duration,
        now: Instant,
    ) -> u64 {
        let known = self.lock();
        let of = |id: &str| match known.open.get(id).map(|session| session.progress()) {
            Some(progress) if progress.is_still(patience, now) => u64::MAX,
            Some(progress) if progress.is_caught_up() => progress.acknowledged(),
            Some(_) => 0,
            None => match known.between.get(id) {
                Some(since) if is_over(*since, patience, now) => u64::MAX,
                _ => 0,
            },
        };
        nodes.map(of).min().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_node_has_more_time_than_it_was_given() {
        let session = Session::new("n", CancellationToken::new(), mpsc::channel(1).0);
        let pace = |said| session.pace(said).map(|pace| pace.as_millis());
        session.note_period(2000);
        session.note_period(100);
        assert_eq!(pace(0), None, "an older agent does not say");
        assert_eq!(pace(100), Some(100));
        assert_eq!(
            pace(2000),
            Some(2000),
            "it may not have heard the last word"
        );
        assert_eq!(pace(u32::MAX), Some(2000));
    }
}
