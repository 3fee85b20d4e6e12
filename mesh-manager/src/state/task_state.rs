//! The life of a task. States only ever rise.

use mesh_api::engine;
use serde::{Deserialize, Serialize};
use std::fmt;

/// State of a task, with Swarm's numbers.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[repr(u16)]
pub enum TaskState {
    /// Made by an orchestrator.
    #[default]
    New = 0,
    /// Has its addresses, waits for a node.
    Pending = 64,
    /// Has a node.
    Assigned = 192,
    /// The node knows of it.
    Accepted = 256,
    /// The node fetches the image and makes links.
    Preparing = 320,
    /// Could start.
    Ready = 384,
    /// Is starting.
    Starting = 448,
    /// Runs.
    Running = 512,
    /// Ended with exit code 0.
    Complete = 576,
    /// Ended because it was told to.
    Shutdown = 640,
    /// Ended with another exit code or could not go on.
    Failed = 704,
    /// Could not even start.
    Rejected = 768,
    /// To be removed; a desired state only.
    Remove = 800,
    /// Its node has been gone for too long.
    Orphaned = 832,
}

impl TaskState {
    /// Every state in order.
    pub const ALL: [TaskState; 14] = [
        Self::New,
        Self::Pending,
        Self::Assigned,
        Self::Accepted,
        Self::Preparing,
        Self::Ready,
        Self::Starting,
        Self::Running,
        Self::Complete,
        Self::Shutdown,
        Self::Failed,
        Self::Rejected,
        Self::Remove,
        Self::Orphaned,
    ];

    /// Docker's lower-case word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Accepted => "accepted",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Remove => "remove",
            Self::Orphaned => "orphaned",
        }
    }

    /// The state of a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == word)
    }

    /// Whether the task has ended.
    pub fn is_terminal(self) -> bool {
        self > Self::Running
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<TaskState> for engine::TaskState {
    fn from(state: TaskState) -> Self {
        match state {
            TaskState::New => Self::NEW,
            TaskState::Pending => Self::PENDING,
            TaskState::Assigned => Self::ASSIGNED,
            TaskState::Accepted => Self::ACCEPTED,
            TaskState::Preparing => Self::PREPARING,
            TaskState::Ready => Self::READY,
            TaskState::Starting => Self::STARTING,
            TaskState::Running => Self::RUNNING,
            TaskState::Complete => Self::COMPLETE,
            TaskState::Shutdown => Self::SHUTDOWN,
            TaskState::Failed => Self::FAILED,
            TaskState::Rejected => Self::REJECTED,
            TaskState::Remove => Self::REMOVE,
            TaskState::Orphaned => Self::ORPHANED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_order() {
        for pair in TaskState::ALL.windows(2) {
            assert!(pair[0] < pair[1]);
            assert!((pair[0] as u16) < (pair[1] as u16));
        }
        for state in TaskState::ALL {
            assert_eq!(TaskState::parse(state.as_str()), Some(state));
            assert_eq!(state.is_terminal(), state as u16 > 512);
        }
        assert_eq!(TaskState::parse("allocated"), None);
    }
}
