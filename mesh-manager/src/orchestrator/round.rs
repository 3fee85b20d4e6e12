//! What one look at the state comes to, packed into entries of the log.

use super::Plan;
use crate::Change;
use std::collections::{BTreeSet, VecDeque};

/// Plans of several services and placements of their tasks. What has to happen together is in the first entry; what may be
/// apart follows in as many as it takes, and what is left of it can be planned again.
#[derive(Debug, Default)]
pub(super) struct Round {
    together: Vec<Change>,
    apart: VecDeque<Change>,
    /// Whose plans have changes that may be apart.
    services: BTreeSet<String>,
    /// Some of these are placements.
    has_placements: bool,
}

impl Round {
    /// Takes up the plan of a service.
    pub(super) fn add(&mut self, service_id: &str, plan: Plan) {
        self.together.extend(plan.changes);
        if !plan.apart.is_empty() {
            self.apart.extend(plan.apart);
            self.services.insert(service_id.to_owned());
        }
    }

    /// Takes up what the scheduler made of pending tasks.
    pub(super) fn add_placements(&mut self, changes: Vec<Change>) {
        self.has_placements |= !changes.is_empty();
        self.apart.extend(changes);
    }

    /// Changes that have not become entries yet.
    pub(super) fn len(&self) -> usize {
        self.together.len() + self.apart.len()
    }

    /// The next entry: as many changes as `limit`, or more where they have to happen together. `None` when all are out.
    pub(super) fn next_entry(&mut self, limit: usize) -> Option<Vec<Change>> {
        let mut entry = std::mem::take(&mut self.together);
        let room = limit.max(1).saturating_sub(entry.len());
        entry.extend(self.apart.drain(..room.min(self.apart.len())));
        (!entry.is_empty()).then_some(entry)
    }

    /// The services to plan again if the rest is given up, and whether tasks have to be placed again.
    pub(super) fn given_up(self) -> (BTreeSet<String>, bool) {
        (self.services, self.has_placements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(ids: std::ops::Range<u32>) -> Vec<Change> {
        let start = |id: u32| Change::Start {
            task_id: id.to_string(),
        };
        ids.map(start).collect()
    }

    fn lengths(mut round: Round, limit: usize) -> Vec<usize> {
        std::iter::from_fn(|| round.next_entry(limit).map(|e| e.len())).collect()
    }

    #[test]
    fn what_belongs_together_is_one_entry_however_long() {
        let mut round = Round::default();
        let plan = Plan {
            changes: changes(0..7),
            apart: changes(7..12),
            wake_at: None,
        };
        round.add("a", plan);
        round.add_placements(changes(12..15));
        assert_eq!(round.len(), 15);
        assert_eq!(lengths(round, 4), [7, 4, 4]);
    }

    #[test]
    fn an_entry_is_filled_with_what_may_be_apart_in_its_order() {
        let mut round = Round::default();
        let plan = Plan {
            changes: changes(0..1),
            apart: changes(1..6),
            wake_at: None,
        };
        round.add("a", plan);
        let entries: Vec<_> = std::iter::from_fn(|| round.next_entry(3)).collect();
        assert_eq!(entries, [changes(0..3), changes(3..6)]);
        assert_eq!(round.len(), 0);
    }

    #[test]
    fn only_what_may_be_apart_can_be_given_up() {
        let mut round = Round::default();
        let together = Plan {
            changes: changes(0..1),
            ..Plan::default()
        };
        let apart = Plan {
            apart: changes(1..3),
            ..Plan::default()
        };
        round.add("a", together);
        round.add("b", apart);
        assert!(round.next_entry(1).is_some());
        assert_eq!(round.given_up(), (BTreeSet::from(["b".to_owned()]), false));

        let mut round = Round::default();
        round.add_placements(changes(0..2));
        assert_eq!(round.given_up(), (BTreeSet::new(), true));
    }

    #[test]
    fn no_limit_means_one_at_a_time() {
        let mut round = Round::default();
        round.add_placements(changes(0..2));
        assert_eq!(lengths(round, 0), [1, 1]);
    }
}
