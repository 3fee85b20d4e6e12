//! Openraft behind [`Consensus`]. It stops for good at the first write that fails, say because the disk is full. Here
//! it is opened anew, with the state that it had, until it can write again.

use super::{
    Consensus, Leadership, Peer, PeerMessage, Store,
    batch::Batch,
    log_store::{LogStore, key_path},
    network::{Heard, Network},
    pre_vote::{self, Silence},
    seal::{SealError, Sealer},
    state_machine::StateMachine,
    types::{Raft, RaftId, RaftPeer, TypeConfig, Vote, raft_id},
};
use crate::{
    Config, Machine, ManagerError, Outcome, Proposal, Unlock, command::UNTOLD,
    credentials::Credentials,
};
use async_trait::async_trait;
use openraft::{
    RaftMetrics, SnapshotPolicy,
    error::{ClientWriteError, Fatal, RaftError},
    raft::{AppendEntriesRequest, InstallSnapshotRequest},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Name of the log in a manager's directory.
pub(super) const LOG_FILE: &str = "raft.redb";

/// Largest piece of a snapshot in one message.
const SNAPSHOT_CHUNK: u64 = 1 << 20;
/// Longest wait for the answer to such a piece.
const SNAPSHOT_ANSWER: Duration = Duration::from_secs(10);
/// Entries in one message.
const MAX_ENTRIES: u64 = 200;

/// Pause before a snapshot of all of the log is asked for again.
const COMPACT_RETRY: Duration = Duration::from_millis(500);

/// Pause before Raft is opened anew; it doubles with every failure.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest such pause: a disk that has space again is noticed within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How a manager comes to its log.
#[derive(Debug)]
pub(crate) enum Origin<'a> {
    /// It makes a new group, as its first and only member.
    Founds(&'a Peer),
    /// It has one; an empty one is filled by the group that lets it in.
    GoesOn,
}

/// The keys of the log in a manager's directory; `None` where there are none.
pub(crate) fn keys_in(directory: &Path, unlock: &Unlock) -> Result<Option<Sealer>, SealError> {
    Sealer::load(&key_path(&directory.join(LOG_FILE)), unlock)
}

/// Openraft with our store.
pub(crate) struct OpenRaft {
    pub(super) own: RaftId,
    sealer: Arc<Sealer>,
    /// What runs, or ran last.
    raft: watch::Receiver<Raft>,
    leadership: watch::Receiver<Leadership>,
    pub(super) heard: Arc<Heard>,
    pub(super) store: Arc<Store>,
    silence: Arc<Silence>,
    dismissed: CancellationToken,
    /// Held while the group is being changed: one change at a time.
    pub(super) changing: tokio::sync::Mutex<()>,
    cancel: CancellationToken,
    keeper: TaskTracker,
}

/// What it takes to open Raft, again and again.
struct Group {
    log: PathBuf,
    sealer: Arc<Sealer>,
    own: RaftId,
    config: Arc<openraft::Config>,
    network: Network,
    machine: Machine,
    store: Arc<Store>,
    /// Period of the leader's heartbeats.
    heartbeat: Duration,
    /// Longest wait for the answer of a manager that is asked for a pre-vote.
    pre_vote: Duration,
    silence: Arc<Silence>,
    /// A leader that has had no answer from a majority for so long leads no more: others may have elected another. And one that
    /// was not heard for so long is none to its followers.
    quorum_lost: Duration,
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
                .run_until_cancelled(self.run(&running, &leadership))
                .await;
            // Its tasks let go of the log before it is opened anew.
            if let Err(error) = running.shutdown().await {
                tracing::warn!(%error, "raft did not stop cleanly");
            }
            let Some(mut failure) = stopped else { return };
            if self.network.dismissed.is_cancelled() {
                tracing::warn!(%failure, "raft stopped");
                leadership.send_replace(Leadership {
                    failure: Some(ManagerError::dismissed()),
                    ..Leadership::default()
                });
                return cancel.cancelled().await;
            }
            if let Some(outdated) = self.store.outdated() {
                tracing::error!(%failure, "raft stopped: {outdated}");
                leadership.send_replace(Leadership {
                    failure: Some(outdated),
                    ..Leadership::default()
                });
                return cancel.cancelled().await;
            }
            if began.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            loop {
                tracing::error!(%failure, ?pause, "raft stopped; it will be opened anew");
                leadership.send_replace(Leadership {
                    failure: Some(failure),
                    ..Leadership::default()
                });
                let slept = cancel.run_until_cancelled(tokio::time::sleep(pause)).await;
                if slept.is_none() {
                    return;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
                let opened = match LogStore::reopen(&self.log, &self.machine, &self.sealer) {
                    Ok(log) => self.open(log).await,
                    Err(error) => Err(error),
                };
                match opened {
                    Ok(opened) => break drop(raft.send_replace(opened)),
                    Err(error) => failure = ManagerError::cannot_write(error),
                }
            }
        }
    }

    /// Follows Raft, and lets it stand for election, until it stops, or this manager has been dismissed; gives the reason.
    async fn run(&self, raft: &Raft, leadership: &watch::Sender<Leadership>) -> ManagerError {
        let (network, silence) = (&self.network, &self.silence);
        tokio::select! {
            reason = self.follow(raft, leadership) => reason,
            never = pre_vote::watch(raft, self.own, network, silence, self.heartbeat, self.pre_vote) => match never {},
        }
    }

    /// Tells who leads.
    async fn follow(&self, raft: &Raft, leadership: &watch::Sender<Leadership>) -> ManagerError {
        let mut metrics = raft.metrics();
        let mut heartbeat = tokio::time::interval(self.heartbeat);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = Instant::now();
        loop {
            let (leader, is_self, beats) = {
                let metrics = metrics.borrow_and_update();
                // Before it is told that nobody leads: whoever waits is to be told why.
                if let Some(reason) = why_stopped(&metrics) {
                    return ManagerError::cannot_write(reason);
                }
                let members = metrics.membership_config.membership();
                let others = members.nodes().count() > 1;
                let may_lead = members.voter_ids().count() > 1;
                let is_self = metrics.current_leader == Some(self.own) && metrics.state.is_leader();
                let silence = metrics.millis_since_quorum_ack.map(Duration::from_millis);
                // One that waits for its disk tells nothing, and sends no heartbeats.
                let stalled = if may_lead {
                    told.elapsed()
                } else {
                    Duration::ZERO
                };
                let is_alone = is_self && silence.is_none_or(|s| s + stalled > self.quorum_lost);
                if is_self && !is_alone {
                    self.silence.end();
                }
                let is_lost = !is_self && self.silence.exceeds(self.quorum_lost);
                let leader = metrics
                    .current_leader
                    .filter(|_| !is_alone && !is_lost)
                    .and_then(|id| members.get_node(&id).map(peer));
                (leader, is_self && !is_alone, is_self && others)
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
            let is_running = tokio::select! {
                changed = metrics.changed() => {
                    told = Instant::now();
                    changed.is_ok()
                }
                _ = heartbeat.tick() => !beats || raft.trigger().heartbeat().await.is_ok(),
                () = self.network.dismissed.cancelled() => return ManagerError::dismissed(),
                () = self.store.until_outdated() => {
                    return ManagerError::cannot_write("it is of rules that are not known here");
                }
            };
            if !is_running {
                let why = why_stopped(&raft.metrics().borrow());
                let why = why.unwrap_or_else(|| Fatal::<RaftId>::Panicked.to_string());
                return ManagerError::cannot_write(why);
            }
        }
    }
}

/// Why Raft runs no more.
fn why_stopped(metrics: &RaftMetrics<RaftId, RaftPeer>) -> Option<String> {
    match &metrics.running_state {
        Err(Fatal::StorageError(error)) => Some(error.to_string()),
        Err(error) => Some(error.to_string()),
        Ok(()) => None,
    }
}

fn unreadable(error: impl std::fmt::Display) -> ManagerError {
    ManagerError::internal("cannot read the manager's log", error)
}

pub(super) fn peer(node: &RaftPeer) -> Peer {
    Peer {
        node_id: node.node_id.clone(),
        addr: node.addr.clone(),
    }
}

impl OpenRaft {
    /// Makes an empty log.
    pub(crate) fn prepare(config: &Config) -> Result<(), ManagerError> {
        let log = config.data_dir.join(LOG_FILE);
        LogStore::create(&log, &config.machine, &config.unlock).map(drop)
    }

    /// Opens or makes the log and takes part; `store` gets the state.
    pub(crate) async fn start(
        config: &Config,
        node_id: &str,
        origin: Origin<'_>,
        store: Arc<Store>,
        credentials: Arc<Credentials>,
    ) -> Result<Self, ManagerError> {
        let (timings, machine, unlock) = (&config.timings, &config.machine, &config.unlock);
        let path = config.data_dir.join(LOG_FILE);
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let config = openraft::Config {
            cluster_name: "mesh".to_owned(),
            // Heartbeats are sent by [`Group::follow`]: to openraft, this is the longest wait for an answer to log entries.
            heartbeat_interval: millis(timings.raft_append),
            enable_heartbeat: false,
            // Allowed once others would have it, see [`pre_vote`].
            enable_elect: false,
            election_timeout_min: millis(timings.raft_election),
            election_timeout_max: millis(timings.raft_election * 4 / 3),
            install_snapshot_timeout: millis(SNAPSHOT_ANSWER),
            max_payload_entries: MAX_ENTRIES,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(timings.snapshot_entries),
            snapshot_max_chunk_size: SNAPSHOT_CHUNK,
            max_in_snapshot_log_to_keep: timings.kept_entries,
            ..openraft::Config::default()
        };
        let config = config
            .validate()
            .map_err(|e| ManagerError::internal("the raft timings do not fit together", e))?;
        let heard = Arc::new(Heard::default());
        // As long, voters refuse a candidate.
        let silence = Duration::from_millis(config.election_timeout_max);
        let silence = Arc::new(Silence::new(silence));
        let dismissed = CancellationToken::new();
        let log = match origin {
            Origin::Founds(_) => LogStore::create(&path, machine, unlock)?,
            Origin::GoesOn => LogStore::open(&path, machine, unlock)?,
        };
        let sealer = log.sealer().clone();
        let group = Group {
            log: path,
            sealer: sealer.clone(),
            own: raft_id(node_id),
            config: Arc::new(config),
            network: Network {
                credentials,
                heard: heard.clone(),
                channels: Arc::default(),
                store: store.clone(),
                dismissed: dismissed.clone(),
                machine: machine.clone(),
            },
            machine: machine.clone(),
            heartbeat: timings.raft_heartbeat,
            pre_vote: timings.raft_append,
            silence: silence.clone(),
            store,
            quorum_lost: timings.raft_election * 4,
        };
        for entry in log.entries().map_err(unreadable)? {
            group.store.check(&entry.map_err(unreadable)?)?;
        }
        let last = log.last_log_id();
        let last = last.map_err(unreadable)?;
        if last.is_some() || matches!(origin, Origin::Founds(_)) {
            group.store.note_log();
        }
        let store = group.store.clone();
        let (own, first) = (group.own, group.open(log).await?);
        if let Origin::Founds(peer) = origin {
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
            own,
            sealer,
            raft,
            leadership,
            heard,
            store,
            silence,
            dismissed,
            changing: tokio::sync::Mutex::default(),
            cancel,
            keeper,
        })
    }

    /// The keys of the log.
    pub(crate) fn sealer(&self) -> Arc<Sealer> {
        self.sealer.clone()
    }

    /// A message has come of a leader, which may have been replaced.
    fn hear(&self, raft: &Raft, of: &Vote) {
        if *of >= raft.metrics().borrow().vote {
            self.silence.end();
        }
    }

    pub(super) fn raft(&self) -> Raft {
        self.raft.borrow().clone()
    }

    /// Does something that only a leader with a majority gets done; ends with an error when this one leads no more.
    pub(super) async fn while_leading<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, ManagerError> {
        let mut leadership = self.leadership.clone();
        tokio::select! {
            biased;
            done = work => Ok(done),
            lost = leadership.wait_for(|l| !l.is_self) => Err(match lost {
                Ok(now) => now.failure.clone().unwrap_or_else(ManagerError::no_leader),
                Err(_) => ManagerError::no_leader(),
            }),
        }
    }
}

