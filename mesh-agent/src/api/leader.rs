//! What is asked of the cluster is answered by the leader, whichever manager was asked: changes and reads alike, so that
//! every answer holds all that was acknowledged before. Without a majority of the managers, what is known is read only.

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use mesh_manager::{CallError, Lead};
use std::time::Duration;
use tokio::time::Instant;

use super::{Api, errors::ApiError, routes::MAX_BODY, tasks};

/// Longest wait for a leader that takes a change.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for one that answers a read: then it is answered from what this manager knows.
pub(super) const READ_PATIENCE: Duration = Duration::from_secs(3);
/// Pause before a leader is looked for again.
const PAUSE: Duration = Duration::from_millis(100);

/// What comes with an answer that may be old (RFC 7234, 5.5.1).
const STALE: HeaderValue = HeaderValue::from_static(
    r#"110 - "The swarm does not have a leader. This is what this manager knows; nothing can be changed.""#,
);

/// What is of no use once it is old: an unlock key, which would be kept, and what only the leader is told.
const NEVER_STALE: [&str; 2] = ["/swarm/unlockkey", "/mesh/applied"];

/// Lets the request pass where this manager leads, else has the leader answer it. Without a leader, reads are answered by
/// what this manager knows, and say so.
pub(super) async fn answers(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let is_read = request.method() == Method::GET;
    let patience = if is_read { READ_PATIENCE } else { PATIENCE };
    let deadline = Instant::now() + patience;
    // Nodes that are no managers, or not in time, refuse by themselves.
    let Ok(manager) = api.ready_manager(deadline).await else {
        return next.run(request).await;
    };
    if let Some(uri) = tasks::with_own_id(request.uri(), &manager.identity().node_id) {
        *request.uri_mut() = uri;
    }
    let mut request = Pending::Whole(request);
    let refusal = loop {
        let remote = match manager.lead(deadline).await {
            Ok(Lead::Here) => return next.run(request.take()).await,
            Ok(Lead::There(remote)) => remote,
            Err(error) => break error,
        };
        let copy = match request.copy().await {
            Ok(copy) => copy,
            Err(refusal) => return refusal.into_response(),
        };
        let called = remote
            .call(copy.map(tonic::body::Body::new), deadline)
            .await;
        match called {
            Ok(answer) => return answer.map(Body::new),
            Err(CallError::Lost(error)) if !is_read => break error,
            Err(CallError::Lost(error) | CallError::NotTaken(error)) => {
                if Instant::now() > deadline {
                    break error;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    let is_of_the_leader = |path: &str| NEVER_STALE.iter().any(|end| path.ends_with(end));
    if !is_read || is_of_the_leader(request.path()) {
        return ApiError::from(refusal).into_response();
    }
    let mut answer = next.run(request.take()).await;
    answer.headers_mut().insert(header::WARNING, STALE);
    answer
}

/// Takes out what is about the connection to this manager.
pub(super) fn forget_connection(headers: &mut HeaderMap) {
    for name in [
        header::CONNECTION,
        header::HOST,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// A request that may have to be asked more than once.
enum Pending {
    Whole(Request),
    /// With what the router has found out of it, which whoever answers it here needs.
    Copied(Parts, Bytes),
}

impl Pending {
    /// A copy, with the body read into memory.
    async fn copy(&mut self) -> Result<Request, ApiError> {
        if let Self::Whole(request) = self {
            let (mut parts, body) = std::mem::take(request).into_parts();
            let body = axum::body::to_bytes(body, MAX_BODY)
                .await
                .map_err(ApiError::unreadable_body)?;
            forget_connection(&mut parts.headers);
            *self = Self::Copied(parts, body);
        }
        Ok(self.again())
    }

    fn again(&self) -> Request {
        match self {
            Self::Whole(_) => Request::default(),
            Self::Copied(parts, body) => {
                Request::from_parts(parts.clone(), Body::from(body.clone()))
            }
        }
    }

    fn path(&self) -> &str {
        match self {
            Self::Whole(request) => request.uri().path(),
            Self::Copied(parts, _) => parts.uri.path(),
        }
    }

    /// The request itself.
    fn take(self) -> Request {
        match self {
            Self::Whole(request) => request,
            Self::Copied(parts, body) => Request::from_parts(parts, Body::from(body)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, extract::Path, middleware, routing::post};
    use tower::ServiceExt;

    /// As [`answers`] does once nobody else is there to answer.
    async fn copied(request: Request, next: Next) -> Response {
        let mut pending = Pending::Whole(request);
        for _ in 0..2 {
            let copy = pending.copy().await.unwrap();
            assert_eq!(copy.uri().path(), "/nodes/n1");
            let body = axum::body::to_bytes(copy.into_body(), 10).await.unwrap();
            assert_eq!(body, "body");
        }
        next.run(pending.take()).await
    }

    #[tokio::test]
    async fn what_was_copied_is_answered_here_as_well() {
        let tell = async |Path(name): Path<String>, body: String| format!("{name} {body}");
        let router = Router::new()
            .route("/nodes/{name}", post(tell))
            .route_layer(middleware::from_fn(copied));
        let request = Request::post("/nodes/n1").body(Body::from("body")).unwrap();
        let answer = router.oneshot(request).await.unwrap();
        let body = axum::body::to_bytes(answer.into_body(), 100).await.unwrap();
        assert_eq!(body, "n1 body");
    }
}
