//! What many nodes are told alike is kept once, not for each of them: the peers, and the endpoints of each service. A
//! session holds on to the version that it sent last, and sends how the newest one differs. Pure.

use super::assignment::{endpoint_state, peer_fingerprint};
use crate::state::State;
use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap, VecDeque},
    iter,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Objects of one kind as they were at one time: ids with fingerprints of what nodes are told, in the order of the ids.
#[derive(Debug, Default)]
pub(super) struct Version {
    objects: Vec<(String, u64)>,
    /// Tells the versions of a catalog apart; zero is the one without objects that sessions begin with.
    number: u64,
}

/// How one object differs between two versions.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// It is new, or another than it was.
    Told(String),
    /// It is there no more.
    Gone(String),
}

impl Version {
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.objects.iter().map(|(id, _)| id.as_str())
    }

    fn fingerprint(&self, id: &str) -> Option<u64> {
        let found = self
            .objects
            .binary_search_by(|(one, _)| one.as_str().cmp(id));
        found.ok().map(|at| self.objects[at].1)
    }

    /// What makes an object of this version out of that of an older one; `None` if it is as it was.
    fn difference(&self, old: &Self, id: &str) -> Option<Difference> {
        match (old.fingerprint(id), self.fingerprint(id)) {
            (was, is) if was == is => None,
            (_, Some(_)) => Some(Difference::Told(id.to_owned())),
            (_, None) => Some(Difference::Gone(id.to_owned())),
        }
    }
}

/// Ids of the objects in which two lists differ, in order, and whether the new one has them.
fn changed<'a>(
    old: &'a [(String, u64)],
    new: &'a [(String, u64)],
) -> impl Iterator<Item = (&'a str, bool)> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
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
        (Some((was, _)), None) => Some((was.as_str(), false)),
        (was, Some(is)) if was != Some(is) => Some((is.0.as_str(), true)),
        _ => None,
    })
}

/// Services that are gone of which versions may be kept, besides as many as there are services.
const SPARE: usize = 64;

/// Changes of one list that are remembered; as many as it has objects, where it has more.
const REMEMBERED: usize = 64;

/// The newest versions.
#[derive(Debug, Default)]
pub(crate) struct Catalog(Mutex<Newest>);

#[derive(Debug, Default)]
struct Newest {
    /// Number of the version that was made last.
    made: u64,
    peers: Kept,
    endpoints: HashMap<String, Kept>,
}

/// The newest version of one list.
#[derive(Debug, Default)]
struct Kept {
    /// Raft index of the state that it was found to be true of last.
    index: Option<u64>,
    version: Arc<Version>,
    steps: Steps,
}

impl Kept {
    /// Takes over what is now. Most of what happens to nodes and tasks is nothing to others.
    fn renew(&mut self, index: u64, made: &mut u64, objects: Vec<(String, u64)>) {
        debug_assert!(objects.is_sorted_by(|one, next| one.0 < next.0));
        let differences = changed(&self.version.objects, &objects);
        let ids: Box<[_]> = differences.map(|(id, _)| id.to_owned()).collect();
        if !ids.is_empty() {
            *made += 1;
            let number = *made;
            let limit = REMEMBERED.max(objects.len());
            self.steps.add(Arc::new(Step { number, ids }), limit);
            self.version = Arc::new(Version { objects, number });
        }
        self.index = Some(index);
    }

    fn news(&self, known: &Version) -> News {
        News {
            version: self.version.clone(),
            steps: self.steps.since(known.number),
        }
    }
}

/// The newest version of a list, and what changed since a session's; `None` if that is not known.
struct News {
    version: Arc<Version>,
    steps: Option<Vec<Arc<Step>>>,
}

impl News {
    /// Brings what the session knows up to date; gives how it differed.
    fn take(self, known: &mut Arc<Version>) -> Vec<Difference> {
        let (new, old) = (
            &self.version,
            std::mem::replace(known, self.version.clone()),
        );
        match &self.steps {
            Some(steps) => {
                let ids = steps.iter().flat_map(|step| &step.ids);
                let ids: BTreeSet<&str> = ids.map(String::as_str).collect();
                ids.into_iter()
                    .filter_map(|id| new.difference(&old, id))
                    .collect()
            }
            None => changed(&old.objects, &new.objects)
                .map(|(id, is_there)| match is_there {
                    true => Difference::Told(id.to_owned()),
                    false => Difference::Gone(id.to_owned()),
                })
                .collect(),
        }
    }
}

/// How the newest version came about. Sessions are a few steps behind: what has changed since is known without a look
/// at what has not.
#[derive(Debug, Default)]
struct Steps {
    /// Number of the version before the first of them.
    from: u64,
    latest: VecDeque<Arc<Step>>,
    /// Ids in all of them.
    ids: usize,
}

/// What a version changed.
#[derive(Debug)]
struct Step {
    /// The version's.
    number: u64,
    ids: Box<[String]>,
}

impl Steps {
    fn add(&mut self, step: Arc<Step>, limit: usize) {
        self.ids += step.ids.len();
        self.latest.push_back(step);
        while self.ids > limit
            && let Some(forgotten) = self.latest.pop_front()
        {
            self.from = forgotten.number;
            self.ids -= forgotten.ids.len();
        }
    }

    /// Those after a version; `None` if it is not one of those that are remembered, or has nothing to compare.
    fn since(&self, number: u64) -> Option<Vec<Arc<Step>>> {
        let at = self.latest.partition_point(|step| step.number <= number);
        let before = match at {
            0 => self.from,
            _ => self.latest[at - 1].number,
        };
        (number > 0 && before == number).then(|| self.latest.range(at..).cloned().collect())
    }
}

