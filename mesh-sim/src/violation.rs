//! What may be found to be wrong, and what may be planted so that it is found.

use clap::ValueEnum;

/// Exit status of a run that has found the first violation; those of the others follow.
const FIRST_STATUS: i32 = 100;

/// Something that must never be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Violation {
    /// A panic, wherever it is caught
    Panicked,
    /// A message between managers that cannot be read
    Unreadable,
    /// Two entries are committed at one index of the log
    TwoCommitted,
    /// An entry of an outranked leader is committed after one of its successor's
    Disorder,
    /// Managers that have applied as much have different states
    Diverged,
    /// A manager is sent entries by rules that no program of its node has known
    UnknownRules,
    /// A manager's state goes back
    WentBack,
    /// A task's state, had or desired, falls, or one that has ended changes
    FellBack,
    /// A service has more tasks than it may have
    SurplusTask,
    /// A node that takes no tasks got one
    ClosedNode,
    /// An address has two owners, or is not for its owner
    SharedAddress,
    /// A port has two owners
    SharedPort,
    /// A generic resource has two owners, or one that is not of its node
    SharedResource,
    /// What was read for up to date is older than what somebody knew before
    StaleRead,
    /// A change that was acknowledged is not there
    LostWrite,
    /// A service whose removal was acknowledged is there
    Returned,
    /// A join token that was changed lets a node in
    OldToken,
    /// A manager that is lost counts as one that answers
    LostAnswers,
    /// A manager does not start with what its disk has
    NotStarted,
    /// A manager is not in, or not out, long after all was healed
    StuckChange,
    /// Managers do not agree, or have something left to do, long after all was healed
    NotSettled,
    /// A manager that was cut off unseats the leader when it is back
    Unseated,
}

impl Violation {
    /// Exit status of a run that has found it.
    pub(crate) fn status(self) -> i32 {
        let at = Self::value_variants()
            .iter()
            .position(|other| *other == self);
        FIRST_STATUS + at.and_then(|at| i32::try_from(at).ok()).unwrap_or_default()
    }

    /// What a run has found that ended with this exit status.
    pub(crate) fn of_status(status: i32) -> Option<Self> {
        let at = usize::try_from(status.checked_sub(FIRST_STATUS)?).ok()?;
        Self::value_variants().get(at).copied()
    }
}

/// Something wrong with the simulated world, that has to be found: so one sees that the checks see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Plant {
    /// Disks that forget what they were told to keep
    ForgetfulDisks,
    /// Readers that take what a manager has for up to date, and do not ask
    HastyReaders,
    /// Managers that take messages for those who had their address before
    StrayMessages,
    /// Nodes that go on with tasks that they were told to stop
    DeafNodes,
    /// Nodes that are promoted, and do not come in as managers
    AbsentManagers,
    /// Managers of older programs that seem to know all that others know
    OldPrograms,
    /// Entries of the log that are changed on their way to one manager
    AlteredEntries,
    /// Managers that would have an election at any time
    LoudCandidates,
    /// Join tokens that are changed and stay in force
    LastingTokens,
    /// Machines that lose the key of their log
    LostKeys,
    /// Those who ask for other roles, and are not heard
    MuteOperators,
    /// Clients that take what was not answered for made
    RashClients,
    /// Clients that take what was not answered for removed
    RashRemovals,
    /// States that show services with one another's addresses
    TwinAddresses,
    /// States that show services with one another's ports
    TwinPorts,
    /// States that show tasks with one another's generic resources
    TwinResources,
    /// States that show tasks which nobody has made
    GhostTasks,
    /// States that show running tasks as ones that are still to start
    YoungTasks,
    /// States that show all nodes as drained
    ClosedNodes,
    /// States that show an earlier index
    TurnedBack,
    /// Messages that show another leader's entry as the last committed one
    FalseCommits,
}

impl Plant {
    /// As what it is found.
    pub(crate) fn shows_as(self) -> Violation {
        match self {
            Self::ForgetfulDisks | Self::LostKeys => Violation::NotStarted,
            Self::HastyReaders => Violation::StaleRead,
            Self::StrayMessages => Violation::LostAnswers,
            Self::DeafNodes | Self::AbsentManagers => Violation::NotSettled,
            Self::OldPrograms => Violation::UnknownRules,
            Self::AlteredEntries => Violation::Diverged,
            Self::LoudCandidates => Violation::Unseated,
            Self::LastingTokens => Violation::OldToken,
            Self::MuteOperators => Violation::StuckChange,
            Self::RashClients => Violation::LostWrite,
            Self::RashRemovals => Violation::Returned,
            Self::TwinAddresses => Violation::SharedAddress,
            Self::TwinPorts => Violation::SharedPort,
            Self::TwinResources => Violation::SharedResource,
            Self::GhostTasks => Violation::SurplusTask,
            Self::YoungTasks => Violation::FellBack,
            Self::ClosedNodes => Violation::ClosedNode,
            Self::TurnedBack => Violation::WentBack,
            Self::FalseCommits => Violation::TwoCommitted,
        }
    }
}

/// As it is asked for, and told.
pub(crate) fn word(value: impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_tells_what_was_found() {
        for violation in Violation::value_variants() {
            assert_eq!(Violation::of_status(violation.status()), Some(*violation));
        }
        for other in [i32::MIN, 0, 1, FIRST_STATUS - 1, 200, i32::MAX] {
            assert_eq!(Violation::of_status(other), None, "{other}");
        }
    }
}
