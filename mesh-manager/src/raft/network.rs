//! Raft's messages between managers: openraft's requests as JSON over the `Raft` gRPC service.

#![expect(
    clippy::result_large_err,
    reason = "openraft's trait wants its own large error by value"
)]

use super::types::{RaftId, RaftPeer, TypeConfig};
use crate::{client, credentials::Credentials};
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
use std::sync::Arc;
use tonic::transport::Channel;

/// One message may hold a large batch or a snapshot's chunk.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;

type RpcError<E = RaftError<RaftId>> = RPCError<RaftId, RaftPeer, E>;

/// Makes connections to other managers.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) credentials: Arc<Credentials>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: RaftId, node: &RaftPeer) -> Connection {
        // A bad address shows as unreachable at the first message.
        let credentials = self.credentials.clone();
        let channel = client::connect_lazy(&node.addr, move || credentials.client()).ok();
        Connection {
            target,
            node: node.clone(),
            channel,
        }
    }
}

/// A connection to one manager.
pub(super) struct Connection {
    target: RaftId,
    node: RaftPeer,
    channel: Option<Channel>,
}

impl Connection {
    fn client<E: std::error::Error>(&self) -> Result<RaftClient<Channel>, RpcError<E>> {
        let channel = self.channel.clone().ok_or_else(|| {
            let text = format!("not an address of a manager: {}", self.node.addr);
            RPCError::Unreachable(Unreachable::new(&AnyError::error(text)))
        })?;
        Ok(RaftClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE))
    }

    fn answer<T: DeserializeOwned, E: std::error::Error + DeserializeOwned>(
        &self,
        answer: Result<tonic::Response<RaftMessage>, tonic::Status>,
    ) -> Result<T, RpcError<E>> {
        let message = answer.map_err(|status| {
            RPCError::Unreachable(Unreachable::new(&AnyError::error(status.to_string())))
        })?;
        let result: Result<T, E> = serde_json::from_slice(&message.into_inner().payload)
            .map_err(|e| RPCError::Network(NetworkError::new(&e)))?;
        result.map_err(|e| {
            RPCError::RemoteError(RemoteError::new_with_node(
                self.target,
                self.node.clone(),
                e,
            ))
        })
    }
}

fn message<E: std::error::Error>(value: &impl Serialize) -> Result<RaftMessage, RpcError<E>> {
    let payload =
        serde_json::to_vec(value).map_err(|e| RPCError::Network(NetworkError::new(&e)))?;
    Ok(RaftMessage { payload })
}

fn request<T>(message: T, option: &RPCOption) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(option.hard_ttl());
    request
}

impl RaftNetwork<TypeConfig> for Connection {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<RaftId>, RpcError> {
        let answer = self
            .client()?
            .append_entries(request(message(&rpc)?, &option))
            .await;
        self.answer(answer)
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<RaftId>, RpcError<RaftError<RaftId, InstallSnapshotError>>>
    {
        let chunk = futures::stream::iter([message(&rpc)?]);
        let answer = self
            .client()?
            .install_snapshot(request(chunk, &option))
            .await;
        self.answer(answer)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<RaftId>,
        option: RPCOption,
    ) -> Result<VoteResponse<RaftId>, RpcError> {
        let answer = self.client()?.vote(request(message(&rpc)?, &option)).await;
        self.answer(answer)
    }
}
