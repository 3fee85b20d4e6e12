//! The Engine API (v1.51 shapes) on the node's unix sockets, and `/mesh/` for what Docker has no
//! word for. It only translates: changes of the cluster go to the manager's handle, the rest to
//! the node's.
//!
//! `server` sockets, versions, headers · `routes` the table · `errors` every text and status ·
//! one file or folder per noun.

mod applied;
mod args;
mod containers;
mod distribution;
mod doctor;
mod errors;
mod events;
mod exec;
mod handouts;
mod images;
mod leader;
mod mesh;
mod networks;
mod nodes;
mod packets;
mod relay;
mod routes;
mod server;
mod services;
mod stream;
mod swarm;
mod system;
mod tasks;
mod trace;
mod volumes;

use std::{sync::Arc, time::Duration};

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use mesh_api::spelling;
use mesh_manager::ManagerHandle;
use tokio::time::Instant;

use crate::node::{Node, NodeState, Role};
use errors::ApiError;

pub use packets::serve_metrics;
pub use server::{bind, serve};

/// Pause before another look whether the manager is ready.
const LOOK: Duration = Duration::from_millis(20);

/// What the manager of this node answers other managers while it leads.
pub(crate) fn for_managers(node: &Node) -> axum::Router {
    routes::for_managers(Api::new(node.clone()))
}

/// What every handler is given.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    node: Node,
    execs: Arc<exec::Execs>,
    /// One at a time prunes volumes.
    pruning: Arc<tokio::sync::Mutex<()>>,
}

impl Api {
    pub(crate) fn new(node: Node) -> Self {
        Self {
            node,
            execs: Arc::default(),
            pruning: Arc::default(),
        }
    }

    /// The manager in this process, if the node is one that is ready.
    fn manager(&self) -> Result<ManagerHandle, ApiError> {
        self.begun_manager()?
            .ok_or_else(ApiError::manager_not_ready)
    }

    /// The same; one that is not ready yet, say because it was just restarted and has not heard from the leader, is waited for
    /// until `deadline`.
    async fn ready_manager(&self, deadline: Instant) -> Result<ManagerHandle, ApiError> {
        loop {
            match self.begun_manager()? {
                Some(manager) => return Ok(manager),
                None if Instant::now() < deadline => tokio::time::sleep(LOOK).await,
                None => return Err(ApiError::manager_not_ready()),
            }
        }
    }

    /// The manager in this process; `None` while it is being prepared.
    fn begun_manager(&self) -> Result<Option<ManagerHandle>, ApiError> {
        match self.node.state() {
            NodeState::Active(info) | NodeState::Pending(Some(info))
                if info.role == Role::Manager =>
            {
                let manager = self.node.manager();
                Ok(manager.filter(|manager| manager.view().cluster().is_some()))
            }
            NodeState::Active(_) | NodeState::Pending(Some(_)) => Err(ApiError::worker()),
            NodeState::Pending(None) => Ok(None),
            NodeState::Inactive => Err(ApiError::no_swarm()),
            NodeState::Locked => Err(ApiError::locked()),
            NodeState::Error(reason) => Err(ApiError::swarm_error(&reason)),
        }
    }
}

/// What most handlers answer.
type Answer<T> = Result<T, ApiError>;

/// An object with a container specification, spelled as Docker spells it.
struct Shown<T>(T);

impl<T: serde::Serialize> IntoResponse for Shown<T> {
    fn into_response(self) -> Response {
        match spelling::to_vec(&self.0) {
            Ok(bytes) => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
            Err(error) => ApiError::internal(error.to_string()).into_response(),
        }
    }
}
