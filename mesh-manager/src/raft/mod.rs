//! Consensus and storage behind one trait: the rest of the manager knows [`Consensus`], not
//! openraft.

mod batch;
mod consensus;
mod key_file;
mod log_store;
mod members;
mod network;
mod open_raft;
mod pre_vote;
mod recovery;
mod seal;
mod snapshot;
mod state_machine;
mod store;
mod types;

pub(crate) use consensus::{Consensus, Leadership, Peer, PeerMessage};
pub(crate) use network::{DISMISSED, MAX_MESSAGE};
pub(crate) use open_raft::{OpenRaft, Origin, keys_in};
pub(crate) use recovery::{read, rebuild};
pub(crate) use seal::{SealError, Sealer};
pub(crate) use store::Store;

#[cfg(test)]
mod tests;