#[async_trait]
impl Consensus for OpenRaft {
    async fn propose(&self, proposals: Vec<Proposal>) -> Result<Vec<Outcome>, ManagerError> {
        let raft = self.raft();
        // Without a majority an entry waits for ever, and may still be committed in the end.
        match self
            .while_leading(raft.client_write(Batch::new(proposals)))
            .await?
        {
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
        let raft = self.raft();
        match self.while_leading(raft.ensure_linearizable()).await? {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(_)) => Err(ManagerError::no_leader()),
            Err(error) => Err(ManagerError::internal(
                "cannot read the latest state",
                error,
            )),
        }
    }

    fn managers(&self) -> Vec<Peer> {
        self.voters()
    }

    fn reachable(&self) -> BTreeSet<String> {
        self.heard_of()
    }

    async fn admit(&self, manager: &Peer, rules: u32) -> Result<(), ManagerError> {
        self.let_in(manager, rules).await
    }

    async fn expel(&self, node_id: &str) -> Result<(), ManagerError> {
        self.let_out(node_id).await
    }

    fn can_remove(&self, node_id: &str) -> bool {
        self.can_spare(raft_id(node_id))
    }

    fn is_member(&self, node_id: &str) -> bool {
        self.standing(raft_id(node_id)).0.is_some()
    }

