//! The sockets: HTTP/1.1 with upgrades, paths with or without a version, the headers of every answer.

use std::{convert::Infallible, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result};
use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, Response, Uri},
    response::IntoResponse,
};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use mesh_api::{API_VERSION, MIN_API_VERSION};
use tokio::net::{UnixListener, UnixStream};
use tower::ServiceExt;

use super::{
    Api,
    errors::{self, ApiError},
    routes,
};
use crate::node::Node;

/// Who may connect: root, and the group of the socket.
const SOCKET_MODE: u32 = 0o660;

/// Listens at `path`. A socket that nobody listens on any more is replaced.
///
/// # Errors
/// When another process listens there, or the socket cannot be made.
pub fn bind(path: &Path) -> Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        anyhow::bail!(
            "another process listens on {}: stop it, or give another --run-dir",
            path.display()
        );
    }
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))
        .with_context(|| format!("cannot set the mode of {}", path.display()))?;
    Ok(listener)
}

/// Answers the Engine API on these sockets until `stop` is done. Requests under way are cut off
/// then: the process is about to end.
pub async fn serve(node: Node, listeners: Vec<UnixListener>, stop: impl Future<Output = ()>) {
    let api = Api::new(node);
    let router = routes::router(api.clone());
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, router.clone(), api.clone()));
    }
    stop.await;
    accepting.shutdown().await;
}

async fn accept(listener: UnixListener, router: Router, api: Api) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, router.clone(), api.clone()));
                }
                Err(error) => {
                    // Out of descriptors: let some be closed before trying again.
                    tracing::warn!(%error, "cannot accept a connection to the control socket");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: UnixStream, router: Router, api: Api) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        let api = api.clone();
        async move { Ok::<_, Infallible>(answer(router, &api, request).await) }
    });
    let result = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = result {
        // A client that hangs up in the middle; its own affair.
        tracing::debug!(%error, "a connection to the control socket broke");
    }
}

async fn answer(router: Router, api: &Api, mut request: Request<Incoming>) -> Response<Body> {
    let mut response = match strip_version(request.uri()) {
        Ok((uri, version)) => {
            *request.uri_mut() = uri;
            if let Some(version) = version {
                request.extensions_mut().insert(version);
            }
            match router.oneshot(request).await {
                Ok(response) => errors::in_json(response).await,
                Err(never) => match never {},
            }
        }
        Err(error) => error.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert("api-version", HeaderValue::from_static(API_VERSION));
    headers.insert("docker-experimental", HeaderValue::from_static("false"));
    headers.insert("ostype", HeaderValue::from_static("linux"));
    headers.insert(
        "server",
        HeaderValue::from_static(concat!(
            "mesh-agent/",
            env!("CARGO_PKG_VERSION"),
            " (linux)"
        )),
    );
    headers.insert("swarm", HeaderValue::from_static(api.node.state().header()));
    response
}

/// The version that a request's path begins with, for the few handlers to which it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ApiVersion(pub(super) u32, pub(super) u32);

/// The URI without its leading `/v1.NN`, which has to be a version we speak.
fn strip_version(uri: &Uri) -> Result<(Uri, Option<ApiVersion>), ApiError> {
    let path = uri.path();
    let Some(rest) = path.strip_prefix("/v") else {
        return Ok((uri.clone(), None));
    };
    let (version, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let Some(wanted) = parse_version(version) else {
        return Ok((uri.clone(), None));
    };
    if parse_version(API_VERSION).is_some_and(|newest| wanted > newest) {
        return Err(ApiError::version_too_new(version));
    }
    if parse_version(MIN_API_VERSION).is_some_and(|oldest| wanted < oldest) {
        return Err(ApiError::version_too_old(version));
    }
    let rest = if rest.is_empty() { "/" } else { rest };
    let target = match uri.query() {
        Some(query) => format!("{rest}?{query}"),
        None => rest.to_owned(),
    };
    let uri = target.parse().map_err(|_| ApiError::page_not_found())?;
    Ok((uri, Some(wanted)))
}

fn parse_version(text: &str) -> Option<ApiVersion> {
    let (major, minor) = text.split_once('.')?;
    Some(ApiVersion(major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strip(path: &str) -> Result<String, ApiError> {
        strip_version(&path.parse().expect("uri")).map(|(uri, _)| uri.to_string())
    }

    #[test]
    fn versions() {
        assert_eq!(strip("/v1.43/info"), Ok("/info".to_owned()));
        assert_eq!(
            strip("/v1.24/services?status=true"),
            Ok("/services?status=true".to_owned())
        );
        assert_eq!(strip("/version"), Ok("/version".to_owned()));
        assert_eq!(strip("/volumes"), Ok("/volumes".to_owned()));
        assert_eq!(strip("/v1.51"), Ok("/".to_owned()));
        assert_eq!(strip("/v1.52/info"), Err(ApiError::version_too_new("1.52")));
        assert_eq!(strip("/v1.23/info"), Err(ApiError::version_too_old("1.23")));
    }
}
