//! Nodes' WireGuard keys: whose they are.
//!
//! Others know a node by its address, and each of its keys is that node's alone: WireGuard gives a key to one address at a
//! time, so whoever tells another node's key as its own would take that off the net. All nodes hear of a key only after
//! it is in the state, which makes the first one that tells it its owner.

use super::Context;
use crate::{
    NodeReport,
    state::{Node, State},
};

/// The [rules](crate::command::RULES) from which on nobody is given another node's key.
const OWN_KEYS: u32 = 5;

/// Where a node reports a key that another one has, or had before its present one, at another address: puts back what
/// the node told before at this same address, if anything. Gives the other one's id.
pub(crate) fn give_back(state: &State, id: &str, report: &mut NodeReport) -> Option<String> {
    let key = report.cipher.as_ref()?.key.as_str();
    let own = state.node(id);
    let is_here = |node: &Node| node.description.data_path_address == report.data_path_address;
    if own.is_some_and(|own| is_here(own) && present(own) == Some(key)) {
        return None;
    }
    // One that had this address may be this very node before it joined anew.
    let is_owner = |node: &&Node| node.id != id && !is_here(node) && has(node, key);
    let owner = state.nodes().find(is_owner)?.id.clone();
    // What it told elsewhere, it may have had by another's address.
    let own = own.filter(|own| is_here(own));
    report.cipher = own.and_then(|own| own.description.cipher.clone());
    Some(owner)
}

fn present(node: &Node) -> Option<&str> {
    let cipher = node.description.cipher.as_ref();
    cipher.map(|cipher| cipher.key.as_str())
}

/// Now, or before its present key.
fn has(node: &Node, key: &str) -> bool {
    present(node) == Some(key) || node.former_key.as_deref() == Some(key)
}

/// Lets a node have what it reports.
pub(super) fn take(state: &State, cx: &Context, node: &mut Node, mut report: NodeReport) {
    if cx.rules >= OWN_KEYS {
        give_back(state, &node.id, &mut report);
    }
    let before = std::mem::replace(&mut node.description, report).cipher;
    let former = before
        .map(|before| before.key)
        .filter(|key| present(node) != Some(key.as_str()))
        // It may have had it by another's address.
        .filter(|key| {
            !state
                .nodes()
                .any(|other| other.id != node.id && has(other, key))
        });
    note_former(cx, node, former);
}

/// Nodes that had this one's address before it, such as itself before it left and joined again, have no key any more:
/// others know keys by address.
pub(super) fn forget(state: &mut State, cx: &Context, id: &str, address: &str) {
    let is_before = |node: &&Node| {
        node.id != id
            && node.description.data_path_address == address
            && node.description.cipher.is_some()
    };
    let before: Vec<Node> = state.nodes().filter(is_before).cloned().collect();
    for mut node in before {
        let former = node.description.cipher.take().map(|former| former.key);
        // Whoever had it first has it still, and was here only now.
        let is_of = |other: &Node, key: &str| {
            other.id != node.id && other.former_key.as_deref() == Some(key)
        };
        let former = former.filter(|key| !state.nodes().any(|other| is_of(other, key)));
        note_former(cx, &mut node, former);
        cx.touch(&mut node.meta);
        state.put_node(node);
    }
}

