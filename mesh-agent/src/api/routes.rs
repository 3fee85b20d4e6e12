//! The table of routes.

use axum::{
    Extension, Router,
    extract::DefaultBodyLimit,
    middleware::from_fn_with_state,
    routing::{delete, get, post},
};

use mesh_api::handout::Kind;

use super::{
    Api, applied, containers, distribution, doctor, errors::ApiError, events, exec, handouts,
    images, leader, mesh, networks, nodes, packets, relay, services, swarm, system, tasks, trace,
    volumes,
};

/// Longest body read into memory, in bytes: a spec with configs inlined stays far below, and a
/// longer one is refused with 400. Archives of images are streamed and not counted.
pub(super) const MAX_BODY: usize = 16 << 20;

pub(super) fn router(api: Api) -> Router {
    Router::new()
        .route("/_ping", get(system::ping))
        .route("/version", get(system::version))
        .route("/info", get(system::info))
        .merge(membership())
        .merge(cluster().route_layer(from_fn_with_state(api.clone(), leader::answers)))
        .merge(logs())
        .merge(traces().route_layer(from_fn_with_state(api.clone(), relay::goes_on)))
        .merge(node_local())
        .fallback(async || ApiError::page_not_found())
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(DefaultBodyLimit::disable())
        .with_state(api)
}

/// What the leader answers for other managers.
pub(super) fn for_managers(api: Api) -> Router {
    cluster()
        .merge(logs())
        .merge(traces())
        .fallback(async || ApiError::page_not_found())
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(DefaultBodyLimit::disable())
        .with_state(api)
}

fn membership() -> Router<Api> {
    Router::new()
        .route("/swarm/init", post(swarm::init))
        .route("/swarm/join", post(swarm::join))
        .route("/swarm/leave", post(swarm::leave))
        .route("/swarm/unlock", post(swarm::unlock))
        .route("/mesh/swarm/restore", post(swarm::restore))
}

/// What is the whole cluster's to answer: the leader does.
fn cluster() -> Router<Api> {
    Router::new()
        .route("/events", get(events::stream))
        .route("/mesh/vips", get(mesh::list))
        .route("/mesh/vips/{reference}", get(mesh::inspect))
        .route("/mesh/applied", get(applied::wait))
        .route("/mesh/doctor", get(doctor::check))
        .route("/mesh/nodes/flows", get(packets::flows_of_nodes))
        .route("/mesh/nodes/drops", get(packets::drops_of_nodes))
        .route("/mesh/swarm/backup", get(swarm::backup))
        .route("/swarm", get(swarm::inspect))
        .route("/swarm/update", post(swarm::update))
        .route("/swarm/unlockkey", get(swarm::unlock_key))
        .route("/nodes", get(nodes::list))
        .route("/nodes/{id}", get(nodes::inspect).delete(nodes::remove))
        .route("/nodes/{id}/update", post(nodes::update))
        .route("/services", get(services::list))
        .route("/services/create", post(services::create))
        .route(
            "/services/{id}",
            get(services::inspect).delete(services::remove),
        )
        .route("/services/{id}/update", post(services::update))
        .route("/tasks", get(tasks::list))
        .route("/tasks/{id}", get(tasks::inspect))
        .route("/networks", get(networks::list))
        .route("/networks/create", post(networks::create))
        .route("/networks/prune", post(networks::prune))
        .route(
            "/networks/{id}",
            get(networks::inspect).delete(networks::remove),
        )
        .merge(handed_out(Kind::Secret))
        .merge(handed_out(Kind::Config))
}

/// What the manager that is asked gets from one leader after the other. (Older ones ask the leader for it.)
fn logs() -> Router<Api> {
    Router::new()
        .route("/services/{id}/logs", get(services::logs::of_service))
        .route("/tasks/{id}/logs", get(services::logs::of_task))
}

fn traces() -> Router<Api> {
    Router::new().route("/mesh/trace", get(trace::follow))
}

fn handed_out(kind: Kind) -> Router<Api> {
    let path = |rest: &str| format!("/{}s{rest}", kind.noun());
    Router::new()
        .route(&path(""), get(handouts::list))
        .route(&path("/create"), post(handouts::create))
        .route(
            &path("/{id}"),
            get(handouts::inspect).delete(handouts::remove),
        )
        .route(&path("/{id}/update"), post(handouts::update))
        .route_layer(Extension(kind))
}

fn node_local() -> Router<Api> {
    Router::new()
        .route("/mesh/flows", get(packets::flows))
        .route("/mesh/drops", get(packets::drops))
        .route("/metrics", get(packets::metrics))
        .route("/distribution/{*name}", get(distribution::inspect))
        .route("/containers/json", get(containers::list))
        .route("/containers/{id}", delete(containers::lifecycle::remove))
        .route("/containers/{id}/json", get(containers::inspect::inspect))
        .route("/containers/{id}/logs", get(containers::streams::logs))
        .route("/containers/{id}/attach", post(containers::streams::attach))
        .route("/containers/{id}/start", post(containers::lifecycle::start))
        .route("/containers/{id}/stop", post(containers::lifecycle::stop))
        .route("/containers/{id}/kill", post(containers::lifecycle::kill))
        .route("/containers/{id}/wait", post(containers::lifecycle::wait))
        .route("/containers/{id}/resize", post(containers::streams::resize))
        .route("/containers/{id}/exec", post(exec::create))
        .route("/exec/{id}/start", post(exec::start))
        .route("/exec/{id}/resize", post(exec::resize))
        .route("/exec/{id}/json", get(exec::inspect))
        .route("/volumes", get(volumes::list))
        .route("/volumes/create", post(volumes::create))
        .route("/volumes/prune", post(volumes::prune))
        .route(
            "/volumes/{name}",
            get(volumes::inspect).delete(volumes::remove),
        )
        .route("/images/json", get(images::list))
        .route("/images/load", post(images::load))
        .route("/images/create", post(images::pull))
        .route("/images/prune", post(images::prune))
        .route(
            "/images/{*name}",
            get(images::inspect)
                .delete(images::remove)
                .post(images::tag),
        )
}
