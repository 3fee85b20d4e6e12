//! What a manager answers when it cannot do what it was asked.

use serde::{Deserialize, Serialize};

/// The class of a refusal; it decides the HTTP status of the Engine API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request makes no sense. 400.
    InvalidArgument,
    /// The state forbids it for now. 400, as Docker maps it.
    FailedPrecondition,
    /// The unlock key that was given is another one. 401.
    Unauthenticated,
    /// The caller may not do this. 403.
    PermissionDenied,
    /// No such object. 404.
    NotFound,
    /// The name or another unique thing is taken. 409.
    AlreadyExists,
    /// An update that saw an old version, or a failure of the store. 500.
    Unknown,
    /// Asked for something this version does not do. 501.
    Unimplemented,
    /// No leader or no quorum. 503.
    Unavailable,
}

impl ErrorKind {
    /// The HTTP status that the Engine API answers with.
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidArgument | Self::FailedPrecondition => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::AlreadyExists => 409,
            Self::Unknown => 500,
            Self::Unimplemented => 501,
            Self::Unavailable => 503,
        }
    }
}

/// A refusal with Docker's text. It travels through the Raft log, so that it is data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct ManagerError {
    /// The class.
    pub kind: ErrorKind,
    /// The text for the user, as Docker words it.
    pub message: String,
}

impl ManagerError {
    /// A refusal of this kind with this exact text.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// `rpc error: code = InvalidArgument desc = ..`.
    pub fn invalid(message: impl std::fmt::Display) -> Self {
        Self::new(
            ErrorKind::InvalidArgument,
            format!("rpc error: code = InvalidArgument desc = {message}"),
        )
    }

    /// `rpc error: code = FailedPrecondition desc = ..`.
    pub fn precondition(message: impl std::fmt::Display) -> Self {
        Self::new(
            ErrorKind::FailedPrecondition,
            format!("rpc error: code = FailedPrecondition desc = {message}"),
        )
    }

    /// `<noun> <name> not found`.
    pub fn not_found(noun: &str, name: &str) -> Self {
        Self::new(ErrorKind::NotFound, format!("{noun} {name} not found"))
    }

    /// An id prefix that fits more than one object.
    pub fn ambiguous(noun: &str, prefix: &str) -> Self {
        Self::new(
            ErrorKind::InvalidArgument,
            format!(
                "{noun} {prefix} is ambiguous: more than one has this name or an id that begins with it"
            ),
        )
    }

    /// A name that another object holds.
    pub fn name_conflict(noun: &str, name: &str) -> Self {
        Self::new(
            ErrorKind::AlreadyExists,
            format!(
                "rpc error: code = AlreadyExists desc = name conflicts with an existing object: \
                 {noun} {name} already exists"
            ),
        )
    }

    /// An update that saw an old version.
    pub fn out_of_sequence() -> Self {
        Self::new(
            ErrorKind::Unknown,
            "rpc error: code = Unknown desc = update out of sequence",
        )
    }

    /// No leader can be reached.
    pub fn no_leader() -> Self {
        Self::new(
            ErrorKind::Unavailable,
            "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that \
             too few managers are online. Make sure more than half of the managers are online.",
        )
    }

    /// A manager that the others cannot do without.
    pub fn loses_quorum() -> Self {
        Self::precondition(
            "can't remove member from the raft: this would result in a loss of quorum",
        )
    }

    /// A change that is too large to be passed on between managers.
    pub fn too_large() -> Self {
        Self::invalid("raft: raft message is too large and can't be sent")
    }

    /// The log cannot be written, say because the disk is full.
    pub fn cannot_write(reason: impl std::fmt::Display) -> Self {
        Self::new(
            ErrorKind::Unavailable,
            format!(
                "this manager cannot write the swarm's state: {reason}. Nothing can be changed until it can; what runs \
                 goes on"
            ),
        )
    }

    /// The group of managers has gone on without this one.
    pub fn dismissed() -> Self {
        Self::new(
            ErrorKind::Unavailable,
            "This node is not a swarm manager. The other managers have gone on without it: it becomes a worker once it \
             reaches one of them",
        )
    }

    /// The log, or the state, is of rules that this manager's program does not know.
    pub fn outdated(known: u32, met: u32) -> Self {
        Self::new(
            ErrorKind::FailedPrecondition,
            format!(
                "this manager's program is too old: it knows rules up to {known}, and the swarm goes by rules {met}. Start the \
                 version of mesh-agent that was here before, or the one of the other managers"
            ),
        )
    }

    /// A manager that is to come in, whose program is older than the rules in force.
    pub fn too_old_to_join(told: u32, in_force: u32) -> Self {
        Self::precondition(format!(
            "the program of this manager is too old: it knows rules up to {told}, and the swarm goes by rules {in_force}. \
             Upgrade mesh-agent on this node to the version of the other managers, and try again"
        ))
    }

    /// A failure of the manager itself; `context` says what it was doing.
    pub fn internal(context: &str, error: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::Unknown, format!("{context}: {error}"))
    }
}
