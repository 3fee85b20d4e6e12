//! `Control`: followers hand their proposals to the leader.

use super::auth;
use crate::{Outcome, Proposal, core::Core};
use mesh_api::proto::{ForwardRequest, ForwardResponse, control_server::Control};
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub(super) struct Service(pub(super) Arc<Core>);

#[tonic::async_trait]
impl Control for Service {
    async fn forward(
        &self,
        request: Request<ForwardRequest>,
    ) -> Result<Response<ForwardResponse>, Status> {
        auth::manager(&self.0, &request)?;
        let proposal: Proposal = serde_json::from_slice(&request.get_ref().command_json)
            .map_err(|e| Status::invalid_argument(format!("not a proposal: {e}")))?;
        let outcome: Outcome = self.0.proposer.propose(proposal).await;
        let result_json = serde_json::to_vec(&outcome)
            .map_err(|e| Status::internal(format!("cannot encode the outcome: {e}")))?;
        Ok(Response::new(ForwardResponse { result_json }))
    }
}
