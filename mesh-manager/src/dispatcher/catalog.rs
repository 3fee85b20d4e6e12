//! What many nodes are told alike is kept once, not for each of them: the peers, and the endpoints of each service. A
//! session holds on to the version that it sent last, and sends how the newest one differs. Pure.

use super::assignment::{endpoint_state, peer_fingerprint};
use crate::state::State;
use std::{
    cmp::Ordering,
    collections::HashMap,
    iter,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Objects of one kind as they were at one time: ids with fingerprints of what nodes are told, in the order of the ids.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Version(Vec<(String, u64)>);

/// How one object differs between two versions.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Difference<'a> {
    /// It is new, or another than it was.
    Told(&'a str),
    /// It is there no more.
    Gone(&'a str),
}

impl Version {
    fn new(objects: impl Iterator<Item = (String, u64)>) -> Self {
        let version = Self(objects.collect());
        debug_assert!(version.0.is_sorted_by(|one, next| one.0 < next.0));
        version
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(id, _)| id.as_str())
    }

    /// What makes this version out of an older one.
    pub(super) fn since<'a>(&'a self, old: &'a Self) -> impl Iterator<Item = Difference<'a>> {
        let (mut old, mut new) = (old.0.iter().peekable(), self.0.iter().peekable());
        let pairs = iter::from_fn(move || {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((was, _)), Some((is, _))) => was.cmp(is),
            };
            let was = old.next_if(|_| order.is_le());
            Some((was, new.next_if(|_| order.is_ge())))
        });
        pairs.filter_map(|pair| match pair {
            (Some(was), None) => Some(Difference::Gone(&was.0)),
            (was, Some(is)) if was != Some(is) => Some(Difference::Told(&is.0)),
            _ => None,
        })
    }
}

/// Services that are gone of which versions may be kept, besides as many as there are services.
const SPARE: usize = 64;

/// The newest versions.
#[derive(Debug, Default)]
pub(crate) struct Catalog(Mutex<Newest>);

#[derive(Debug, Default)]
struct Newest {
    peers: Option<Kept>,
    endpoints: HashMap<String, Kept>,
}

#[derive(Debug)]
struct Kept {
    /// Raft index of the state that it was found to be true of last.
    index: u64,
    version: Arc<Version>,
}

impl Kept {
    /// The newest version, made anew unless `kept` is still true.
    fn renew(
        kept: Option<Self>,
        state: &State,
        is_same: impl FnOnce(u64) -> bool,
        make: impl FnOnce() -> Version,
    ) -> Self {
        let index = state.index();
        let version = match kept {
            Some(kept) if is_same(kept.index) => kept.version,
            kept => {
                let made = make();
                // Most of what happens to nodes and tasks is nothing to others.
                let unchanged = kept.filter(|kept| *kept.version == made);
                unchanged.map_or_else(|| Arc::new(made), |kept| kept.version)
            }
        };
        Self { index, version }
    }
}

impl Catalog {
    fn lock(&self) -> MutexGuard<'_, Newest> {
        // A version that could not be made is not kept.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every node that has a data path.
    pub(super) fn peers(&self, state: &State) -> Arc<Version> {
        let mut newest = self.lock();
        let make = || {
            let tunnels = state
                .nodes()
                .filter(|node| !node.description.data_path_address.is_empty());
            Version::new(tunnels.map(|node| (node.id.clone(), peer_fingerprint(node))))
        };
        let is_same = |index| state.indexes().has_nodes_of(index);
        let kept = Kept::renew(newest.peers.take(), state, is_same, make);
        newest.peers.insert(kept).version.clone()
    }

    /// Every endpoint of a service.
    pub(super) fn endpoints(&self, state: &State, service_id: &str) -> Arc<Version> {
        let mut newest = self.lock();
        let make = || {
            let endpoints = state.endpoints_of_service(service_id);
            Version::new(endpoints.filter_map(|task| {
                let endpoint = endpoint_state(state, task)?;
                Some((task.id.clone(), endpoint as u64))
            }))
        };
        // A node that goes down takes its endpoints with it.
        let is_same = |index| {
            let indexes = state.indexes();
            indexes.has_nodes_of(index) && indexes.has_service_of(service_id, index)
        };
        if let Some(kept) = newest.endpoints.get_mut(service_id)
            && is_same(kept.index)
        {
            kept.index = state.index();
            return kept.version.clone();
        }
        let kept = newest.endpoints.remove(service_id);
        let kept = Kept::renew(kept, state, is_same, make);
        let version = kept.version.clone();
        // Services come and go; the tasks of those that are gone take their time to stop.
        if newest.endpoints.len() > 2 * state.services.len() + SPARE {
            newest
                .endpoints
                .retain(|id, _| state.services.contains_key(id));
        }
        newest.endpoints.insert(service_id.to_owned(), kept);
        version
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(objects: &[(&str, u64)]) -> Version {
        Version::new(objects.iter().map(|(id, print)| ((*id).to_owned(), *print)))
    }

    #[test]
    fn differences_are_those_of_either_side() {
        let old = version(&[("a", 1), ("b", 1), ("d", 1), ("f", 1)]);
        let new = version(&[("a", 1), ("c", 1), ("d", 2), ("g", 1)]);
        let differences: Vec<_> = new.since(&old).collect();
        use Difference::{Gone, Told};
        assert_eq!(
            differences,
            [Gone("b"), Told("c"), Told("d"), Gone("f"), Told("g")]
        );
        assert_eq!(new.since(&new).count(), 0);
        let none = Version::default();
        assert_eq!(new.since(&none).count(), 4);
        assert!(none.since(&new).all(|one| matches!(one, Gone(_))));
    }
}
