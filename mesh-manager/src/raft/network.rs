//! Raft's messages between managers: openraft's requests as JSON over the `Raft` gRPC service.

#![expect(
    clippy::result_large_err,
    reason = "openraft's trait wants its own large error by value"
)]

use super::{
    Store,
    types::{RaftId, RaftPeer, TypeConfig},
};
use crate::{Line, Machine, command::UNTOLD, credentials::Credentials, state::Lineage};
use mesh_api::proto::{RaftMessage, raft_client::RaftClient};
use openraft::{
    AnyError,
    error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable},
    network::{RPCOption, RaftNetwork, RaftNetworkFactory},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest,
        InstallSnapshotResponse, VoteRequest, VoteResponse,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// One message may hold a large batch or a snapshot's chunk.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;

/// Metadata of the refusal of a manager that the group has gone on without: the incarnation of that manager's group.
pub(crate) const DISMISSED: &str = "mesh-dismissed";

/// A manager that has not answered for so long counts as unreachable.
const SILENCE: Duration = Duration::from_secs(3);

type RpcError<E = RaftError<RaftId>> = RPCError<RaftId, RaftPeer, E>;

/// When other managers answered last.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<HashMap<RaftId, Sign>>);

/// What is heard of one.
#[derive(Debug, Default)]
struct Sign {
    answered: Option<Instant>,
    /// The rules that it knows, as it said then; zero: it did not.
    rules: u32,
    /// Pieces of a snapshot on their way to it.
    pieces: usize,
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, HashMap<RaftId, Sign>> {
        // The map is whole between any two statements.
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether the manager has answered lately.
    pub(super) fn is_reachable(&self, id: RaftId) -> bool {
        let answered = self.lock().get(&id).and_then(|sign| sign.answered);
        answered.is_some_and(|at| at.elapsed() < SILENCE)
    }

    /// The rules that the manager is sure to know.
    pub(super) fn rules(&self, id: RaftId) -> u32 {
        let is_reachable = self.is_reachable(id);
        let told = self
            .lock()
            .get(&id)
            .filter(|_| is_reachable)
            .map(|sign| sign.rules);
        // One that is off may come back with an older program.
        told.unwrap_or_default().max(UNTOLD)
    }

    /// Whether it has answered lately, or may do so any moment: it answers the last piece of a snapshot once it has read
    /// and kept all of it.
    pub(super) fn may_answer(&self, id: RaftId) -> bool {
        self.is_reachable(id) || self.lock().get(&id).is_some_and(|sign| sign.pieces > 0)
    }
}

/// A piece of a snapshot on its way.
struct Piece<'a>(&'a Heard, RaftId);

impl<'a> Piece<'a> {
    fn to(id: RaftId, heard: &'a Heard) -> Self {
        heard.lock().entry(id).or_default().pieces += 1;
        Self(heard, id)
    }
}

impl Drop for Piece<'_> {
    fn drop(&mut self) {
        self.0.lock().entry(self.1).or_default().pieces -= 1;
    }
}

/// Makes connections to other managers.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) credentials: Arc<Credentials>,
    pub(super) heard: Arc<Heard>,
    /// By address; openraft asks for a connection for every vote and every read.
    pub(super) channels: Arc<Mutex<HashMap<String, Line>>>,
    pub(super) machine: Machine,
    /// The state, which says what group this manager is of.
    pub(super) store: Arc<Store>,
    /// Cancelled when another manager says that the group has gone on without this one.
    pub(super) dismissed: CancellationToken,
}

impl Network {
    fn channel(&self, address: &str) -> Option<Line> {
        let mut channels = self.channels.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(channel) = channels.get(address) {
            return Some(channel.clone());
        }
        let credentials = self.credentials.clone();
        let channel = self
            .machine
            .connect_lazy(address, move || credentials.client())
            .ok()?;
        channels.insert(address.to_owned(), channel.clone());
        Some(channel)
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: RaftId, node: &RaftPeer) -> Connection {
        // A bad address shows as unreachable at the first message.
        Connection {
            target,
            node: node.clone(),
            channel: self.channel(&node.addr),
            heard: self.heard.clone(),
            store: self.store.clone(),
            dismissed: self.dismissed.clone(),
        }
    }
}