    async fn finish_change(&self) -> Result<(), ManagerError> {
        let _changing = self.changing.lock().await;
        self.finish(&self.raft()).await
    }

    async fn receive(
        &self,
        kind: PeerMessage,
        payload: &[u8],
        data: Vec<u8>,
    ) -> Result<Vec<u8>, ManagerError> {
        let bad = |e: serde_json::Error| ManagerError::invalid(format!("bad raft message: {e}"));
        let raft = self.raft();
        let answer = match kind {
            PeerMessage::AppendEntries => {
                let request: AppendEntriesRequest<TypeConfig> =
                    serde_json::from_slice(payload).map_err(bad)?;
                // Before they are in the log.
                request
                    .entries
                    .iter()
                    .try_for_each(|e| self.store.check(e))?;
                self.hear(&raft, &request.vote);
                serde_json::to_vec(&raft.append_entries(request).await)
            }
            PeerMessage::Vote => {
                let request = serde_json::from_slice(payload).map_err(bad)?;
                serde_json::to_vec(&raft.vote(request).await)
            }
            PeerMessage::PreVote => {
                serde_json::to_vec(&Ok::<_, RaftError<RaftId>>(self.silence.is_long()))
            }
            PeerMessage::InstallSnapshot => {
                let request: InstallSnapshotRequest<TypeConfig> =
                    serde_json::from_slice(payload).map_err(bad)?;
                let request = InstallSnapshotRequest { data, ..request };
                self.hear(&raft, &request.vote);
                serde_json::to_vec(&raft.install_snapshot(request).await)
            }
        };
        answer.map_err(|e| ManagerError::internal("cannot encode the answer", e))
    }

