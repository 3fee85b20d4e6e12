//! Consensus and storage behind one trait: the rest of the manager knows [`Consensus`], not
//! openraft.

mod consensus;
mod log_store;
mod members;
mod network;
mod open_raft;
mod recovery;
mod seal;
mod state_machine;
mod store;
mod types;

pub(crate) use consensus::{Consensus, Leadership, Peer, PeerMessage};
pub(crate) use network::{DISMISSED, MAX_MESSAGE};
pub(crate) use open_raft::{OpenRaft, Origin};
pub(crate) use recovery::rebuild;
pub(crate) use store::Store;

#[cfg(test)]
mod tests;
