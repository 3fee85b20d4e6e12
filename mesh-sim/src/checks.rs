//! What has to be true at every moment of all managers together, and is looked at whenever one of them says or applies
//! something.

use crate::{
    rules::{self, Seen},
    sim::Sim,
};
use bytes::Bytes;
use mesh_api::proto::RaftMessage;
use mesh_manager::state::State;
use prost::Message;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hasher},
};

/// What gRPC puts before each message, bytes: whether it is compressed, and its length.
pub(crate) const PREFIX: usize = 5;
/// States are compared at every so many entries of the log.
const COMPARED: u64 = 16;

/// A leader. Openraft orders leaders by term, and those of one term by node: one that is outranked commits nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Leader {
    term: u64,
    node_id: u64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct LogId {
    leader_id: Leader,
    index: u64,
}

#[derive(Debug, Deserialize)]
struct Vote {
    leader_id: Leader,
}

/// What there is to know of a message of a leader.
#[derive(Debug, Deserialize)]
struct Append {
    vote: Vote,
    leader_commit: Option<LogId>,
}

/// What was seen so far, of all managers.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// By index: the leader whose entry is committed there.
    committed: BTreeMap<u64, Leader>,
    leaders: BTreeSet<Leader>,
    /// By index: the digest of the state, and who had it first.
    states: HashMap<u64, (u64, usize)>,
}

/// What identifies a state.
pub(crate) fn digest(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Maps in it are ordered, but for labels, of which there is one at most.
    let text = serde_json::to_vec(state).unwrap_or_default();
    hasher.write(&text);
    hasher.finish()
}

impl Checks {
    /// How many leaders there were.
    pub(crate) fn leaders(&self) -> usize {
        self.leaders.len()
    }

    /// A message between managers: nobody may commit something else where another entry is committed.
    pub(crate) fn message(&mut self, sim: &Sim, path: &str, body: &Bytes) {
        if !path.ends_with("/AppendEntries") {
            return;
        }
        let message = body.get(PREFIX..).map(RaftMessage::decode);
        let Some(Ok(message)) = message else {
            sim.violated(format_args!("a message of Raft is none"));
        };
        let Ok(append) = serde_json::from_slice::<Append>(&message.payload) else {
            sim.violated(format_args!("a message of Raft cannot be read"));
        };
        if self.leaders.insert(append.vote.leader_id) {
            sim.note(format_args!("leader {:?}", append.vote.leader_id));
        }
        let Some(LogId { leader_id, index }) = append.leader_commit else {
            return;
        };
        let known = *self.committed.entry(index).or_insert(leader_id);
        if known != leader_id {
            sim.violated(format_args!(
                "two entries are committed at {index}: {known:?} and {leader_id:?}"
            ));
        }
        let before = self.committed.range(..index).next_back();
        let after = self.committed.range(index + 1..).next();
        let is_ordered = before.is_none_or(|(_, leader)| *leader <= leader_id)
            && after.is_none_or(|(_, leader)| *leader >= leader_id);
        if !is_ordered {
            sim.violated(format_args!(
                "an entry of {leader_id:?} is committed at {index}, between {before:?} and {after:?}"
            ));
        }
    }

    /// A manager has applied something.
    pub(crate) fn state(&mut self, sim: &Sim, host: usize, state: &State, seen: &mut Seen) {
        if state.index().is_multiple_of(COMPARED) {
            self.compare(sim, host, state);
        }
        rules::check(sim, host, state, seen);
    }

    /// Managers that have applied as much have the same state.
    pub(crate) fn compare(&mut self, sim: &Sim, host: usize, state: &State) {
        let (index, own) = (state.index(), digest(state));
        let (known, other) = *self.states.entry(index).or_insert((own, host));
        if known != own {
            sim.violated(format_args!(
                "managers {other} and {host} differ after entry {index}"
            ));
        }
    }
}
