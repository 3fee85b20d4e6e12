//! The nodes' open sessions: who they are, what they have applied, how to reach them.

use mesh_api::proto;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
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
    opened: Instant,
    /// Revision of the first assignment sent, which is whole; 0 before that.
    first: AtomicU64,
    /// Revision of the last assignment sent.
    sent: AtomicU64,
    /// Index of the last state looked at, sent or found to hold nothing new.
    covered: AtomicU64,
    /// Revision that the node says it has applied.
    applied: AtomicU64,
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
            opened: Instant::now(),
            first: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            covered: AtomicU64::new(0),
            applied: AtomicU64::new(0),
        }
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
        // Only the first one.
        let _ = self
            .first
            .compare_exchange(0, revision, Ordering::SeqCst, Ordering::SeqCst);
        self.sent.store(revision, Ordering::SeqCst);
        self.covered.store(revision, Ordering::SeqCst);
    }

    /// The state of this index holds nothing new for the node.
    pub(crate) fn note_covered(&self, index: u64) {
        self.covered.store(index, Ordering::SeqCst);
    }

    /// The node has applied this revision.
    pub(crate) fn note_applied(&self, revision: u64) {
        self.applied.store(revision, Ordering::SeqCst);
    }

    /// The newest state that the node has applied in full.
    pub(crate) fn acknowledged(&self) -> u64 {
        let covered = self.covered.load(Ordering::SeqCst);
        let applied = self.applied.load(Ordering::SeqCst);
        match applied.cmp(&self.sent.load(Ordering::SeqCst)) {
            std::cmp::Ordering::Less => applied,
            std::cmp::Ordering::Equal => covered,
            // It had that from others, before the assignment of this session.
            std::cmp::Ordering::Greater => 0,
        }
    }

    /// Whether the node has applied what this session told it first. What it says to have applied before that, it had kept.
    fn is_caught_up(&self) -> bool {
        let first = self.first.load(Ordering::SeqCst);
        first > 0 && self.acknowledged() >= first
    }
}

/// Every open session by node id.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: Mutex<HashMap<String, Arc<Session>>>,
    /// Rises with each new one.
    opened: watch::Sender<u64>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        // The map is whole between any two statements.
        self.open.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Adds a session; an older one of the same node ends.
    pub(crate) fn add(&self, session: Arc<Session>) {
        let old = self.lock().insert(session.node_id.clone(), session);
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
        let mut sessions = self.lock();
        if sessions
            .get(&session.node_id)
            .is_some_and(|s| s.id == session.id)
        {
            sessions.remove(&session.node_id);
        }
    }

    /// A node's session.
    pub(crate) fn get(&self, node_id: &str) -> Option<Arc<Session>> {
        self.lock().get(node_id).cloned()
    }

    /// How many are open.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.lock().len()).unwrap_or(u32::MAX)
    }

    /// Every open session.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.lock().values().cloned().collect()
    }

    /// Ends every session: this manager no longer leads.
    pub(crate) fn close_all(&self) {
        for (_, session) in self.lock().drain() {
            session.cancel.cancel();
        }
    }

    /// Whether all of these nodes are in session, and have applied a whole state since it was opened or have had `patience` for
    /// it: one that cannot follow holds up nobody for longer.
    pub(crate) fn are_caught_up<'a>(
        &self,
        mut nodes: impl Iterator<Item = &'a str>,
        patience: Duration,
    ) -> bool {
        let open = self.lock();
        let is_done = |s: &Arc<Session>| s.is_caught_up() || s.opened.elapsed() >= patience;
        nodes.all(|id| open.get(id).is_some_and(is_done))
    }

    /// Whether every node in session has applied the state of `index`.
    pub(crate) fn is_acknowledged(&self, index: u64) -> bool {
        self.lock().values().all(|s| s.acknowledged() >= index)
    }
}
