//! `/mesh/flows`, `/mesh/drops` and `/metrics`: what the node's packet path does; the first two of all nodes under
//! `/mesh/nodes`.

use std::{net::IpAddr, time::Duration};

use axum::{
    Json, Router,
    extract::{Query as QueryOf, State},
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use mesh_api::{
    mesh::{Drop, Flow, OfNodes},
    proto::{DropCount, DropQuestion, FlowQuestion, OpenFlow, query::Question, report},
};
use tokio::net::TcpListener;

use super::{Answer, Api, args::Query, errors::ApiError};
use crate::{metrics, node::Node, traffic};

/// How long the nodes have to answer. Reading a full table of flows takes a second or two.
const PATIENCE: Duration = Duration::from_secs(5);

/// The text format that Prometheus reads, as the OpenMetrics specification 1.0 names it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn flows(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Json<Vec<Flow>>> {
    let told = traffic::flows(&api.node, question(&api, &query)?, usize::MAX).await?;
    Ok(Json(
        told.flows.into_iter().map(|told| flow("", told)).collect(),
    ))
}

/// Those of all nodes, or of one.
pub(super) async fn flows_of_nodes(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Json<OfNodes<Flow>>> {
    let mut left_out = 0;
    let question = Question::Flows(question(&api, &query)?);
    let mut found = ask_nodes(&api, &query, question, |name, answer| match answer {
        report::Answer::Flows(told) => {
            left_out += told.left_out;
            let flows = told.flows.into_iter();
            flows.map(|told| flow(name, told)).collect()
        }
        _ => Vec::new(),
    })
    .await?;
    found.left_out = left_out;
    Ok(Json(found))
}

fn question(api: &Api, query: &Query) -> Answer<FlowQuestion> {
    let service = query.get("service").map(|wanted| service(api, wanted));
    let client = query.number::<IpAddr>("client")?;
    Ok(FlowQuestion {
        service: service.transpose()?.unwrap_or_default(),
        client: client.map(|client| client.to_string()).unwrap_or_default(),
        all: query.flag("all"),
    })
}

/// Asks the nodes, or the one that the query names; `read` makes of a node's answer what it has, under its host name.
async fn ask_nodes<T>(
    api: &Api,
    query: &Query,
    question: Question,
    mut read: impl FnMut(&str, report::Answer) -> Vec<T>,
) -> Answer<OfNodes<T>> {
    let manager = api.manager()?;
    let only = match query.get("node") {
        Some(node) => Some(manager.view().find_node(node)?.id.clone()),
        None => None,
    };
    let question = |_: &str| question.clone();
    let mut told = manager.ask(only.as_deref(), question, PATIENCE).await?;
    let view = manager.view();
    let mut nodes: Vec<(&str, &str)> = view
        .nodes()
        .filter(|node| only.as_ref().is_none_or(|only| *only == node.id))
        .map(|node| (node.description.hostname.as_str(), node.id.as_str()))
        .collect();
    nodes.sort_unstable();
    let mut found = OfNodes {
        items: Vec::new(),
        silent_nodes: Vec::new(),
        left_out: 0,
    };
    for (name, id) in nodes {
        if let Some(answer) = told.by_node.remove(id) {
            found.items.extend(read(name, answer));
        } else {
            // Also if it is known to be down: its flows go on while only its agent is.
            found.silent_nodes.push(name.to_owned());
        }
    }
    Ok(found)
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

fn flow(node: &str, told: OpenFlow) -> Flow {
    Flow {
        node_name: node.to_owned(),
        service: told.service,
        protocol: told.protocol,
        client: told.client,
        front: told.front,
        backend: told.backend,
        through: told.through,
        idle_seconds: told.idle_seconds,
        closed: told.closed,
        ended: told.ended,
    }
}

pub(super) async fn drops(State(api): State<Api>) -> Answer<Json<Vec<Drop>>> {
    let told = traffic::drops(&api.node).await?;
    Ok(Json(
        told.drops.into_iter().map(|told| drop("", told)).collect(),
    ))
}

/// Those of all nodes, or of one.
pub(super) async fn drops_of_nodes(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Json<OfNodes<Drop>>> {
    let question = Question::Drops(DropQuestion {});
    let found = ask_nodes(&api, &query, question, |name, answer| match answer {
        report::Answer::Drops(told) => {
            let drops = told.drops.into_iter();
            drops.map(|told| drop(name, told)).collect()
        }
        _ => Vec::new(),
    });
    Ok(Json(found.await?))
}

fn drop(node: &str, told: DropCount) -> Drop {
    Drop {
        node_name: node.to_owned(),
        reason: told.reason,
        place: told.place,
        packets: told.packets,
        bytes: told.bytes,
    }
}

pub(super) async fn metrics(State(api): State<Api>) -> Answer<Response> {
    let node = api.node.clone();
    let text = tokio::task::spawn_blocking(move || metrics::text(&node));
    let text = text.await.map_err(ApiError::internal)??;
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
