//! Which group of managers a state is of, and which ones that group took the place of.

use super::State;

/// So many former groups are kept in mind.
const KEPT: usize = 64;

/// A group of managers and what it comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lineage {
    /// See [`State::incarnation`].
    pub(crate) incarnation: String,
    /// Incarnations of the groups that it took the place of, oldest first, without the empty one.
    pub(crate) past: Vec<String>,
}

impl Lineage {
    /// Whether the group took the place of that of this incarnation. Every one that was rebuilt comes from one that was not.
    pub(crate) fn follows(&self, incarnation: &str) -> bool {
        self.incarnation != incarnation
            && (incarnation.is_empty() || self.past.iter().any(|past| past == incarnation))
    }
}

impl State {
    /// The group of managers.
    pub(crate) fn lineage(&self) -> Lineage {
        Lineage {
            incarnation: self.incarnation.clone(),
            past: self.past_incarnations.clone(),
        }
    }

    /// Another group takes the place of the one that was.
    pub(crate) fn begin_incarnation(&mut self, incarnation: &str) {
        let old = std::mem::replace(&mut self.incarnation, incarnation.to_owned());
        if !old.is_empty() {
            self.past_incarnations.push(old);
        }
        let surplus = self.past_incarnations.len().saturating_sub(KEPT);
        self.past_incarnations.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_follows_those_it_comes_from() {
        let mut state = State::default();
        assert!(!state.lineage().follows(""));
        assert!(!state.lineage().follows("a"));
        state.begin_incarnation("a");
        let first = state.lineage();
        let mut fork = state.clone();
        state.begin_incarnation("b");
        fork.begin_incarnation("c");
        let (second, other) = (state.lineage(), fork.lineage());
        assert!(first.follows("") && second.follows("") && second.follows("a"));
        assert!(!first.follows("a") && !first.follows("b"));
        // Two that were restored from the same backup: none of them is the other's past.
        assert!(!second.follows("c") && !other.follows("b"));
        for number in 0..KEPT * 2 {
            state.begin_incarnation(&number.to_string());
        }
        let last = state.lineage();
        assert_eq!(last.past.len(), KEPT);
        assert!(last.follows("") && last.follows("126") && !last.follows("a"));
    }
}
