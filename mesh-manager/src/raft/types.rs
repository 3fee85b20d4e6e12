//! Openraft's type parameters.

use super::batch::Batch;
use crate::Outcome;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{fmt, io::Cursor};

/// The outcomes of a batch, in order; empty for entries of Raft's own.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Outcomes(pub(crate) Vec<Outcome>);

/// A manager as its peers know it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RaftPeer {
    /// Node id.
    pub(crate) node_id: String,
    /// "address:port".
    pub(crate) addr: String,
}

impl fmt::Display for RaftPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.node_id, self.addr)
    }
}

openraft::declare_raft_types!(
    /// The types of our Raft.
    pub(crate) TypeConfig:
        D = Batch,
        R = Outcomes,
        NodeId = u64,
        Node = RaftPeer,
        SnapshotData = Cursor<Vec<u8>>,
);

pub(super) type RaftId = u64;
pub(super) type Entry = openraft::Entry<TypeConfig>;
pub(super) type StorageError = openraft::StorageError<RaftId>;
pub(super) type LogId = openraft::LogId<RaftId>;
pub(super) type Vote = openraft::Vote<RaftId>;
pub(super) type StoredMembership = openraft::StoredMembership<RaftId, RaftPeer>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<RaftId, RaftPeer>;
pub(super) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(super) type Raft = openraft::Raft<TypeConfig>;

/// A node's id in Raft: the first 8 bytes of its id's SHA-256.
pub(super) fn raft_id(node_id: &str) -> RaftId {
    let digest = Sha256::digest(node_id.as_bytes());
    let mut bytes = [0u8; 8];
    bytes.copy_from_slice(&digest[..8]);
    RaftId::from_be_bytes(bytes)
}
