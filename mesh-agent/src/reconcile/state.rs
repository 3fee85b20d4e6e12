//! Where a task is in its life, as the node moves it, and where the managers want it.

/// What a task is, in order; it only ever rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaskState {
    /// The node knows of it.
    Accepted,
    /// Links, image and root file system are being made.
    Preparing,
    /// Everything is there, the command has not begun.
    Ready,
    /// The command is being started.
    Starting,
    /// The command runs.
    Running,
    /// The command ended well.
    Complete,
    /// The command was ended because the managers wanted it.
    Shutdown,
    /// The command ended badly or could not be started.
    Failed,
    /// The task could not be prepared.
    Rejected,
}

impl TaskState {
    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
        }
    }

    /// Docker's message for it.
    pub fn message(self) -> &'static str {
        match self {
            Self::Complete => "finished",
            Self::Running => "started",
            other => other.word(),
        }
    }

    /// From Docker's word; `None` for states that are not the node's to give.
    pub fn parse(word: &str) -> Option<Self> {
        [
            Self::Accepted,
            Self::Preparing,
            Self::Ready,
            Self::Starting,
            Self::Running,
            Self::Complete,
            Self::Shutdown,
            Self::Failed,
            Self::Rejected,
        ]
        .into_iter()
        .find(|state| state.word() == word)
    }

    /// Whether the task has ended.
    pub fn is_over(self) -> bool {
        self >= Self::Complete
    }
}

/// Where the managers want a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// Prepared, not started.
    Ready,
    /// Running (or, for jobs, run to its end).
    Running,
    /// Ended.
    Shutdown,
    /// Ended, and forgotten once it is.
    Remove,
}

impl Wanted {
    /// From Docker's word for a desired state; anything unknown is taken for ready, which harms least.
    pub fn parse(word: &str) -> Self {
        match word {
            "running" | "complete" => Self::Running,
            "shutdown" => Self::Shutdown,
            "remove" => Self::Remove,
            _ => Self::Ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_both_ways() {
        for word in [
            "accepted",
            "preparing",
            "ready",
            "starting",
            "running",
            "complete",
        ] {
            assert_eq!(TaskState::parse(word).map(TaskState::word), Some(word));
        }
        assert_eq!(TaskState::parse("pending"), None);
        assert!(TaskState::Failed.is_over() && !TaskState::Running.is_over());
    }
}
