//! `Raft`: messages between managers.

use super::{auth, ca::status};
use crate::{core::Core, raft::PeerMessage};
use mesh_api::proto::{RaftMessage, raft_server::Raft};
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

pub(super) struct Service(pub(super) Arc<Core>);

impl Service {
    async fn receive(
        &self,
        kind: PeerMessage,
        payload: &[u8],
    ) -> Result<Response<RaftMessage>, Status> {
        let payload = self
            .0
            .consensus
            .receive(kind, payload)
            .await
            .map_err(status)?;
        Ok(Response::new(RaftMessage { payload }))
    }
}

#[tonic::async_trait]
impl Raft for Service {
    async fn append_entries(
        &self,
        request: Request<RaftMessage>,
    ) -> Result<Response<RaftMessage>, Status> {
        auth::manager(&self.0, &request)?;
        self.receive(PeerMessage::AppendEntries, &request.get_ref().payload)
            .await
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        auth::manager(&self.0, &request)?;
        self.receive(PeerMessage::Vote, &request.get_ref().payload)
            .await
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<RaftMessage>>,
    ) -> Result<Response<RaftMessage>, Status> {
        auth::manager(&self.0, &request)?;
        let mut chunks = request.into_inner();
        let mut answer = None;
        while let Some(chunk) = chunks.message().await? {
            answer = Some(
                self.receive(PeerMessage::InstallSnapshot, &chunk.payload)
                    .await?,
            );
        }
        answer.ok_or_else(|| Status::invalid_argument("a snapshot without a chunk"))
    }
}
