//! Nodes that come and go: how often one has come back of late, and for how long it gets nothing new because of that.

use super::{Node, NodeState, State};
use mesh_api::moment;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
        self.held_until().is_some_and(|until| !is_due(until, now))
    }
}

/// Whether the end of a hold is over `now`; one that is too far off is of another clock, or this one was set back.
pub(crate) fn is_due(end: i64, now: i64) -> bool {
    !(1..=MOST).contains(&end.saturating_sub(now))
}

/// Until when nodes get no new tasks, by their ids; nanoseconds since the epoch.
#[derive(Debug, Default)]
pub struct Holds(BTreeMap<String, i64>);

impl Holds {
    /// Until when this node gets no new tasks, if it is held back.
    pub(crate) fn until(&self, node_id: &str) -> Option<i64> {
        self.0.get(node_id).copied()
    }

    /// What `node inspect` says of this one.
    pub(crate) fn message(&self, node_id: &str) -> Option<String> {
        let until = moment::from_nanos(self.until(node_id)?);
        let minutes = WINDOW / SECOND / 60;
        Some(format!(
            "came back more than {TOLERATED} times within {minutes} minutes: gets no new tasks before {until}"
        ))
    }
}

impl Node {
    /// Until when it is to get no new tasks as it came back too often; nanoseconds since the epoch.
    fn held_until(&self) -> Option<i64> {
        let is_ready = self.state == NodeState::Ready;
        self.returns.held_until().filter(|_| is_ready)
    }
}

impl State {
    /// The nodes that get no new tasks `now` as they come and go. None, if they are most of those that take any: then it is
    /// the managers that were cut off.
    pub fn holds(&self, now: i64) -> Holds {
        let takes = self.nodes().filter(|node| node.takes_tasks());
        let (held, others): (Vec<&Node>, Vec<&Node>) =
            takes.partition(|node| node.returns.hold(now));
        if held.len() > others.len() {
            return Holds::default();
        }
        let until = |node: &Node| Some((node.id.clone(), node.held_until()?));
        Holds(held.into_iter().filter_map(until).collect())
    }

    /// When the first hold ends that has not ended `now`, or would begin if the clock went on so far; nanoseconds since the
    /// epoch. No later than any hold could last: a clock may be set back.
    pub(crate) fn next_hold_end(&self, now: i64) -> Option<i64> {
        let ends = self.nodes().filter_map(Node::held_until);
        let next = ends.filter(|end| *end > now).min()?;
        Some(next.min(now.saturating_add(MOST)))
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
        let holds = Holds([("n1".to_owned(), 12 * SECOND)].into());
        let told = "came back more than 2 times within 5 minutes: gets no new tasks before 1970-01-01T00:00:12Z";
        assert_eq!(holds.message("n1").as_deref(), Some(told));
        assert_eq!(holds.message("n2"), None);
    }
}
