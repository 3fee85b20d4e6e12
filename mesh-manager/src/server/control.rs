//! `Control`: followers hand their proposals to the leader; managers come in.

use super::{auth, ca::status, to_its_end};
use crate::{ManagerError, Outcome, Proposal, core::Core, logs, raft::Peer};
use mesh_api::proto::{
    ForwardRequest, ForwardResponse, GroupRequest, GroupResponse, JoinRequest, JoinResponse,
    LogBatch, LogsRequest, ReadIndexRequest, ReadIndexResponse, control_server::Control,
};
use std::{pin::Pin, sync::Arc};
use tonic::{Request, Response, Status};

pub(super) struct Service(pub(super) Arc<Core>);

/// Lets a manager ask this one, if it leads: before that, its state may be too old to know the caller.
async fn leading<T: Sync>(core: &Core, request: &Request<T>) -> Result<(), Status> {
    auth::may_be_manager(core, request)?;
    core.begins_to_lead().await.map_err(status)?;
    auth::manager(core, request).map(drop)
}

#[tonic::async_trait]
impl Control for Service {
    type LogsStream = Pin<Box<dyn futures::Stream<Item = Result<LogBatch, Status>> + Send>>;

    async fn forward(
        &self,
        request: Request<ForwardRequest>,
    ) -> Result<Response<ForwardResponse>, Status> {
        leading(&self.0, &request).await?;
        let proposal: Proposal = serde_json::from_slice(&request.get_ref().command_json)
            .map_err(|e| Status::invalid_argument(format!("not a proposal: {e}")))?;
        let outcome: Outcome = self.0.proposer.propose(proposal).await;
        let result_json = serde_json::to_vec(&outcome)
            .map_err(|e| Status::internal(format!("cannot encode the outcome: {e}")))?;
        Ok(Response::new(ForwardResponse { result_json }))
    }

    async fn group(
        &self,
        request: Request<GroupRequest>,
    ) -> Result<Response<GroupResponse>, Status> {
        auth::may_be_manager(&self.0, &request)?;
        // A majority stands behind this: none of a group of the past says so.
        self.0.catch_up().await.map_err(status)?;
        auth::manager(&self.0, &request)?;
        let incarnation = self.0.store.read().lineage().incarnation;
        Ok(Response::new(GroupResponse { incarnation }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        auth::may_be_manager(&self.0, &request)?;
        // Its certificate is young: its node has to be known here too.
        self.0.catch_up().await.map_err(status)?;
        let caller = auth::manager(&self.0, &request)?;
        let JoinRequest {
            node_id,
            address,
            rules,
        } = request.into_inner();
        let is_forwarded = caller.node_id != node_id;
        let manager = Peer {
            node_id,
            addr: address,
        };
        let core = self.0.clone();
        // A manager that died on the way in is taken out again.
        to_its_end(async move { core.let_in(manager, rules, is_forwarded).await }).await??;
        Ok(Response::new(JoinResponse {}))
    }

    async fn read_index(
        &self,
        request: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexResponse>, Status> {
        leading(&self.0, &request).await?;
        if !self.0.leads_now().await {
            return Err(status(ManagerError::no_leader()));
        }
        let index = self.0.store.read().index();
        let reachable = self.0.consensus.reachable().into_iter().collect();
        Ok(Response::new(ReadIndexResponse { index, reachable }))
    }

    async fn logs(
        &self,
        request: Request<LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        leading(&self.0, &request).await?;
        let batches = logs::answer(&self.0, request.into_inner()).map_err(status)?;
        Ok(Response::new(Box::pin(batches)))
    }
}
