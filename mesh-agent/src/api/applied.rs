//! `/mesh/applied`: which nodes have not applied a change yet.

use std::time::Duration;

use axum::{
    Json,
    extract::{Query as QueryOf, State},
};
use mesh_api::{
    engine::NodeState as Word,
    mesh::{Applied, BehindNode},
};
use mesh_manager::state::NodeState;
use tokio::time::Instant;

use super::{Answer, Api, args::Query, errors::ApiError};

/// Longest wait of one request; who wants to wait longer asks again.
const MOST: Duration = Duration::from_secs(60);

/// Answers once every node that is up has applied the state of `index`, after `timeout` seconds at the latest.
pub(super) async fn wait(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Json<Applied>> {
    let index = query.number("index")?.ok_or_else(|| {
        ApiError::bad_request("index is missing: the Version.Index of what has to be applied")
    })?;
    let timeout = Duration::from_secs(query.number("timeout")?.unwrap_or(0));
    if timeout > MOST {
        let most = MOST.as_secs();
        let told = format!(
            "invalid timeout {}: at most {most} seconds",
            timeout.as_secs()
        );
        return Err(ApiError::bad_request(told));
    }
    let manager = api.manager()?;
    let behind = manager.behind(index, Instant::now() + timeout).await?;
    let view = manager.view();
    let is_applied = behind.up.is_empty();
    let ids = behind.up.iter().chain(&behind.absent);
    // One that was removed meanwhile has nothing to apply.
    let nodes = ids.filter_map(|id| view.node(id)).map(|node| BehindNode {
        id: node.id.clone(),
        hostname: node.description.hostname.clone(),
        state: match node.state {
            NodeState::Ready => Word::READY,
            NodeState::Down => Word::DOWN,
            NodeState::Unknown => Word::UNKNOWN,
        },
    });
    Ok(Json(Applied {
        index,
        is_applied,
        behind: nodes.collect(),
    }))
}
