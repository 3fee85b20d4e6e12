//! Why the node refuses or fails; the API server maps each to a status.

/// Why the node refuses or fails.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// 503.
    #[error(
        "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one."
    )]
    AlreadyMember,
    /// 503.
    #[error("This node is not part of a swarm")]
    NotMember,
    /// 503.
    #[error(
        "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager."
    )]
    NotManager,
    /// 503: a manager that waits for `swarm unlock`.
    #[error(
        "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it."
    )]
    Locked,
    /// 409.
    #[error("swarm is not locked")]
    NotLocked,
    /// 401: an unlock key that does not fit.
    #[error("{0}")]
    WrongKey(String),
    /// 503: leaving as the last or a needed manager.
    #[error("{0}")]
    LeaveRefused(String),
    /// 400.
    #[error("{0}")]
    Invalid(String),
    /// 404.
    #[error("{0}")]
    NotFound(String),
    /// 409.
    #[error("{0}")]
    Conflict(String),
    /// 503 or 500: a manager could not be reached or refused.
    #[error("{0}")]
    Remote(String),
    /// 500.
    #[error("{0:#}")]
    Internal(anyhow::Error),
}

impl From<anyhow::Error> for NodeError {
    fn from(error: anyhow::Error) -> Self {
        Self::Internal(error)
    }
}
