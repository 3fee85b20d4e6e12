//! The managers as one of them sees them.

use std::collections::BTreeSet;

/// Who has a vote, who leads, who answers: node ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Managers {
    /// The leader, if there is one.
    pub leader: Option<String>,
    /// Managers with a vote.
    pub voters: BTreeSet<String>,
    /// Those that have answered the leader lately.
    pub reachable: BTreeSet<String>,
}
