//! `/swarm`: the cluster.

use axum::{
    Json,
    body::Body,
    extract::{Query as QueryOf, State},
};
use mesh_api::engine::{Swarm, SwarmInitRequest, SwarmJoinRequest, SwarmSpec, UnlockKeyResponse};
use mesh_manager::Command;
use serde::Deserialize;

use super::{
    Answer, Api,
    args::{Query, json},
    errors::ApiError,
};

/// A request with the field that the generated types leave out.
#[derive(Deserialize)]
struct WithAvailability<T> {
    #[serde(flatten)]
    request: T,
    #[serde(rename = "Availability", default)]
    availability: Option<String>,
}

pub(super) async fn inspect(State(api): State<Api>) -> Answer<Json<Swarm>> {
    let manager = api.manager()?;
    let view = manager.view();
    let cluster = view.cluster().ok_or_else(ApiError::manager_not_ready)?;
    Ok(Json(cluster.to_engine()))
}

pub(super) async fn init(State(api): State<Api>, body: Body) -> Answer<Json<String>> {
    let body: WithAvailability<SwarmInitRequest> = json(body).await?;
    let made = api.node.swarm_init(body.request, body.availability).await?;
    Ok(Json(made))
}

pub(super) async fn join(State(api): State<Api>, body: Body) -> Answer<()> {
    let body: WithAvailability<SwarmJoinRequest> = json(body).await?;
    let joined = api.node.swarm_join(body.request, body.availability);
    Ok(joined.await?)
}

pub(super) async fn leave(State(api): State<Api>, QueryOf(query): QueryOf<Query>) -> Answer<()> {
    Ok(api.node.swarm_leave(query.flag("force")).await?)
}

pub(super) async fn update(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
    body: Body,
) -> Answer<()> {
    let manager = api.manager()?;
    let spec: SwarmSpec = json(body).await?;
    let command = Command::UpdateSwarm {
        version: query.version()?,
        spec,
        rotate_worker_token: query.flag("rotateWorkerToken"),
        rotate_manager_token: query.flag("rotateManagerToken"),
    };
    manager.call(command).await?;
    Ok(())
}

/// A manager that starts is never locked here: there is nothing to unlock.
pub(super) async fn unlock(State(api): State<Api>) -> Answer<()> {
    api.manager()?;
    Err(ApiError::not_locked())
}

/// Empty, as Docker answers for a cluster without autolock.
pub(super) async fn unlock_key(State(api): State<Api>) -> Answer<Json<UnlockKeyResponse>> {
    api.manager()?;
    Ok(Json(UnlockKeyResponse {
        unlock_key: Some(String::new()),
    }))
}
