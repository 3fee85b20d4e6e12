//! The trait that the manager proposes through, and openraft behind it.

use super::{
    Store,
    log_store::LogStore,
    network::Network,
    state_machine::StateMachine,
    types::{Batch, Raft, RaftPeer, raft_id},
};
use crate::{ManagerError, Outcome, Proposal, config::Timings, credentials::Credentials};
use async_trait::async_trait;
use openraft::{SnapshotPolicy, error::ClientWriteError, error::RaftError};
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};
use tokio::sync::watch;

/// A manager as others reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Node id.
    pub(crate) node_id: String,
    /// "address:port".
    pub(crate) addr: String,
}

/// Who leads, as this manager sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Leadership {
    /// The leader; `None` while there is none.
    pub(crate) leader: Option<Peer>,
    /// It is this manager.
    pub(crate) is_self: bool,
    /// Rises with every election.
    pub(crate) term: u64,
}

/// Agreement on the order of proposals.
#[async_trait]
pub(crate) trait Consensus: Send + Sync + 'static {
    /// Commits and applies proposals together; outcomes in order. Fails where this manager is not
    /// the leader.
    async fn propose(&self, proposals: Vec<Proposal>) -> Result<Vec<Outcome>, ManagerError>;

    /// Who leads, and changes of it.
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// Waits until this manager, being the leader, has applied everything committed before.
    async fn catch_up(&self) -> Result<(), ManagerError>;

    /// Every manager in the group.
    fn managers(&self) -> Vec<Peer>;

    /// A message of another manager, JSON in and out. Unknown ones are an error of the sender.
    async fn receive(&self, message: PeerMessage, payload: &[u8]) -> Result<Vec<u8>, ManagerError>;

    /// Stops taking part.
    async fn shutdown(&self);
}

/// Kind of a message between managers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerMessage {
    /// Log entries.
    AppendEntries,
    /// A candidate asks for a vote.
    Vote,
    /// A piece of a snapshot.
    InstallSnapshot,
}

/// Openraft with our store.
pub(crate) struct OpenRaft {
    raft: Raft,
    leadership: watch::Receiver<Leadership>,
}

/// Largest piece of a snapshot in one message.
const SNAPSHOT_CHUNK: u64 = 4 << 20;
/// Entries kept after a snapshot for followers that are a little behind.
const KEPT_ENTRIES: u64 = 1000;
/// Entries in one message.
const MAX_ENTRIES: u64 = 200;

impl OpenRaft {
    /// Opens the log in `directory` and takes part; `store` gets the state.
    pub(crate) async fn start(
        directory: &Path,
        node_id: &str,
        store: Arc<Store>,
        credentials: Arc<Credentials>,
        timings: &Timings,
    ) -> Result<Self, ManagerError> {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let config = openraft::Config {
            cluster_name: "mesh".to_owned(),
            heartbeat_interval: millis(timings.raft_heartbeat),
            election_timeout_min: millis(timings.raft_election),
            election_timeout_max: millis(timings.raft_election * 2),
            install_snapshot_timeout: 10_000,
            max_payload_entries: MAX_ENTRIES,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(timings.snapshot_entries),
            snapshot_max_chunk_size: SNAPSHOT_CHUNK,
            max_in_snapshot_log_to_keep: KEPT_ENTRIES,
            ..openraft::Config::default()
        };
        let config = config
            .validate()
            .map_err(|e| ManagerError::internal("the raft timings do not fit together", e))?;
        let log = LogStore::open(&directory.join("raft.redb"))?;
        let machine = StateMachine::open(store, log.clone())?;
        let own = raft_id(node_id);
        let raft = Raft::new(own, Arc::new(config), Network { credentials }, log, machine)
            .await
            .map_err(|e| ManagerError::internal("cannot start raft", e))?;
        let leadership = watch_leadership(&raft, own);
        Ok(Self { raft, leadership })
    }

    /// Makes this manager the first and only member of a new group.
    pub(crate) async fn initialize(&self, peer: &Peer) -> Result<(), ManagerError> {
        let node = RaftPeer {
            node_id: peer.node_id.clone(),
            addr: peer.addr.clone(),
        };
        self.raft
            .initialize(BTreeMap::from([(raft_id(&peer.node_id), node)]))
            .await
            .map_err(|e| ManagerError::internal("cannot start a new raft group", e))
    }
}

/// Follows openraft's metrics; ends with them.
fn watch_leadership(raft: &Raft, own: u64) -> watch::Receiver<Leadership> {
    let mut metrics = raft.server_metrics();
    let (sender, receiver) = watch::channel(Leadership::default());
    tokio::spawn(async move {
        loop {
            let now = {
                let metrics = metrics.borrow_and_update();
                let peer = metrics.current_leader.and_then(|id| {
                    let node = metrics.membership_config.membership().get_node(&id)?;
                    Some(Peer {
                        node_id: node.node_id.clone(),
                        addr: node.addr.clone(),
                    })
                });
                Leadership {
                    is_self: metrics.current_leader == Some(own) && metrics.state.is_leader(),
                    leader: peer,
                    term: metrics.vote.leader_id().term,
                }
            };
            sender.send_if_modified(|old| {
                let is_news = *old != now;
                *old = now;
                is_news
            });
            if metrics.changed().await.is_err() {
                sender.send_replace(Leadership::default());
                return;
            }
        }
    });
    receiver
}

#[async_trait]
impl Consensus for OpenRaft {
    async fn propose(&self, proposals: Vec<Proposal>) -> Result<Vec<Outcome>, ManagerError> {
        match self.raft.client_write(Batch(proposals)).await {
            Ok(written) => Ok(written.data.0),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(ManagerError::no_leader())
            }
            Err(error) => Err(ManagerError::internal(
                "cannot write to the raft log",
                error,
            )),
        }
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    async fn catch_up(&self) -> Result<(), ManagerError> {
        self.raft
            .ensure_linearizable()
            .await
            .map(drop)
            .map_err(|e| ManagerError::internal("cannot read the latest state", e))
    }

    fn managers(&self) -> Vec<Peer> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let peer = |(_, node): (&u64, &RaftPeer)| Peer {
            node_id: node.node_id.clone(),
            addr: node.addr.clone(),
        };
        metrics
            .membership_config
            .membership()
            .nodes()
            .map(peer)
            .collect()
    }

    async fn receive(&self, kind: PeerMessage, payload: &[u8]) -> Result<Vec<u8>, ManagerError> {
        let bad = |e: serde_json::Error| ManagerError::invalid(format!("bad raft message: {e}"));
        let answer = match kind {
            PeerMessage::AppendEntries => {
                let request = serde_json::from_slice(payload).map_err(bad)?;
                serde_json::to_vec(&self.raft.append_entries(request).await)
            }
            PeerMessage::Vote => {
                let request = serde_json::from_slice(payload).map_err(bad)?;
                serde_json::to_vec(&self.raft.vote(request).await)
            }
            PeerMessage::InstallSnapshot => {
                let request = serde_json::from_slice(payload).map_err(bad)?;
                serde_json::to_vec(&self.raft.install_snapshot(request).await)
            }
        };
        answer.map_err(|e| ManagerError::internal("cannot encode the answer", e))
    }

    async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
    }
}
