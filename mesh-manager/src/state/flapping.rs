//! Nodes that come and go: how often one has come back of late, and for how long it gets nothing new because of that.

use super::{Node, NodeState, State};
use mesh_api::moment;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

const SECOND: i64 = 1_000_000_000;
/// Returns count for so long: five minutes, in nanoseconds.
const WINDOW: i64 = 300 * SECOND;
/// So many within that time mean nothing: a node may be restarted, and once more.
const TOLERATED: usize = 2;
/// For how long the first return past these holds a node back, nanoseconds; each further one doubles it.
const FIRST: i64 = 10 * SECOND;
/// Longest time that a node is held back, nanoseconds: whatever its past, it is there now.
const MOST: i64 = 60 * SECOND;
/// Returns that are kept in mind: more of them make no difference.
const KEPT: usize = 8;

/// When a node came back after it had been down, oldest first, nanoseconds since the epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Returns(Vec<i64>);

impl Returns {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The node comes back `now`. Stamps that are later are of another clock.
    pub(crate) fn note(&mut self, now: i64) {
        self.0.retain(|at| *at <= now && now - at < WINDOW);
        self.0.push(now);
        let surplus = self.0.len().saturating_sub(KEPT);
        self.0.drain(..surplus);
    }

    /// Until when the node gets nothing new, if it came back too often.
    fn held_until(&self) -> Option<i64> {
        let last = self.0.last()?;
        let further = self.0.len().checked_sub(TOLERATED + 1)?;
        let hold = (0..further).fold(FIRST, |hold, _| MOST.min(2 * hold));
        Some(last.saturating_add(hold))
    }

    /// Whether the node gets nothing new `now`. What would last longer than any hold does is of another clock.
    fn hold(&self, now: i64) -> bool {
        self.held_until()
            .is_some_and(|until| (1..=MOST).contains(&until.saturating_sub(now)))
    }

    /// What `node inspect` says of it, if the node is held back `now`.
    pub(crate) fn message(&self, now: i64) -> Option<String> {
        let until = self.held_until().filter(|_| self.hold(now))?;
        let (times, minutes) = (self.0.len(), WINDOW / SECOND / 60);
        Some(format!(
            "came back {times} times within {minutes} minutes: gets no new tasks before {}",
            moment::from_nanos(until)
        ))
    }
}

impl Node {
    /// Until when it gets no new tasks as it came back too often, if that is later than `now`; nanoseconds since the epoch.
    pub fn held_until(&self, now: i64) -> Option<i64> {
        let is_held = self.state == NodeState::Ready && self.returns.hold(now);
        self.returns.held_until().filter(|_| is_held)
    }
}

impl State {
    /// The nodes that get no new tasks `now` as they come and go. None, where no other node takes any: then it is the managers
    /// that were cut off.
    pub(crate) fn held_nodes(&self, now: i64) -> BTreeSet<&str> {
        let takes = self.nodes().filter(|node| node.takes_tasks());
        let (held, others): (Vec<&Node>, Vec<&Node>) =
            takes.partition(|node| node.held_until(now).is_some());
        match others.is_empty() {
            true => BTreeSet::new(),
            false => held.iter().map(|node| node.id.as_str()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds for which each of these returns, in seconds, holds the node back.
    fn holds(returns: &[i64]) -> Vec<i64> {
        let mut noted = Returns::default();
        let hold = |at: &i64| {
            noted.note(at * SECOND);
            noted.held_until().map_or(0, |until| until / SECOND - at)
        };
        returns.iter().map(hold).collect()
    }

    #[test]
    fn each_return_past_the_second_holds_longer_up_to_a_minute() {
        let often: Vec<i64> = (0..12).map(|n| 10 * n).collect();
        let expected = [0, 0, 10, 20, 40, 60, 60, 60, 60, 60, 60, 60];
        assert_eq!(holds(&often), expected);
        assert_eq!(holds(&[0, 100, 299]), [0, 0, 10]);
        assert_eq!(
            holds(&[0, 100, 300]),
            [0, 0, 0],
            "the first was too long ago"
        );
        assert_eq!(holds(&[1000, 1001, 5]), [0, 0, 0], "of another clock");
    }

    #[test]
    fn a_hold_ends_and_is_never_longer_than_the_longest() {
        let mut returns = Returns::default();
        for at in [0, 1, 2] {
            returns.note(at * SECOND);
        }
        let is_held = |seconds: i64| returns.hold(seconds * SECOND);
        assert!(is_held(2) && is_held(11) && !is_held(12));
        // Another leader's clock is behind.
        assert!(is_held(-48) && !is_held(-49));
        let told = returns.message(2 * SECOND).unwrap();
        assert_eq!(
            told,
            "came back 3 times within 5 minutes: gets no new tasks before 1970-01-01T00:00:12Z"
        );
        assert_eq!(returns.message(12 * SECOND), None);
    }
}
