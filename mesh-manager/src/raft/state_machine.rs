//! Openraft's state machine around the pure [`crate::apply`], with snapshots.

use super::{
    Store,
    log_store::LogStore,
    snapshot::{self, SnapshotError},
    store::Position,
    types::{
        Entry, LogId, Outcomes, Snapshot, SnapshotMeta, StorageError, StoredMembership, TypeConfig,
    },
};
use crate::{ManagerError, apply, state::State};
use openraft::{
    AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError,
    storage::RaftStateMachine,
};
use std::{io::Cursor, sync::Arc};

/// The replicated state, and the file where its snapshots are.
#[derive(Debug)]
pub(super) struct StateMachine {
    store: Arc<Store>,
    log: LogStore,
}

fn read_error(error: impl ToString) -> StorageError {
    StorageError::IO {
        source: StorageIOError::read_snapshot(None, AnyError::error(error.to_string())),
    }
}

fn damaged(error: impl std::fmt::Display) -> ManagerError {
    ManagerError::internal("cannot read the raft snapshot", error)
}

fn write_error(error: impl ToString) -> StorageError {
    StorageError::IO {
        source: StorageIOError::write_snapshot(None, AnyError::error(error.to_string())),
    }
}

impl StateMachine {
    /// Reads the stored snapshot into `store`, unless that has a state already; openraft then applies the log that
    /// follows.
    pub(super) fn open(store: Arc<Store>, log: LogStore) -> Result<Self, ManagerError> {
        let machine = Self { store, log };
        if machine.store.position().last_applied.is_some() {
            return Ok(machine);
        }
        let stored = machine.log.snapshot().map_err(damaged)?;
        if let Some((meta, data)) = stored {
            let state = machine.parse(&data)?;
            machine.replace(&meta, state);
        }
        Ok(machine)
    }

    fn parse(&self, data: &[u8]) -> Result<State, ManagerError> {
        snapshot::read(data, self.store.knows()).map_err(|error| match error {
            SnapshotError::Later(rules) => self.store.meet(rules),
            error => damaged(error),
        })
    }

    fn replace(&self, meta: &SnapshotMeta, state: State) {
        let index = state.index();
        *self.store.write() = state;
        *self.store.position() = Position {
            last_applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
        };
        self.store.publish(index, Vec::new());
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let position = self.store.position().clone();
        Ok((position.last_applied, position.membership))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcomes>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        // All of them, or none.
        for entry in &entries {
            self.store.check(entry).map_err(|error| StorageError::IO {
                source: StorageIOError::apply(entry.log_id, AnyError::new(&error)),
            })?;
        }
        let mut results = Vec::with_capacity(entries.len());
        let (index, events) = {
            let mut state = self.store.write();
            let mut position = self.store.position();
            for entry in entries {
                position.last_applied = Some(entry.log_id);
                results.push(match entry.payload {
                    EntryPayload::Normal(batch) => Outcomes(
                        batch
                            .proposals()
                            .iter()
                            .map(|p| apply::apply(&mut state, entry.log_id.index, p))
                            .collect(),
                    ),
                    EntryPayload::Membership(membership) => {
                        position.membership = StoredMembership::new(Some(entry.log_id), membership);
                        Outcomes::default()
                    }
                    EntryPayload::Blank => Outcomes::default(),
                });
                state.index = entry.log_id.index;
            }
            (state.index(), state.take_events())
        };
        self.store.publish(index, events);
        Ok(results)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            state: self.store.read().clone(),
            position: self.store.position().clone(),
            log: self.log.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let data = snapshot.into_inner();
        // On disk first: the log that it stands for is given up once it is in use.
        let state = self.parse(&data).map_err(|error| {
            self.log.give_up_snapshot();
            read_error(error)
        })?;
        self.log
            .put_snapshot(meta, data)
            .await
            .map_err(write_error)?;
        self.replace(meta, state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let stored = self.log.snapshot().map_err(read_error)?;
        Ok(stored.map(|(meta, data)| Snapshot {
            meta,
            snapshot: Box::new(Cursor::new(data)),
        }))
    }
}

/// A copy of the state between two applies.
#[derive(Debug)]
pub(super) struct Builder {
    state: State,
    position: Position,
    log: LogStore,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let data = snapshot::write(&self.state).map_err(write_error)?;
        let name = self
            .position
            .last_applied
            .map(|l| format!("{}-{}", l.leader_id.term, l.index));
        let meta = SnapshotMeta {
            last_log_id: self.position.last_applied,
            last_membership: self.position.membership.clone(),
            snapshot_id: name.unwrap_or_default(),
        };
        self.log
            .put_snapshot(&meta, data.clone())
            .await
            .map_err(write_error)?;
        Ok(Snapshot {
            meta,
            snapshot: Box::new(Cursor::new(data)),
        })
    }
}
