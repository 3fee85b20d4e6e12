//! Who has joined lately, by key: a node that asks again, because the answer was lost, is not another one.

use super::{NodeState, State};
use mesh_pki::Role;
use serde::{Deserialize, Serialize};

/// How long a join is kept in mind, nanoseconds.
const KEPT: i64 = 24 * 3600 * 1_000_000_000;

/// A join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Join {
    node_id: String,
    /// When, nanoseconds since the epoch.
    at: i64,
}

impl State {
    /// The id of a node that joins by this key: that of the node which it has joined as before, if that is to have the same role
    /// and was never heard of; else `new`. A key that is empty is nobody's.
    pub(crate) fn join_as(&mut self, key: &str, new: &str, role: Role, now: i64) -> String {
        self.joins
            .retain(|_, join| now < join.at.saturating_add(KEPT));
        if key.is_empty() {
            return new.to_owned();
        }
        let is_waited_for = |id: &&str| {
            let node = self.node(id);
            node.is_some_and(|node| {
                let was_heard = node.state != NodeState::Unknown || node.manager_addr.is_some();
                !was_heard && node.role == role && node.desired_role() == role
            })
        };
        let id = self.joined_as(key).filter(is_waited_for).unwrap_or(new);
        let node_id = id.to_owned();
        let join = Join {
            node_id: node_id.clone(),
            at: now,
        };
        self.joins.insert(key.to_owned(), join);
        node_id
    }

    /// The node that has lately joined by this key.
    pub(crate) fn joined_as(&self, key: &str) -> Option<&str> {
        self.joins.get(key).map(|join| join.node_id.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        AddNode, Operation, RULES, Response, UNTOLD,
        fixture::{SECOND, World},
    };
    use mesh_api::engine::NodeSpecAvailabilityEnum;

    fn join(world: &mut World, rules: u32, id: &str, key: &str, role: Role) -> String {
        let add = Operation::AddNode(AddNode {
            id: id.to_owned(),
            role,
            availability: NodeSpecAvailabilityEnum::ACTIVE,
            hostname: String::new(),
            manager_addr: None,
            data_path_address: String::new(),
            key: key.to_owned(),
        });
        match world.apply_by(rules, add).unwrap() {
            Response::Created { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_asks_again_is_the_same_node() {
        let mut world = World::new(&[]);
        let w = &mut world;
        let day = KEPT / SECOND;
        // Seconds later, new id, key, role, who it is.
        for (later, new, key, role, is) in [
            (0, "a", "k1", Role::Worker, "a"),
            (9, "b", "k1", Role::Worker, "a"),
            (0, "c", "k2", Role::Worker, "c"),
            (0, "d", "", Role::Worker, "d"),
            (0, "e", "", Role::Worker, "e"),
            // By the other token it is another one.
            (0, "f", "k1", Role::Manager, "f"),
            (day - 1, "g", "k1", Role::Manager, "f"),
            (day, "h", "k1", Role::Manager, "h"),
        ] {
            w.now += later * SECOND;
            assert_eq!(join(w, RULES, new, key, role), is, "{new}");
        }
        assert_eq!(w.state.nodes().count(), 1 + 6);
        assert_eq!(w.state.joins.len(), 1, "the others are forgotten");
    }

    #[test]
    fn who_has_come_in_or_is_gone_is_not_meant() {
        let mut world = World::new(&[]);
        let w = &mut world;
        assert_eq!(join(w, RULES, "a", "k", Role::Worker), "a");
        w.node_up("a");
        assert_eq!(join(w, RULES, "b", "k", Role::Worker), "b");
        w.state.remove_node("b");
        assert_eq!(join(w, RULES, "c", "k", Role::Worker), "c");
    }

    #[test]
    fn managers_of_before_know_nothing_of_it() {
        let mut world = World::new(&[]);
        for rules in [UNTOLD, UNTOLD + 1] {
            for id in ["a", "b"] {
                assert_eq!(join(&mut world, rules, id, "k", Role::Worker), id);
            }
        }
        let state = serde_json::to_string(&world.state).unwrap();
        assert!(!state.contains("joins"), "as they write it");
    }
}