/// A connection to one manager.
pub(super) struct Connection {
    target: RaftId,
    node: RaftPeer,
    channel: Option<Line>,
    heard: Arc<Heard>,
    store: Arc<Store>,
    dismissed: CancellationToken,
}

impl Connection {
    fn client<E: std::error::Error>(&self) -> Result<RaftClient<Line>, RpcError<E>> {
        let channel = self.channel.clone().ok_or_else(|| {
            let text = format!("not an address of a manager: {}", self.node.addr);
            RPCError::Unreachable(Unreachable::new(&AnyError::error(text)))
        })?;
        Ok(RaftClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE))
    }

    fn message<E: std::error::Error>(
        &self,
        value: &impl Serialize,
    ) -> Result<RaftMessage, RpcError<E>> {
        let payload =
            serde_json::to_vec(value).map_err(|e| RPCError::Network(NetworkError::new(&e)))?;
        let Lineage { incarnation, past } = self.store.read().lineage();
        Ok(RaftMessage {
            payload,
            data: Vec::new(),
            to: self.node.node_id.clone(),
            incarnation,
            past,
            rules: self.store.knows(),
        })
    }

    fn answer<T: DeserializeOwned, E: std::error::Error + DeserializeOwned>(
        &self,
        answer: Result<tonic::Response<RaftMessage>, tonic::Status>,
    ) -> Result<T, RpcError<E>> {
        let message = answer.map_err(|status| {
            // What was said of another group is of no concern.
            let is_own = |of: &[u8]| of == self.store.read().incarnation.as_bytes();
            let dismissed = status.metadata().get(DISMISSED);
            if dismissed.is_some_and(|of| is_own(of.as_encoded_bytes())) {
                self.dismissed.cancel();
            }
            RPCError::Unreachable(Unreachable::new(&AnyError::error(status.to_string())))
        })?;
        let message = message.into_inner();
        let result: Result<T, E> = serde_json::from_slice(&message.payload)
            .map_err(|e| RPCError::Network(NetworkError::new(&e)))?;
        if result.is_ok() {
            let mut heard = self.heard.lock();
            let sign = heard.entry(self.target).or_default();
            (sign.answered, sign.rules) = (Some(Instant::now()), message.rules);
        }
        result.map_err(|e| {
            RPCError::RemoteError(RemoteError::new_with_node(
                self.target,
                self.node.clone(),
                e,
            ))
        })
    }
}

impl Connection {
    /// Whether that manager would have an election.
    pub(super) async fn pre_vote(&self) -> bool {
        let ask = async || {
            let mut client = self.client::<RaftError<RaftId>>()?;
            match client.pre_vote(self.message(&())?).await {
                // A version without pre-votes: it looks at the vote itself alone.
                Err(status) if status.code() == tonic::Code::Unimplemented => Ok(true),
                answer => self.answer::<bool, RaftError<RaftId>>(answer),
            }
        };
        ask().await.unwrap_or(false)
    }
}

// Openraft gives up each of these after the time that its configuration has for it.
impl RaftNetwork<TypeConfig> for Connection {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<RaftId>, RpcError> {
        let answer = self.client()?.append_entries(self.message(&rpc)?).await;
        self.answer(answer)
    }

    async fn install_snapshot(
        &mut self,
        mut rpc: InstallSnapshotRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<InstallSnapshotResponse<RaftId>, RpcError<RaftError<RaftId, InstallSnapshotError>>>
    {
        // As JSON, it would be four times as long.
        let data = std::mem::take(&mut rpc.data);
        let piece = RaftMessage {
            data,
            ..self.message(&rpc)?
        };
        let _on_its_way = Piece::to(self.target, &self.heard);
        let answer = self.client()?.install_snapshot(piece).await;
        self.answer(answer)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<RaftId>,
        _: RPCOption,
    ) -> Result<VoteResponse<RaftId>, RpcError> {
        let answer = self.client()?.vote(self.message(&rpc)?).await;
        self.answer(answer)
    }
}