impl Catalog {
    fn lock(&self) -> MutexGuard<'_, Newest> {
        // What could not be made anew is made anew the next time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every node that has a data path: how that differs from what a session knows, which is brought up to date.
    pub(super) fn peers(&self, state: &State, known: &mut Arc<Version>) -> Vec<Difference> {
        let news = {
            let Newest { made, peers, .. } = &mut *self.lock();
            let is_same = |index| state.indexes().has_nodes_of(index);
            if !peers.index.is_some_and(is_same) {
                let tunnels = state
                    .nodes()
                    .filter(|node| !node.description.data_path_address.is_empty());
                let objects = tunnels.map(|node| (node.id.clone(), peer_fingerprint(node)));
                peers.renew(state.index(), made, objects.collect());
            }
            peers.news(known)
        };
        news.take(known)
    }

    /// Every endpoint of a service, as [`Self::peers`].
    pub(super) fn endpoints(
        &self,
        state: &State,
        service_id: &str,
        known: &mut Arc<Version>,
    ) -> Vec<Difference> {
        let news = {
            let Newest {
                made, endpoints, ..
            } = &mut *self.lock();
            // Services come and go; the tasks of those that are gone take their time to stop.
            if endpoints.len() > 2 * state.services.len() + SPARE {
                endpoints.retain(|id, _| state.services.contains_key(id));
            }
            let kept = endpoints.entry(service_id.to_owned()).or_default();
            let indexes = state.indexes();
            // A node that goes down takes its endpoints with it.
            let is_same =
                |index| indexes.has_nodes_of(index) && indexes.has_service_of(service_id, index);
            if !kept.index.is_some_and(is_same) {
                let tasks = state.endpoints_of_service(service_id);
                let objects = tasks.filter_map(|task| {
                    let endpoint = endpoint_state(state, task)?;
                    Some((task.id.clone(), endpoint as u64))
                });
                kept.renew(state.index(), made, objects.collect());
            }
            kept.news(known)
        };
        news.take(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Difference::{Gone, Told};
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use std::collections::BTreeMap;

    fn objects(objects: &[(&str, u64)]) -> Vec<(String, u64)> {
        let pairs = objects.iter();
        pairs
            .map(|(id, print)| ((*id).to_owned(), *print))
            .collect()
    }

    fn told(id: &str) -> Difference {
        Told(id.to_owned())
    }

    fn gone(id: &str) -> Difference {
        Gone(id.to_owned())
    }

    /// What a session is told that looks at the list now.
    fn look(kept: &Kept, known: &mut Arc<Version>) -> Vec<Difference> {
        kept.news(known).take(known)
    }

    #[test]
    fn differences_are_those_of_either_side() {
        let mut kept = Kept::default();
        let mut known = Arc::default();
        let old = [("a", 1), ("b", 1), ("d", 1), ("f", 1)];
        kept.renew(1, &mut 0, objects(&old));
        assert_eq!(look(&kept, &mut known), ["a", "b", "d", "f"].map(told));
        let new = [("a", 1), ("c", 1), ("d", 2), ("g", 1)];
        kept.renew(2, &mut 1, objects(&new));
        assert_eq!(
            look(&kept, &mut known),
            [gone("b"), told("c"), told("d"), gone("f"), told("g")]
        );
        kept.renew(3, &mut 2, objects(&new));
        assert_eq!(look(&kept, &mut known), []);
        kept.renew(4, &mut 2, Vec::new());
        assert_eq!(look(&kept, &mut known), ["a", "c", "d", "g"].map(gone));
    }

    /// Whatever changes, and however seldom a session looks, also when the list was forgotten in between; and nothing is
    /// told that is as it was.
    #[test]
    fn what_sessions_are_told_makes_the_newest_list_of_the_one_they_know() {
        let mut random = StdRng::seed_from_u64(7);
        let (mut kept, mut made) = (Kept::default(), 0);
        let paces = [1, 2, 7, 60, 1500];
        let mut sessions = paces.map(|pace| (pace, Arc::default(), BTreeMap::new()));
        let mut list: BTreeMap<String, u64> = BTreeMap::new();
        for round in 1..=6000 {
            let id = random.random_range(0..40).to_string();
            match random.random_range(0..3) {
                0 => drop(list.remove(&id)),
                print => drop(list.insert(id, print)),
            }
            if round % 2500 == 0 {
                kept = Kept::default();
            }
            kept.renew(round, &mut made, list.clone().into_iter().collect());
            for (pace, known, told) in &mut sessions {
                if round % *pace > 0 {
                    continue;
                }
                for difference in look(&kept, known) {
                    match difference {
                        Told(id) => {
                            let print = list[&id];
                            let was = told.insert(id.clone(), print);
                            assert_ne!(was, Some(print), "{id} is as it was");
                        }
                        Gone(id) => assert!(told.remove(&id).is_some(), "{id} was not there"),
                    }
                }
                assert_eq!(*told, list, "round {round}, pace {pace}");
            }
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_spares_a_look_at_all() {
        let (mut kept, mut made, mut known) = (Kept::default(), 0, Arc::default());
        let mut list: BTreeMap<_, _> = (0..50).map(|id| (format!("{id:02}"), 0)).collect();
        kept.renew(1, &mut made, list.clone().into_iter().collect());
        assert_eq!(look(&kept, &mut known).len(), 50);
        for index in 2..500 {
            let id = format!("{:02}", index % 50);
            list.insert(id.clone(), index);
            kept.renew(index, &mut made, list.clone().into_iter().collect());
            let steps = kept.steps.since(known.number).expect("remembered");
            assert_eq!(steps.len(), 1, "one step behind");
            assert_eq!(look(&kept, &mut known), [told(&id)]);
            assert!(kept.steps.ids <= REMEMBERED);
        }
        assert!(kept.steps.since(1).is_none(), "long forgotten");
    }
}
