//! The trait that the manager proposes through.

use crate::{ManagerError, Outcome, Proposal};
use async_trait::async_trait;
use std::collections::BTreeSet;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A manager as others reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Node id.
    pub(crate) node_id: String,
    /// "address:port".
    pub(crate) addr: String,
}

/// Who leads, as this manager sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Leadership {
    /// The leader; `None` while there is none.
    pub(crate) leader: Option<Peer>,
    /// It is this manager.
    pub(crate) is_self: bool,
    /// Why this manager takes no part for now.
    pub(crate) failure: Option<ManagerError>,
}

/// Agreement on the order of proposals.
#[async_trait]
pub(crate) trait Consensus: Send + Sync + 'static {
    /// Commits and applies proposals together; outcomes in order. Fails where this manager is not
    /// the leader.
    async fn propose(&self, proposals: Vec<Proposal>) -> Result<Vec<Outcome>, ManagerError>;

    /// Who leads, and changes of it.
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// Waits until this manager, being the leader, has applied everything committed before.
    async fn catch_up(&self) -> Result<(), ManagerError>;

    /// Every manager that has a vote.
    fn managers(&self) -> Vec<Peer>;

    /// Node ids of the managers that have answered this one lately, itself included. Only the leader asks all of them.
    fn reachable(&self) -> BTreeSet<String>;

    /// Lets a manager take part, or moves it to another address: it gets the log, and a vote once it has caught up. Works
    /// on the leader, and changes nothing where it is so already.
    async fn admit(&self, manager: &Peer, rules: u32) -> Result<(), ManagerError>;

    /// Takes a manager out of the group, this one too. Works on the leader, changes nothing where it is so already, and
    /// refuses what would leave too few managers that answer.
    async fn expel(&self, node_id: &str) -> Result<(), ManagerError>;

    /// Whether the group would still have a majority that answers without this manager. Known to the leader alone.
    fn can_remove(&self, node_id: &str) -> bool;

    /// Whether this manager is in the group, with a vote or not, as far as is known here.
    fn is_member(&self, node_id: &str) -> bool;

    /// Ends a change of the group that a former leader, or a caller that went away, left half done. Works on the leader.
    async fn finish_change(&self) -> Result<(), ManagerError>;

    /// A message of another manager, JSON in and out, with the piece of a snapshot that it is about. Unknown ones are an
    /// error of the sender.
    async fn receive(
        &self,
        message: PeerMessage,
        payload: &[u8],
        data: Vec<u8>,
    ) -> Result<Vec<u8>, ManagerError>;

    /// Writes a snapshot of all that is in the log now, and has the entries up to it removed.
    async fn compact(&self) -> Result<(), ManagerError>;

    /// Held while the group is being changed, or the rules that are in force in it.
    fn changing(&self) -> &tokio::sync::Mutex<()>;

    /// The rules that every manager of the group is sure to know. Known to the leader alone.
    fn common_rules(&self) -> u32;

    /// Cancelled once another group has taken the place of this manager's, which then takes no part any more. Whoever gets
    /// to know it cancels it.
    fn dismissal(&self) -> CancellationToken;

    /// Stops taking part.
    async fn shutdown(&self);
}

/// Kind of a message between managers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerMessage {
    /// Log entries.
    AppendEntries,
    /// A candidate asks for a vote.
    Vote,
    /// Whether there should be an election, is asked by one that might stand.
    PreVote,
    /// A piece of a snapshot.
    InstallSnapshot,
}
