//! `/nodes`

use axum::{
    Json,
    body::Body,
    extract::{Path, Query as QueryOf, State},
};
use mesh_api::{
    Filters,
    engine::{Node, NodeSpec, NodeSpecRoleEnum},
};
use mesh_manager::Command;

use super::{
    Answer, Api,
    args::{Query, json},
};

const FILTERS: [&str; 6] = ["id", "label", "membership", "name", "node.label", "role"];

pub(super) async fn list(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Json<Vec<Node>>> {
    let manager = api.manager()?;
    let filters = query.filters(&FILTERS)?;
    let managers = manager.group();
    let holds = manager.holds();
    let view = manager.view();
    let roots = view.node_roots();
    let nodes = view
        .nodes()
        .map(|node| node.to_engine(&managers, &roots, &holds))
        .filter(|node| matches(&filters, node))
        .collect();
    Ok(Json(nodes))
}

fn matches(filters: &Filters, node: &Node) -> bool {
    let spec = node.spec.as_ref();
    let known = node.description.as_ref();
    let hostname = known
        .and_then(|known| known.hostname.as_deref())
        .unwrap_or_default();
    let engine = known.and_then(|known| known.engine.as_ref()?.labels.as_ref());
    let own = spec.and_then(|spec| spec.labels.as_ref());
    let role = match spec.and_then(|spec| spec.role) {
        Some(NodeSpecRoleEnum::MANAGER) => "manager",
        _ => "worker",
    };
    filters.prefix("id", node.id.as_deref().unwrap_or_default())
        && filters.prefix("name", hostname)
        && filters.exact("role", role)
        // Whoever has a certificate is accepted.
        && filters.exact("membership", "accepted")
        && filters.labels("label", |name| engine?.get(name).map(String::as_str))
        && filters.labels("node.label", |name| own?.get(name).map(String::as_str))
}

pub(super) async fn inspect(State(api): State<Api>, Path(id): Path<String>) -> Answer<Json<Node>> {
    let manager = api.manager()?;
    let managers = manager.group();
    let holds = manager.holds();
    let view = manager.view();
    let node = view.find_node(&id)?;
    let roots = view.node_roots();
    Ok(Json(node.to_engine(&managers, &roots, &holds)))
}

pub(super) async fn update(
    State(api): State<Api>,
    Path(id): Path<String>,
    QueryOf(query): QueryOf<Query>,
    body: Body,
) -> Answer<()> {
    let manager = api.manager()?;
    let spec: NodeSpec = json(body).await?;
    let version = query.version()?;
    manager
        .call(Command::UpdateNode { id, version, spec })
        .await?;
    Ok(())
}

pub(super) async fn remove(
    State(api): State<Api>,
    Path(id): Path<String>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<()> {
    let manager = api.manager()?;
    let force = query.flag("force");
    manager.call(Command::RemoveNode { id, force }).await?;
    Ok(())
}
