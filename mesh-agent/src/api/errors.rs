//! Every refusal of the API: its status and its text, as Docker words it where Docker has one.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use mesh_api::{API_VERSION, MIN_API_VERSION, filters::FilterError};
use mesh_image::ImageError;
use mesh_manager::ManagerError;
use mesh_runtime::RuntimeError;
use serde::Serialize;

use crate::{node::NodeError, volumes::VolumeError};

/// Longest refusal of axum's own, in bytes.
const LONGEST_REFUSAL: usize = 64 << 10;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
}

#[derive(Serialize)]
struct Body {
    message: String,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Body {
            message: self.message,
        };
        (self.status, Json(body)).into_response()
    }
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// The text, for streams that have begun and cannot carry a status any more.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// No such route.
    pub(crate) fn page_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "page not found")
    }

    /// The route is there, the method is not.
    pub(crate) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
    }

    /// A request that makes no sense.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A body that is not the JSON expected.
    pub(crate) fn bad_body(error: &serde_json::Error) -> Self {
        Self::bad_request(format!("invalid JSON: {error}"))
    }

    /// A body that broke off or is too long.
    pub(crate) fn unreadable_body(error: impl std::fmt::Display) -> Self {
        Self::bad_request(format!("cannot read the request's body: {error}"))
    }

    /// An argument with a value it cannot take.
    pub(crate) fn bad_argument(name: &str, value: &str) -> Self {
        Self::bad_request(format!("invalid value for {name}: \"{value}\""))
    }

    /// The client speaks a version of ours to come.
    pub(crate) fn version_too_new(version: &str) -> Self {
        Self::bad_request(format!(
            "client version {version} is too new. Maximum supported API version is {API_VERSION}"
        ))
    }

    /// The client speaks a version of long ago.
    pub(crate) fn version_too_old(version: &str) -> Self {
        Self::bad_request(format!(
            "client version {version} is too old. Minimum supported API version is \
             {MIN_API_VERSION}, please upgrade your client to a newer version"
        ))
    }

    /// The node is in no cluster.
    pub(crate) fn no_swarm() -> Self {
        Self::not_manager(
            "Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm \
             and try again.",
        )
    }

    /// The node is a worker.
    pub(crate) fn worker() -> Self {
        NodeError::NotManager.into()
    }

    /// The manager has not begun to work.
    pub(crate) fn manager_not_ready() -> Self {
        Self::not_manager("Manager is being prepared or has trouble connecting to the cluster.")
    }

    /// The node is a member that cannot work.
    pub(crate) fn swarm_error(reason: &str) -> Self {
        Self::not_manager(reason)
    }

    fn not_manager(rest: &str) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("This node is not a swarm manager. {rest}"),
        )
    }

    /// `swarm unlock` of a cluster that is not locked.
    pub(crate) fn not_locked() -> Self {
        NodeError::NotLocked.into()
    }

    /// The manager waits for `swarm unlock`.
    pub(crate) fn locked() -> Self {
        NodeError::Locked.into()
    }

    /// No exec of this id.
    pub(crate) fn no_such_exec(id: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("No such exec instance: {id}"),
        )
    }

    /// An exec is started once.
    pub(crate) fn exec_started(id: &str) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            format!("exec {id} has been started already: create another one"),
        )
    }

    /// A command in a container that does not run.
    pub(crate) fn not_running(id: &str) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            format!("container {id} is not running"),
        )
    }

    /// `rm` of a container that runs.
    pub(crate) fn still_running(name: &str) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            format!(
                "cannot remove container \"/{name}\": container is running: stop the container \
                 before removing or force remove"
            ),
        )
    }

    /// `start` of a task that has ended.
    pub(crate) fn one_shot(name: &str) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            format!(
                "container \"/{name}\" is a task of a service and has ended: tasks are not started \
                 again, the service replaces them"
            ),
        )
    }

    /// The image is on this node only.
    pub(crate) fn only_local(image: &str) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{image} was loaded on this node and comes from no registry"),
        )
    }

    /// The registry did not answer in time.
    pub(crate) fn registry_timeout(image: &str, seconds: u64) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "the registry of {image} did not answer within {seconds} s: check its address and the network"
            ),
        )
    }

    /// The log of a container of which none is kept.
    pub(crate) fn no_log() -> Self {
        Self::not_implemented("configured logging driver does not support reading")
    }

    /// Somebody else prunes.
    pub(crate) fn prune_running() -> Self {
        Self::new(StatusCode::CONFLICT, "a prune operation is already running")
    }

    /// No service of this name or id that the node knows.
    pub(crate) fn no_such_service(reference: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("service {reference} not found"),
        )
    }

    /// No service has this virtual address.
    pub(crate) fn no_such_vip(reference: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("no virtual address of or at {reference}"),
        )
    }

    /// Something that this version does not do.
    pub(crate) fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// A failure of ours.
    pub(crate) fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message.to_string())
    }
}