    async fn compact(&self) -> Result<(), ManagerError> {
        let raft = self.raft();
        let mut metrics = raft.metrics();
        let last = metrics.borrow().last_log_index.unwrap_or(0);
        let is_in = |index: Option<u64>| index.is_some_and(|index| index >= last);
        let upto = loop {
            let begun = raft.trigger().snapshot().await;
            begun.map_err(ManagerError::cannot_write)?;
            // Another one may have been in the making, or not all have been applied.
            let written = metrics.wait_for(|m| is_in(m.snapshot.map(|s| s.index)));
            match tokio::time::timeout(COMPACT_RETRY, written).await {
                Ok(Ok(metrics)) => break metrics.snapshot.map_or(0, |s| s.index),
                Ok(Err(_)) => return Err(ManagerError::no_leader()),
                Err(_) => {}
            }
        };
        let purged = raft.trigger().purge_log(upto).await;
        purged.map_err(ManagerError::cannot_write)
    }

    fn changing(&self) -> &tokio::sync::Mutex<()> {
        &self.changing
    }

    fn common_rules(&self) -> u32 {
        let metrics = self.raft().server_metrics();
        let metrics = metrics.borrow();
        let members = metrics.membership_config.membership().nodes();
        let rules = members.map(|(id, _)| match *id == self.own {
            true => self.store.knows(),
            false => self.heard.rules(*id),
        });
        rules.min().unwrap_or(UNTOLD)
    }

    fn dismissal(&self) -> CancellationToken {
        self.dismissed.clone()
    }

    async fn shutdown(&self) {
        self.cancel.cancel();
        self.keeper.wait().await;
    }
}
