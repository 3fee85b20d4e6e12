//! The applied state, shared between the state machine that writes it and all who read it. It outlives a Raft that
//! fails.

use super::types::{Entry, LogId, StoredMembership};
use crate::{
    ManagerError,
    state::{Event, Lineage, ObjectKind, State},
};
use openraft::EntryPayload;
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard},
};
use tokio::sync::{broadcast, watch};

/// Events kept for a slow receiver; one that lags further is told so and reads the state anew.
const EVENT_BACKLOG: usize = 16 * 1024;

/// Events kept for those who ask what happened before; as many as Docker keeps.
const RECENT: usize = 256;

/// Where in the log the state is.
#[derive(Debug, Clone, Default)]
pub(super) struct Position {
    pub(super) last_applied: Option<LogId>,
    pub(super) membership: StoredMembership,
}

/// What a manager without a state goes by.
#[derive(Debug)]
enum Expected {
    /// It was told nothing yet.
    Nothing,
    /// The group of this incarnation is about to let it in.
    Told(String),
    /// Its log has entries, and no snapshot: it is of a group that was never rebuilt.
    Logged,
}

/// The state with its feeds.
#[derive(Debug)]
pub(crate) struct Store {
    state: RwLock<State>,
    position: Mutex<Position>,
    expected: Mutex<Expected>,
    events: broadcast::Sender<Event>,
    /// The last events, but those of tasks.
    recent: Mutex<VecDeque<Event>>,
    index: watch::Sender<u64>,
    /// The rules that this manager knows.
    rules: u32,
    /// Later ones, which it has met: it cannot go on.
    met: watch::Sender<Option<u32>>,
}

impl Store {
    /// Of a manager that knows these rules.
    pub(crate) fn new(rules: u32) -> Self {
        Self {
            state: RwLock::new(State::default()),
            position: Mutex::default(),
            expected: Mutex::new(Expected::Nothing),
            events: broadcast::Sender::new(EVENT_BACKLOG),
            recent: Mutex::default(),
            index: watch::Sender::new(0),
            rules,
            met: watch::Sender::new(None),
        }
    }

    /// The rules that this manager knows.
    pub(crate) fn knows(&self) -> u32 {
        self.rules
    }

    /// Refuses an entry of rules that this manager does not know. From then on it takes no part.
    pub(super) fn check(&self, entry: &Entry) -> Result<(), ManagerError> {
        match &entry.payload {
            EntryPayload::Normal(batch) if batch.rules() > self.rules => {
                Err(self.meet(batch.rules()))
            }
            _ => Ok(()),
        }
    }

    /// This manager is to go by rules that it does not know.
    pub(super) fn meet(&self, rules: u32) -> ManagerError {
        self.met.send_replace(Some(rules));
        ManagerError::outdated(self.rules, rules)
    }

    /// Why this manager takes no part any more, if its program is too old.
    pub(super) fn outdated(&self) -> Option<ManagerError> {
        let met = *self.met.borrow();
        met.map(|met| ManagerError::outdated(self.rules, met))
    }

    /// Waits until its program turns out to be too old.
    pub(super) async fn until_outdated(&self) {
        // The sender is here.
        drop(self.met.subscribe().wait_for(Option::is_some).await);
    }

    /// The state, for reading. A panic while writing poisons nothing: apply does not panic half-way
    /// through an object.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(|e| e.into_inner())
    }

    /// Written by the state machine alone, together with the state.
    pub(super) fn position(&self) -> MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn expected(&self) -> MutexGuard<'_, Expected> {
        self.expected.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The group that this manager is of, or is to come into; `None` while it does not know.
    pub(crate) fn lineage(&self) -> Option<Lineage> {
        let state = self.read();
        if state.cluster().is_some() {
            return Some(state.lineage());
        }
        let incarnation = match &*self.expected() {
            Expected::Nothing => return None,
            Expected::Told(incarnation) => incarnation.clone(),
            Expected::Logged => String::new(),
        };
        Some(Lineage {
            incarnation,
            past: Vec::new(),
        })
    }

    /// This manager has been told which group it is to come into. What it has of one already counts more.
    pub(crate) fn expect(&self, incarnation: String) {
        let mut expected = self.expected();
        if !matches!(*expected, Expected::Logged) {
            *expected = Expected::Told(incarnation);
        }
    }

    /// There are entries in the log.
    pub(super) fn note_log(&self) {
        *self.expected() = Expected::Logged;
    }

    /// Tells of what was applied. Call it without the lock.
    pub(super) fn publish(&self, index: u64, events: Vec<Event>) {
        let mut recent = self.recent();
        for event in events {
            if event.kind != ObjectKind::Task || event.container.is_some() {
                recent.truncate(RECENT - 1);
                recent.push_front(event.clone());
            }
            // Nobody listens: fine.
            let _ = self.events.send(event);
        }
        drop(recent);
        self.index.send_replace(index);
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.recent.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The last events since a time (nanoseconds since the epoch), oldest first, and those to come.
    pub(crate) fn subscribe_since(&self, since: i64) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let recent = self.recent();
        let past = recent.iter().rev().filter(|event| event.time >= since);
        (past.cloned().collect(), self.events.subscribe())
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    pub(crate) fn index(&self) -> watch::Receiver<u64> {
        self.index.subscribe()
    }
}
