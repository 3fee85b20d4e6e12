//! A group of managers begins anew with one: the log is replaced by a snapshot while no Raft runs.

use super::{
    Peer, Store,
    log_store::LogStore,
    snapshot,
    state_machine::StateMachine,
    types::{LogId, RaftPeer, SnapshotMeta, StoredMembership, Vote, raft_id},
};
use crate::{Config, ManagerError, state::State};
use openraft::{CommittedLeaderId, Membership, storage::RaftStateMachine};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

fn failed(error: impl std::fmt::Display) -> ManagerError {
    ManagerError::internal("cannot rebuild the manager's log", error)
}

/// Everything that the log says, also what this manager was never told to be committed: it may have been, and acknowledged.
async fn replay(log: &LogStore) -> Result<State, ManagerError> {
    let store = Arc::new(Store::new(log.rules()));
    let mut machine = StateMachine::open(store.clone(), log.clone())?;
    let applied = machine.applied_state().await.map_err(failed)?.0;
    let first = applied.map_or(0, |log_id| log_id.index + 1);
    let entries = log.entries_from(first).map_err(failed)?;
    machine.apply(entries).await.map_err(failed)?;
    let state = store.read().clone();
    Ok(state)
}

impl LogStore {
    /// Makes `own` the only member of a group with the state that `change` makes of what the log holds. All of it is written,
    /// or nothing is.
    pub(super) async fn rebuild(
        &self,
        own: &Peer,
        change: impl FnOnce(&mut State) -> Result<(), ManagerError>,
    ) -> Result<(), ManagerError> {
        let mut state = replay(self).await?;
        change(&mut state)?;
        let vote = self.vote().map_err(failed)?.unwrap_or_default();
        let last = self.last_log_id().map_err(failed)?;
        let term = last
            .map_or(0, |l| l.leader_id.term)
            .max(vote.leader_id().term)
            + 1;
        // The versions of objects go on from here.
        let index = last.map_or(0, |l| l.index + 1).max(state.index());
        let id = raft_id(&own.node_id);
        let node = RaftPeer {
            node_id: own.node_id.clone(),
            addr: own.addr.clone(),
        };
        let log_id = LogId::new(CommittedLeaderId::new(term, id), index);
        let membership = Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, node)]));
        state.index = index;
        let meta = SnapshotMeta {
            last_log_id: Some(log_id),
            last_membership: StoredMembership::new(Some(log_id), membership),
            snapshot_id: format!("{term}-{index}"),
        };
        let data = snapshot::write(&state).map_err(failed)?;
        self.replace(Vote::new(term, id), meta, data)
            .await
            .map_err(failed)
    }
}

/// The state that the log of a manager, which does not run, holds; see [`replay`].
pub(crate) async fn read(config: &Config) -> Result<State, ManagerError> {
    let path = config.data_dir.join(super::open_raft::LOG_FILE);
    let log = LogStore::open(&path, &config.machine, &config.unlock)?;
    replay(&log).await
}

/// As [`LogStore::rebuild`], with a manager's log.
pub(crate) async fn rebuild(
    config: &Config,
    own: &Peer,
    change: impl FnOnce(&mut State) -> Result<(), ManagerError>,
) -> Result<(), ManagerError> {
    let path = config.data_dir.join(super::open_raft::LOG_FILE);
    let log = LogStore::open(&path, &config.machine, &config.unlock)?;
    log.rebuild(own, change).await
}
