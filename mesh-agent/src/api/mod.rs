//! The Engine API (v1.51 shapes) on the node's unix sockets, and `/mesh/` for what Docker has no
//! word for. It only translates: changes of the cluster go to the manager's handle, the rest to
//! the node's.
//!
//! `server` sockets, versions, headers · `routes` the table · `errors` every text and status ·
//! one file or folder per noun.

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

use std::sync::Arc;

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use mesh_api::spelling;
use mesh_manager::ManagerHandle;

use crate::node::{Node, NodeState, Role};
use errors::ApiError;

pub use packets::serve_metrics;
pub use server::{bind, serve};

/// What the manager of this node answers other managers while it leads.
pub(crate) fn for_managers(node: &Node) -> axum::Router {
    routes::for_managers(Api::new(node.clone()))
}

/// What every handler is given.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    node: Node,
    execs: Arc<exec::Execs>,
}

impl Api {
    pub(crate) fn new(node: Node) -> Self {
        Self {
            node,
            execs: Arc::default(),
        }
    }

    /// The manager in this process, if the node is one that is ready.
    fn manager(&self) -> Result<ManagerHandle, ApiError> {
        match self.node.state() {
            NodeState::Active(info) | NodeState::Pending(Some(info))
                if info.role == Role::Manager =>
            {
                let manager = self
                    .node
                    .manager()
                    .ok_or_else(ApiError::manager_not_ready)?;
                if manager.view().cluster().is_none() {
                    return Err(ApiError::manager_not_ready());
                }
                Ok(manager)
            }
            NodeState::Active(_) | NodeState::Pending(Some(_)) => Err(ApiError::worker()),
            NodeState::Pending(None) => Err(ApiError::manager_not_ready()),
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
