//! Why a call of the control socket failed.

use std::path::{Path, PathBuf};

use hyper::StatusCode;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not a host this client can speak to.
    #[error("cannot use host \"{0}\": give a socket as unix:///path")]
    Host(String),
    /// Nobody listens on the socket, or it may not be opened.
    #[error("{}", connect_text(socket, cause))]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why it could not be opened.
        cause: std::io::Error,
    },
    /// The agent refused, in its own words.
    #[error("Error response from daemon: {message}")]
    Daemon {
        /// HTTP status.
        status: StatusCode,
        /// The agent's words.
        message: String,
    },
    /// The connection broke.
    #[error("the connection to the mesh agent broke")]
    Transport(#[from] hyper::Error),
    /// A request that cannot be put into words: a bug of the caller.
    #[error("the request is malformed")]
    Request(#[from] hyper::http::Error),
    /// The answer (or the request's body) is not the JSON expected.
    #[error("the mesh agent's answer is not understood: {0}")]
    Decode(serde_json::Error),
    /// A stream broke.
    #[error("the stream from the mesh agent broke: {0}")]
    Stream(String),
}

impl ClientError {
    /// The HTTP status of a refusal.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Daemon { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the same may be answered in a moment: the agent is being restarted, or there is no leader.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connect { cause, .. } => cause.kind() != std::io::ErrorKind::PermissionDenied,
            Self::Daemon { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
            Self::Transport(_) => true,
            Self::Host(_) | Self::Request(_) | Self::Decode(_) | Self::Stream(_) => false,
        }
    }

    /// Whether the agent said that there is no such object.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(StatusCode::NOT_FOUND)
    }
}

fn connect_text(socket: &Path, cause: &std::io::Error) -> String {
    let socket = socket.display();
    if cause.kind() == std::io::ErrorKind::PermissionDenied {
        return format!(
            "cannot connect to the mesh agent at unix://{socket}: permission denied: run as root or as a user who may write to the socket"
        );
    }
    format!("cannot connect to the mesh agent at unix://{socket}: is mesh-agent running?")
}
