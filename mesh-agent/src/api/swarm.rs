//! `/swarm`: the cluster.

use axum::{
    Json,
    body::{Body, to_bytes},
    extract::{Query as QueryOf, State},
    http::{HeaderMap, header},
    response::IntoResponse,
};
use mesh_api::{
    UNLOCK_KEY,
    engine::{
        Swarm, SwarmInitRequest, SwarmJoinRequest, SwarmSpec, SwarmUnlockRequest, UnlockKeyResponse,
    },
};
use mesh_manager::{Command, refuse_raft_settings, refuse_short_heartbeat, state::refuse_external};
use mesh_pki::UnlockKey;
use serde::Deserialize;

use super::{
    Answer, Api,
    args::{Query, json},
    errors::ApiError,
};
use crate::{cluster::RestoreRequest, node::NodeState};

/// Longest backup, bytes: the state of a thousand nodes with 30,000 tasks takes some 100 MiB.
const LONGEST_BACKUP: usize = 1 << 30;

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
    let mut body: WithAvailability<SwarmInitRequest> = json(body).await?;
    if let Some(spec) = &mut body.request.spec {
        refuse_raft_settings(spec, None)?;
        refuse_short_heartbeat(spec, None)?;
    }
    if let Some(ca) = (body.request.spec.as_ref()).and_then(|spec| spec.ca_config.as_ref()) {
        refuse_external(ca)?;
        let is_given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        if is_given(&ca.signing_ca_cert) || is_given(&ca.signing_ca_key) {
            return Err(ApiError::not_implemented(
                "a new swarm makes its own root CA: give yours to `swarm ca --rotate`",
            ));
        }
    }
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
    let mut spec: SwarmSpec = json(body).await?;
    let version = query.version()?;
    {
        let view = manager.view();
        let old = view.cluster().map(|cluster| &cluster.spec);
        refuse_raft_settings(&mut spec, old)?;
        refuse_short_heartbeat(&spec, old)?;
    }
    let root = manager.root_change(version, &mut spec)?;
    let command = Command::UpdateSwarm {
        version,
        spec,
        rotate_worker_token: query.flag("rotateWorkerToken"),
        rotate_manager_token: query.flag("rotateManagerToken"),
        rotate_unlock_key: query.flag("rotateManagerUnlockKey"),
        unlock_key: Some(UnlockKey::generate().as_bytes().to_vec().into()),
        root: root.map(Box::new),
    };
    manager.call(command).await?;
    Ok(())
}

/// A backup, as its file is.
pub(super) async fn backup(State(api): State<Api>) -> Answer<impl IntoResponse> {
    let manager = api.manager()?;
    // Much to write down for a large cluster: not on a thread that others wait for.
    let backup = tokio::task::spawn_blocking(move || manager.backup()).await;
    let backup = backup.map_err(ApiError::internal)??;
    let kind = (header::CONTENT_TYPE, "application/octet-stream");
    Ok(([kind], backup))
}

/// Goes on with the cluster of the backup that is the body.
pub(super) async fn restore(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<String>> {
    let text = |name: &str| query.get(name).map(str::to_owned);
    let key = headers.get(UNLOCK_KEY).map(|key| key.to_str());
    let request = RestoreRequest {
        listen_addr: text("listenAddr"),
        advertise_addr: text("advertiseAddr"),
        data_path_addr: text("dataPathAddr"),
        availability: text("availability"),
        unlock_key: key
            .transpose()
            .map_err(|_| ApiError::bad_request("invalid key string"))?
            .map(str::to_owned),
    };
    let backup = to_bytes(body, LONGEST_BACKUP)
        .await
        .map_err(ApiError::unreadable_body)?;
    Ok(Json(api.node.swarm_restore(request, backup.into()).await?))
}

/// Goes on with a manager that was locked when it started.
pub(super) async fn unlock(State(api): State<Api>, body: Body) -> Answer<()> {
    let body: SwarmUnlockRequest = json(body).await?;
    if api.node.state() != NodeState::Locked {
        api.manager()?;
        return Err(ApiError::not_locked());
    }
    let key = body.unlock_key.unwrap_or_default();
    Ok(api.node.swarm_unlock(key).await?)
}

/// Empty, as Docker answers for a cluster without autolock.
pub(super) async fn unlock_key(State(api): State<Api>) -> Answer<Json<UnlockKeyResponse>> {
    let manager = api.manager()?;
    let view = manager.view();
    let cluster = view.cluster().ok_or_else(ApiError::manager_not_ready)?;
    let key = cluster.unlock_key().map(|key| key.to_string());
    Ok(Json(UnlockKeyResponse {
        unlock_key: Some(key.unwrap_or_default()),
    }))
}
