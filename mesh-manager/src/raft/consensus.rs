//! The trait that the manager proposes through.

use crate::{ManagerError, Outcome, Proposal};
use async_trait::async_trait;
use tokio::sync::watch;

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

    /// Every manager in the group.
    fn managers(&self) -> Vec<Peer>;

    /// A message of another manager, JSON in and out. Unknown ones are an error of the sender.
    async fn receive(&self, message: PeerMessage, payload: &[u8]) -> Result<Vec<u8>, ManagerError>;

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
    /// A piece of a snapshot.
    InstallSnapshot,
}