fn note_former(cx: &Context, node: &mut Node, key: Option<String>) {
    if cx.rules >= OWN_KEYS && key.is_some() {
        node.former_key = key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cipher, Operation, command::RULES, fixture::World};

    fn report(address: &str, key: &str) -> NodeReport {
        NodeReport {
            data_path_address: address.to_owned(),
            cipher: (!key.is_empty()).then(|| Cipher {
                key: key.to_owned(),
                port: 51820,
                epoch: Some(1),
                next_port: 0,
                former_key: String::new(),
            }),
            ..NodeReport::default()
        }
    }

    fn tell_by(world: &mut World, rules: u32, id: &str, address: &str, key: &str) {
        let up = Operation::NodeUp {
            node_id: id.to_owned(),
            description: report(address, key),
        };
        world.apply_by(rules, up).unwrap();
    }

    fn tell(world: &mut World, id: &str, address: &str, key: &str) {
        tell_by(world, RULES, id, address, key);
    }

    fn key<'a>(world: &'a World, id: &str) -> Option<&'a str> {
        let cipher = world.state.node(id).unwrap().description.cipher.as_ref();
        cipher.map(|cipher| cipher.key.as_str())
    }

    #[test]
    fn nobody_is_given_a_key_that_another_node_has() {
        let mut world = World::new(&["victim", "thief"]);
        tell(&mut world, "victim", "10.9.0.1", "a");
        // It had none, and has none.
        tell(&mut world, "thief", "10.9.0.2", "a");
        assert_eq!(
            (key(&world, "victim"), key(&world, "thief")),
            (Some("a"), None)
        );
        tell(&mut world, "thief", "10.9.0.2", "t");
        tell(&mut world, "victim", "10.9.0.1", "b");
        for stolen in ["a", "b"] {
            tell(&mut world, "thief", "10.9.0.2", stolen);
            assert_eq!(key(&world, "thief"), Some("t"), "{stolen}");
            assert_eq!(key(&world, "victim"), Some("b"), "{stolen}");
        }
        // Whose device broke may go back to the key before.
        tell(&mut world, "victim", "10.9.0.1", "a");
        assert_eq!(key(&world, "victim"), Some("a"));
        // Nor while the owner says nothing of a key, as an agent that has just started may.
        tell(&mut world, "victim", "10.9.0.1", "");
        tell(&mut world, "thief", "10.9.0.2", "a");
        assert_eq!(
            (key(&world, "victim"), key(&world, "thief")),
            (None, Some("t"))
        );
    }

    #[test]
    fn who_joined_anew_has_its_key_and_nobody_else_gets_it() {
        let mut world = World::new(&["before", "now", "thief"]);
        tell(&mut world, "before", "10.9.0.1", "a");
        tell(&mut world, "now", "10.9.0.1", "a");
        tell(&mut world, "now", "10.9.0.1", "a");
        assert_eq!(
            (key(&world, "before"), key(&world, "now")),
            (None, Some("a"))
        );
        tell(&mut world, "thief", "10.9.0.2", "a");
        assert_eq!(key(&world, "thief"), None);
        // Who says that it is there as well, and then elsewhere, does not take it along.
        tell(&mut world, "thief", "10.9.0.1", "a");
        tell(&mut world, "thief", "10.9.0.2", "b");
        tell(&mut world, "thief", "10.9.0.2", "a");
        assert_eq!(key(&world, "thief"), Some("b"));
        tell(&mut world, "now", "10.9.0.1", "a");
        assert_eq!(key(&world, "now"), Some("a"));
    }

    #[test]
    fn who_goes_elsewhere_does_not_take_the_key_of_that_address_along() {
        let mut world = World::new(&["victim", "thief"]);
        tell(&mut world, "victim", "10.9.0.1", "a");
        tell(&mut world, "thief", "10.9.0.1", "a");
        tell(&mut world, "thief", "10.9.0.2", "a");
        assert_eq!(key(&world, "thief"), None);
        tell(&mut world, "victim", "10.9.0.1", "a");
        assert_eq!(
            (key(&world, "victim"), key(&world, "thief")),
            (Some("a"), None)
        );
        // Its own key goes with it.
        tell(&mut world, "victim", "10.9.0.3", "a");
        assert_eq!(key(&world, "victim"), Some("a"));
    }

    #[test]
    fn who_stays_at_anothers_address_does_not_become_the_former_owner_of_its_key() {
        let mut world = World::new(&["victim", "thief"]);
        for who in ["victim", "thief", "victim"] {
            tell(&mut world, who, "10.9.0.1", "a");
            assert_eq!(key(&world, who), Some("a"));
        }
        tell(&mut world, "victim", "10.9.0.3", "a");
        assert_eq!(
            (key(&world, "victim"), key(&world, "thief")),
            (Some("a"), None)
        );
        tell(&mut world, "thief", "10.9.0.1", "a");
        assert_eq!(key(&world, "thief"), None);
    }

    #[test]
    fn an_old_log_gives_the_state_that_it_gave() {
        let mut world = World::new(&["victim", "thief"]);
        for (id, address, told) in [
            ("victim", "10.9.0.1", "a"),
            ("victim", "10.9.0.1", "b"),
            ("thief", "10.9.0.2", "b"),
        ] {
            tell_by(&mut world, OWN_KEYS - 1, id, address, told);
            assert_eq!(key(&world, id), Some(told));
            assert_eq!(world.state.node(id).unwrap().former_key, None);
        }
    }
}