/// What axum refuses by itself, say a path that is no text, in the shape of all other refusals.
pub(crate) async fn in_json(response: Response) -> Response {
    let status = response.status();
    let is_plain = |value: &HeaderValue| value.as_bytes().starts_with(b"text/plain");
    let content = response.headers().get(header::CONTENT_TYPE);
    if !(status.is_client_error() || status.is_server_error()) || !content.is_some_and(is_plain) {
        return response;
    }
    match axum::body::to_bytes(response.into_body(), LONGEST_REFUSAL).await {
        Ok(text) => ApiError::new(status, String::from_utf8_lossy(&text)),
        Err(error) => ApiError::internal(error),
    }
    .into_response()
}

impl From<FilterError> for ApiError {
    fn from(error: FilterError) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<ManagerError> for ApiError {
    fn from(error: ManagerError) -> Self {
        let status = StatusCode::from_u16(error.kind.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::new(status, error.message)
    }
}

impl From<NodeError> for ApiError {
    fn from(error: NodeError) -> Self {
        let status = match &error {
            NodeError::AlreadyMember
            | NodeError::NotMember
            | NodeError::NotManager
            | NodeError::Locked
            | NodeError::LeaveRefused(_)
            | NodeError::Remote(_) => StatusCode::SERVICE_UNAVAILABLE,
            NodeError::Invalid(_) => StatusCode::BAD_REQUEST,
            NodeError::NotFound(_) => StatusCode::NOT_FOUND,
            NodeError::WrongKey(_) => StatusCode::UNAUTHORIZED,
            NodeError::Conflict(_) | NodeError::NotLocked => StatusCode::CONFLICT,
            NodeError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<ImageError> for ApiError {
    fn from(error: ImageError) -> Self {
        use mesh_image::ErrorKind;
        let status = match error.kind() {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<VolumeError> for ApiError {
    fn from(error: VolumeError) -> Self {
        let status = match &error {
            VolumeError::NotFound(_) | VolumeError::Driver { .. } => StatusCode::NOT_FOUND,
            VolumeError::Name { .. } | VolumeError::Options { .. } => StatusCode::BAD_REQUEST,
            VolumeError::InUse { .. } | VolumeError::Mounted(_) | VolumeError::Conflict(_) => {
                StatusCode::CONFLICT
            }
            VolumeError::Mount { .. } | VolumeError::Populate { .. } | VolumeError::Io { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self::new(status, error.to_string())
    }
}

impl From<RuntimeError> for ApiError {
    fn from(error: RuntimeError) -> Self {
        let status = match &error {
            RuntimeError::NotFound { .. } => StatusCode::NOT_FOUND,
            RuntimeError::Exists { .. } | RuntimeError::WrongState { .. } => StatusCode::CONFLICT,
            RuntimeError::ExecutableNotFound { .. }
            | RuntimeError::NotExecutable { .. }
            | RuntimeError::InvalidSpec { .. } => StatusCode::BAD_REQUEST,
            RuntimeError::Create { .. }
            | RuntimeError::Shim { .. }
            | RuntimeError::ShimGone { .. }
            | RuntimeError::Io { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn bodies_are_dockers() {
        let response = ApiError::page_not_found().into_response();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()["content-type"], "application/json");
        let body = response
            .into_body()
            .collect()
            .await
            .expect("body")
            .to_bytes();
        assert_eq!(&body[..], br#"{"message":"page not found"}"#);
    }

    /// Clients compare these texts, so they are Docker's to the letter.
    #[test]
    fn not_a_manager() {
        let texts = [
            (
                ApiError::no_swarm(),
                "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to \
                 swarm and try again.",
            ),
            (
                ApiError::worker(),
                "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this \
                 command on a manager node or promote the current node to a manager.",
            ),
            (
                ApiError::manager_not_ready(),
                "This node is not a swarm manager. Manager is being prepared or has trouble connecting to the cluster.",
            ),
            (
                ApiError::locked(),
                "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it.",
            ),
            (
                NodeError::AlreadyMember.into(),
                "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.",
            ),
            (
                ManagerError::no_leader().into(),
                "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of \
                 the managers are online.",
            ),
        ];
        for (error, text) in texts {
            assert_eq!(error.status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(error.message, text);
        }
    }
}
