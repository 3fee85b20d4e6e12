//! What has to be true at every moment of all managers together, and is looked at whenever one of them says or applies
//! something.

use crate::{
    lies,
    rules::{self, Seen},
    sim::Sim,
    violation::Violation,
};
use bytes::Bytes;
use mesh_api::proto::RaftMessage;
use mesh_manager::{UNTOLD, state::State};
use prost::Message;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
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
    entries: Vec<Entry>,
}

/// An entry of the log: all that matters of it are the rules of its proposals.
#[derive(Debug, Deserialize)]
struct Entry {
    payload: Payload,
}

#[derive(Debug, Deserialize)]
enum Payload {
    Blank,
    Normal(Rules),
    Membership(IgnoredAny),
}

/// The rules that an entry's proposals say to be of; one that is a mere list of them is for everybody.
#[derive(Debug)]
struct Rules(u32);

impl<'de> Deserialize<'de> for Rules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Rules;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an entry of the log")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Rules, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Rules(UNTOLD))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Rules, A::Error> {
                let mut said = None;
                while let Some(key) = object.next_key::<String>()? {
                    match key.as_str() {
                        "rules" => said = Some(object.next_value()?),
                        _ => drop(object.next_value::<IgnoredAny>()?),
                    }
                }
                let said = said.ok_or_else(|| A::Error::missing_field("rules"));
                said.map(Rules)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl Entry {
    fn rules(&self) -> u32 {
        match &self.payload {
            Payload::Normal(Rules(rules)) => *rules,
            Payload::Blank | Payload::Membership(_) => UNTOLD,
        }
    }
}

/// What was seen so far, of all managers.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// By index: the leader whose entry is committed there.
    committed: BTreeMap<u64, Leader>,
    leaders: BTreeSet<Leader>,
    /// By index: the digest of the state, and who had it first.
    states: HashMap<u64, (u64, usize)>,
    /// By node: the latest rules that a program of it has known.
    known: HashMap<String, u32>,
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

    /// A manager runs a program that knows these rules.
    pub(crate) fn knows(&mut self, node_id: &str, rules: u32) {
        let known = self.known.entry(node_id.to_owned()).or_default();
        *known = rules.max(*known);
    }

    /// The latest rules that a program of this node has known.
    pub(crate) fn has_known(&self, node_id: &str) -> u32 {
        self.known.get(node_id).copied().unwrap_or_default()
    }

    /// A message between managers: nobody is sent entries by rules that it has never known, or may commit something else where another entry is committed.
    pub(crate) fn message(&mut self, sim: &Sim, path: &str, body: &Bytes) {
        if !path.ends_with("/AppendEntries") {
            return;
        }
        let message = body.get(PREFIX..).map(RaftMessage::decode);
        let Some(Ok(message)) = message else {
            sim.violated(
                Violation::Unreadable,
                format_args!("a message of Raft is none"),
            );
        };
        let Ok(append) = serde_json::from_slice::<Append>(&message.payload) else {
            sim.violated(
                Violation::Unreadable,
                format_args!("a message of Raft cannot be read"),
            );
        };
        if self.leaders.insert(append.vote.leader_id) {
            sim.note(format_args!("leader {:?}", append.vote.leader_id));
        }
        let rules = append.entries.iter().map(Entry::rules).max();
        if let Some(rules) = rules.filter(|rules| *rules > UNTOLD)
            && let Some(known) = self.known.get(&message.to)
            && rules > *known
        {
            sim.violated(Violation::UnknownRules, format_args!(
                "node {} is sent entries by rules {rules}; it has never known more than {known}",
                message.to
            ));
        }
        let Some(LogId { leader_id, index }) = append.leader_commit else {
            return;
        };
        let known = *self.committed.entry(index).or_insert(leader_id);
        if known != leader_id {
            sim.violated(
                Violation::TwoCommitted,
                format_args!("two entries are committed at {index}: {known:?} and {leader_id:?}"),
            );
        }
        let before = self.committed.range(..index).next_back();
        let after = self.committed.range(index + 1..).next();
        let is_ordered = before.is_none_or(|(_, leader)| *leader <= leader_id)
            && after.is_none_or(|(_, leader)| *leader >= leader_id);
        if !is_ordered {
            sim.violated(Violation::Disorder, format_args!(
                "an entry of {leader_id:?} is committed at {index}, between {before:?} and {after:?}"
            ));
        }
    }

    /// A manager has applied something.
    pub(crate) fn state(&mut self, sim: &Sim, host: usize, state: &State, seen: &mut Seen) {
        if state.index().is_multiple_of(COMPARED) {
            self.compare(sim, host, state);
        }
        let lie = lies::told(sim, state, seen);
        rules::check(sim, host, lie.as_ref().unwrap_or(state), seen);
    }

    /// Managers that have applied as much have the same state.
    pub(crate) fn compare(&mut self, sim: &Sim, host: usize, state: &State) {
        let (index, own) = (state.index(), digest(state));
        let (known, other) = *self.states.entry(index).or_insert((own, host));
        if known != own {
            sim.violated(
                Violation::Diverged,
                format_args!("managers {other} and {host} differ after entry {index}"),
            );
        }
    }
}
