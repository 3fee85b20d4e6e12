//! Openraft behind [`Consensus`]. It stops for good at the first write that fails, say because the disk is full. Here
//! it is opened anew, with the state that it had, until it can write again.

use super::{
    Consensus, Leadership, Peer, PeerMessage, Store,
    log_store::LogStore,
    network::Network,
    state_machine::StateMachine,
    types::{Batch, Raft, RaftId, RaftPeer, raft_id},
};
use crate::{ManagerError, Outcome, Proposal, config::Timings, credentials::Credentials};
use async_trait::async_trait;
use openraft::{
    SnapshotPolicy,
    error::{ClientWriteError, Fatal, RaftError},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Largest piece of a snapshot in one message.
const SNAPSHOT_CHUNK: u64 = 4 << 20;
/// Entries kept after a snapshot for followers that are a little behind.
const KEPT_ENTRIES: u64 = 1000;
/// Entries in one message.
const MAX_ENTRIES: u64 = 200;

/// Pause before Raft is opened anew; it doubles with every failure.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest such pause: a disk that has space again is noticed within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Openraft with our store.
pub(crate) struct OpenRaft {
    /// What runs, or ran last.
    raft: watch::Receiver<Raft>,
    leadership: watch::Receiver<Leadership>,
    cancel: CancellationToken,
    keeper: TaskTracker,
}

/// What it takes to open Raft, again and again.
struct Group {
    log: PathBuf,
    own: RaftId,
    config: Arc<openraft::Config>,
    network: Network,
    store: Arc<Store>,
}

impl Group {
    /// Takes part, with what is in the log.
    async fn open(&self, log: LogStore) -> Result<Raft, ManagerError> {
        let machine = StateMachine::open(self.store.clone(), log.clone())?;
        let (config, network) = (self.config.clone(), self.network.clone());
        Raft::new(self.own, config, network, log, machine)
            .await
            .map_err(|e| ManagerError::internal("cannot start raft", e))
    }

    /// Keeps Raft running until cancelled.
    async fn keep(
        self,
        raft: watch::Sender<Raft>,
        leadership: watch::Sender<Leadership>,
        cancel: CancellationToken,
    ) {
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            let running = raft.borrow().clone();
            let stopped = cancel
                .run_until_cancelled(self.follow(&running, &leadership))
                .await;
            // Its tasks let go of the log before it is opened anew.
            if let Err(error) = running.shutdown().await {
                tracing::warn!(%error, "raft did not stop cleanly");
            }
            let Some(mut reason) = stopped else { return };
            if began.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            loop {
                tracing::error!(%reason, ?pause, "raft stopped; it will be opened anew");
                leadership.send_replace(Leadership {
                    failure: Some(ManagerError::cannot_write(&reason)),
                    ..Leadership::default()
                });
                let slept = cancel.run_until_cancelled(tokio::time::sleep(pause)).await;
                if slept.is_none() {
                    return;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
                let opened = match LogStore::open(&self.log) {
                    Ok(log) => self.open(log).await,
                    Err(error) => Err(error),
                };
                match opened {
                    Ok(opened) => break drop(raft.send_replace(opened)),
                    Err(error) => reason = error.to_string(),
                }
            }
        }
    }

    /// Tells who leads until Raft stops; gives the reason.
    async fn follow(&self, raft: &Raft, leadership: &watch::Sender<Leadership>) -> String {
        let mut metrics = raft.server_metrics();
        loop {
            let (leader, is_self) = {
                let metrics = metrics.borrow_and_update();
                let leader = metrics.current_leader.and_then(|id| {
                    let node = metrics.membership_config.membership().get_node(&id)?;
                    Some(peer(node))
                });
                let is_self = metrics.current_leader == Some(self.own) && metrics.state.is_leader();
                (leader, is_self)
            };
            leadership.send_if_modified(|old| {
                let now = Leadership {
                    // Until there is a leader again, the failure is why there is none.
                    failure: old.failure.clone().filter(|_| leader.is_none()),
                    leader,
                    is_self,
                };
                let is_news = *old != now;
                *old = now;
                is_news
            });
            if metrics.changed().await.is_err() {
                return match &raft.metrics().borrow().running_state {
                    Err(Fatal::StorageError(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                    Ok(()) => Fatal::<RaftId>::Panicked.to_string(),
                };
            }
        }
    }
}

fn peer(node: &RaftPeer) -> Peer {
    Peer {
        node_id: node.node_id.clone(),
        addr: node.addr.clone(),
    }
}

impl OpenRaft {
    /// Opens the log in `directory` and takes part; `store` gets the state. `founder`: makes the log, and a new group
    /// with this manager as its first and only member.
    pub(crate) async fn start(
        directory: &Path,
        node_id: &str,
        founder: Option<&Peer>,
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
        let group = Group {
            log: directory.join("raft.redb"),
            own: raft_id(node_id),
            config: Arc::new(config),
            network: Network { credentials },
            store,
        };
        let log = match founder {
            Some(_) => LogStore::create(&group.log)?,
            None => LogStore::open(&group.log)?,
        };
        let first = group.open(log).await?;
        if let Some(peer) = founder {
            let node = RaftPeer {
                node_id: peer.node_id.clone(),
                addr: peer.addr.clone(),
            };
            let begun = first.initialize(BTreeMap::from([(group.own, node)])).await;
            begun.map_err(|e| ManagerError::internal("cannot start a new raft group", e))?;
        }
        let (raft_out, raft) = watch::channel(first);
        let (leadership_out, leadership) = watch::channel(Leadership::default());
        let cancel = CancellationToken::new();
        let keeper = TaskTracker::new();
        keeper.spawn(group.keep(raft_out, leadership_out, cancel.clone()));
        keeper.close();
        Ok(Self {
            raft,
            leadership,
            cancel,
            keeper,
        })
    }

    fn raft(&self) -> Raft {
        self.raft.borrow().clone()
    }
}

#[async_trait]
impl Consensus for OpenRaft {
    async fn propose(&self, proposals: Vec<Proposal>) -> Result<Vec<Outcome>, ManagerError> {
        match self.raft().client_write(Batch(proposals)).await {
            Ok(written) => Ok(written.data.0),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(ManagerError::no_leader())
            }
            Err(error) => Err(ManagerError::cannot_write(error)),
        }
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    async fn catch_up(&self) -> Result<(), ManagerError> {
        self.raft()
            .ensure_linearizable()
            .await
            .map(drop)
            .map_err(|e| ManagerError::internal("cannot read the latest state", e))
    }

    fn managers(&self) -> Vec<Peer> {
        let metrics = self.raft().server_metrics();
        let metrics = metrics.borrow();
        let members = metrics.membership_config.membership();
        members.nodes().map(|(_, node)| peer(node)).collect()
    }

    async fn receive(&self, kind: PeerMessage, payload: &[u8]) -> Result<Vec<u8>, ManagerError> {
        let bad = |e: serde_json::Error| ManagerError::invalid(format!("bad raft message: {e}"));
        let raft = self.raft();
        let answer = match kind {
            PeerMessage::AppendEntries => {
                let request = serde_json::from_slice(payload).map_err(bad)?;
                serde_json::to_vec(&raft.append_entries(request).await)
            }
            PeerMessage::Vote => {
                let request = serde_json::from_slice(payload).map_err(bad)?;
                serde_json::to_vec(&raft.vote(request).await)
            }
            PeerMessage::InstallSnapshot => {
                let request = serde_json::from_slice(payload).map_err(bad)?;
                serde_json::to_vec(&raft.install_snapshot(request).await)
            }
        };
        answer.map_err(|e| ManagerError::internal("cannot encode the answer", e))
    }

    async fn shutdown(&self) {
        self.cancel.cancel();
        self.keeper.wait().await;
    }
}
