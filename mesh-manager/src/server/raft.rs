//! `Raft`: messages between managers.

use super::{auth, ca::status};
use crate::{core::Core, raft::PeerMessage, state::Lineage};
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
        auth::may_be_manager(&self.0, &request)?;
        let message = request.get_ref();
        let Some(own) = self.0.store.lineage() else {
            return Err(Status::unavailable(
                "this manager does not know yet which group it is to come into",
            ));
        };
        let group = Lineage {
            incarnation: message.incarnation.clone(),
            past: message.past.clone(),
        };
        // First of all: it may be anybody's who once was a manager here, and for anybody.
        if own.follows(&group.incarnation) {
            return Err(auth::dismissed(&group.incarnation));
        }
        // Another manager had this address: nobody answers for it.
        if message.to != self.0.identity.node_id {
            return Err(Status::failed_precondition(format!(
                "this is not node {}",
                message.to
            )));
        }
        auth::raft_peer(&self.0, &request)?;
        if group.incarnation != own.incarnation {
            if group.follows(&own.incarnation) {
                self.0.consensus.dismissal().cancel();
            }
            return Err(Status::failed_precondition(
                "this manager is of another group",
            ));
        }
        let message = request.into_inner();
        let payload = self
            .0
            .consensus
            .receive(kind, &message.payload, message.data)
            .await
            .map_err(status)?;
        Ok(Response::new(RaftMessage {
            payload,
            rules: self.0.store.knows(),
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

    async fn pre_vote(
        &self,
        request: Request<RaftMessage>,
    ) -> Result<Response<RaftMessage>, Status> {
        self.receive(PeerMessage::PreVote, request).await
    }

    async fn install_snapshot(
        &self,
        request: Request<RaftMessage>,
    ) -> Result<Response<RaftMessage>, Status> {
        self.receive(PeerMessage::InstallSnapshot, request).await
    }
}
