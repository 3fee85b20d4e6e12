//! `Dispatcher`: opens sessions and takes logs.

use super::{auth, logs, session};
use crate::core::Core;
use futures::Stream;
use mesh_api::proto::{
    LogBatch, ManagerMessage, NodeMessage, PublishLogsResponse, dispatcher_server::Dispatcher,
};
use std::{pin::Pin, sync::Arc};
use tonic::{Request, Response, Status, Streaming};

pub(super) struct Service(pub(super) Arc<Core>);

#[tonic::async_trait]
impl Dispatcher for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<ManagerMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<NodeMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        // Who does not lead may not know the node yet, nor its own.
        let peer = match *self.0.leading.borrow() {
            true => auth::node(&self.0, &request)?,
            false => auth::peer(&self.0, &request)?,
        };
        let caller = session::Caller {
            node_id: peer.node_id,
            remote: auth::remote_ip(&request),
            key_digest: peer.key_digest,
            certificate: auth::certificate(&request)?,
        };
        let messages = session::open(&self.0, caller, request.into_inner())?;
        Ok(Response::new(Box::pin(messages)))
    }

    async fn publish_logs(
        &self,
        request: Request<Streaming<LogBatch>>,
    ) -> Result<Response<PublishLogsResponse>, Status> {
        let peer = auth::node(&self.0, &request)?;
        logs::receive(&self.0, &peer.node_id, request.into_inner()).await?;
        Ok(Response::new(PublishLogsResponse {}))
    }
}
