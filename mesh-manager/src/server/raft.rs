//! `Raft`: messages between managers.

use super::{auth, ca::status};
use crate::{core::Core, raft::PeerMessage};
use mesh_api::proto::{RaftMessage, raft_server::Raft};
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub(super) struct Service(pub(super) Arc<Core>);

impl Service {
    async fn receive(
        &self,
        kind: PeerMessage,
        request: Request<RaftMessage>,
    ) -> Result<Response<RaftMessage>, Status> {
        auth::raft_peer(&self.0, &request)?;
        let message = request.into_inner();
        // Another manager had this address: nobody answers for it.
        if message.to != self.0.identity.node_id {
            return Err(Status::failed_precondition(format!(
                "this is not node {}",
                message.to
            )));
        }
        // One of a group that this one took the place of; or it is this manager whose group is of the past, and it will
        // be told so when it asks. Who has no state yet follows any.
        let is_of_another = {
            let state = self.0.store.read();
            state.cluster().is_some() && state.incarnation != message.incarnation
        };
        if is_of_another {
            return Err(auth::dismissed());
        }
        let payload = self
            .0
            .consensus
            .receive(kind, &message.payload, message.data)
            .await
            .map_err(status)?;
        Ok(Response::new(RaftMessage {
            payload,
            ..RaftMessage::default()
        }))
    }
}

#[tonic::async_trait]
impl Raft for Service {
    async fn append_entries(
        &self,
        request: Request<RaftMessage>,
    ) -> Result<Response<RaftMessage>, Status> {
        self.receive(PeerMessage::AppendEntries, request).await
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        self.receive(PeerMessage::Vote, request).await
    }

    async fn install_snapshot(
        &self,
        request: Request<RaftMessage>,
    ) -> Result<Response<RaftMessage>, Status> {
        self.receive(PeerMessage::InstallSnapshot, request).await
    }
}
