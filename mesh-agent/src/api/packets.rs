//! `/mesh/flows`, `/mesh/drops` and `/metrics`: what the node's packet path does.

use axum::{
    Json, Router,
    extract::{Query as QueryOf, State},
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use mesh_api::mesh::{Drop, Flow};
use mesh_datapath::Datapath;
use tokio::net::TcpListener;

use super::{Answer, Api, args::Query, errors::ApiError};
use crate::{metrics, node::Node, protocol};

/// The text format that Prometheus reads, as the OpenMetrics specification 1.0 names it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn flows(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Json<Vec<Flow>>> {
    let only = query.get("service").map(|wanted| service(&api, wanted));
    let only = only.transpose()?;
    let flows = read(&api, |node| node.read_datapath(Datapath::flows)).await?;
    let flows = flows.unwrap_or_default().into_iter().map(flow);
    Ok(Json(
        flows
            .filter(|flow| only.as_ref().is_none_or(|name| *name == flow.service))
            .collect(),
    ))
}

/// The name of a service that this node knows. A worker knows those on its networks and those with published ports.
fn service(api: &Api, wanted: &str) -> Answer<String> {
    if let Ok(manager) = api.manager() {
        return Ok(manager.view().find_service(wanted)?.name().to_owned());
    }
    let assignment = api.node.assignment();
    let mut services = assignment.services.values();
    services
        .find(|service| service.name == wanted || service.id == wanted)
        .map(|service| service.name.clone())
        .ok_or_else(|| ApiError::no_such_service(wanted))
}

fn flow(flow: mesh_datapath::Flow) -> Flow {
    Flow {
        service: flow.service.unwrap_or_default(),
        protocol: protocol::name(flow.protocol),
        client: flow.client.to_string(),
        front: flow.front.to_string(),
        backend: flow.backend.to_string(),
        through: flow.asked.map(|node| node.to_string()).unwrap_or_default(),
        idle_seconds: flow.idle_s,
        closed: flow.closed,
    }
}

pub(super) async fn drops(State(api): State<Api>) -> Answer<Json<Vec<Drop>>> {
    let snapshot = read(&api, |node| node.read_datapath(Datapath::snapshot)).await?;
    let drops = snapshot.unwrap_or_default().drops.into_iter();
    Ok(Json(
        drops
            .map(|line| Drop {
                reason: line.name.to_owned(),
                place: line.place.to_owned(),
                packets: line.packets,
                bytes: line.bytes,
            })
            .collect(),
    ))
}

pub(super) async fn metrics(State(api): State<Api>) -> Answer<Response> {
    let text = read(&api, metrics::text).await?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

/// Answers `/metrics`, and nothing else, on a TCP socket until the process ends.
pub async fn serve_metrics(node: Node, listener: TcpListener) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .fallback(async || ApiError::page_not_found())
        .with_state(Api::new(node));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "metrics are no longer served");
    }
}

/// Reads maps, which blocks, away from the asynchronous threads.
async fn read<T: Send + 'static>(
    api: &Api,
    what: impl FnOnce(&Node) -> Result<T, crate::node::NodeError> + Send + 'static,
) -> Answer<T> {
    let node = api.node.clone();
    tokio::task::spawn_blocking(move || what(&node))
        .await
        .map_err(ApiError::internal)?
        .map_err(ApiError::from)
}
