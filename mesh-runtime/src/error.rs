//! What can go wrong with a container, and the exit code Docker's users expect for it.

use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;

/// A failure of the runtime, of a shim, or of what the container was asked to run.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No container of this id on this node.
    #[error("no such container: {id}")]
    NotFound {
        /// The id asked for.
        id: String,
    },
    /// The id is taken.
    #[error("container {id} exists already; delete it first")]
    Exists {
        /// The id asked for.
        id: String,
    },
    /// The container is not in the state the command needs.
    #[error("container {id} is {actual}, but must be {needed}")]
    WrongState {
        /// The container.
        id: String,
        /// The state it is in.
        actual: &'static str,
        /// The state(s) the command needs.
        needed: &'static str,
    },
    /// The command is not in the root file system (Docker's exit code 127).
    #[error("{message}")]
    ExecutableNotFound {
        /// `exec: "name": executable file not found in $PATH`, or with a path what `stat` says.
        message: String,
    },
    /// The command is there but cannot be executed (Docker's exit code 126).
    #[error("{message}")]
    NotExecutable {
        /// `exec: "name": permission denied` and the like.
        message: String,
    },
    /// The specification cannot be honoured; nothing was changed.
    #[error("invalid container specification: {reason}")]
    InvalidSpec {
        /// Which field and why.
        reason: String,
    },
    /// libcontainer or the kernel refused to make the container.
    #[error("cannot create container {id}: {reason}")]
    Create {
        /// The container.
        id: String,
        /// The chain of causes.
        reason: String,
    },
    /// The shim refused a command.
    #[error("shim of {id}: {reason}")]
    Shim {
        /// The container.
        id: String,
        /// What the shim answered.
        reason: String,
    },
    /// The shim of a container does not answer.
    #[error(
        "shim of {id} does not answer: {source}; the container is treated as ended if it is gone"
    )]
    ShimGone {
        /// The container.
        id: String,
        /// The socket's error.
        source: std::io::Error,
    },
    /// A file or directory of the runtime.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which path.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

impl RuntimeError {
    /// The exit code a task that failed this way is reported with: 127 for a missing executable,
    /// 126 for one that cannot run, 128 for everything else that stops a container from starting.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::ExecutableNotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            _ => 128,
        }
    }

    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
