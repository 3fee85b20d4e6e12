//! Nodes that come and go.

use crate::{
    NodeReport, Operation,
    fixture::{SECOND, World, global, replicated},
};

/// A node falls silent, its tasks are replaced, and it comes back.
fn flap(world: &mut World, node: &str, times: usize) {
    for _ in 0..times {
        world.node_down(node);
        world.work();
        world.now += 5 * SECOND;
        world.node_up(node);
    }
}

/// What is said of the node, and until when it is held back.
fn held(world: &World, node: &str) -> Option<(String, i64)> {
    let holds = world.state.holds(world.now);
    Some((holds.message(node)?, holds.until(node)?))
}

#[test]
fn a_node_that_came_back_for_the_third_time_gets_no_new_tasks_for_a_while() {
    let mut world = World::new(&["n1", "n2"]);
    let id = world.service(replicated("web", 4)).unwrap();
    world.work();
    flap(&mut world, "n2", 2);
    assert_eq!(held(&world, "n2"), None);
    world.scale(&id, 6);
    world.work();
    assert_eq!(world.running_on(&id, "n2"), 2, "twice means nothing");

    flap(&mut world, "n2", 1);
    let (told, until) = held(&world, "n2").unwrap();
    assert_eq!(until, world.now + 10 * SECOND);
    assert!(
        told.starts_with("came back more than 2 times within 5 minutes: gets no new tasks before "),
        "{told}"
    );
    world.scale(&id, 8);
    world.work();
    assert_eq!(world.running_on(&id, "n2"), 0);
    assert_eq!(world.running_on(&id, "n1"), 8);
    // It says something of itself meanwhile: that is no return.
    world.node_up("n2");
    assert_eq!(held(&world, "n2"), Some((told, until)));
    assert_eq!(world.state.next_hold_end(world.now), Some(until));
    world.now = until;
    assert_eq!(held(&world, "n2"), None);
    assert_eq!(world.state.next_hold_end(world.now), None);
    world.scale(&id, 10);
    world.work();
    assert_eq!(world.running_on(&id, "n2"), 2);
}

#[test]
fn a_global_task_goes_where_it_belongs_all_the_same() {
    let mut world = World::new(&["n1", "n2"]);
    let id = world.service(global("web")).unwrap();
    world.work();
    flap(&mut world, "n2", 3);
    assert!(held(&world, "n2").is_some());
    world.work();
    assert_eq!(world.running_on(&id, "n2"), 1);
}

/// The managers were cut off, be there a node of theirs that takes tasks and is always there, or none.
#[test]
fn where_most_come_and_go_none_is_held_back() {
    for others in [&["n1", "n2"][..], &["n1", "n2", "n3"]] {
        let mut world = World::new(others);
        let id = world.service(replicated("web", 4)).unwrap();
        world.work();
        for _ in 0..5 {
            world.node_down("n1");
            world.node_down("n2");
            world.work();
            world.now += 5 * SECOND;
            world.node_up("n1");
            world.node_up("n2");
        }
        assert_eq!((held(&world, "n1"), held(&world, "n2")), (None, None));
        world.scale(&id, 8);
        world.work();
        assert!(world.running_on(&id, "n1") > 0 && world.running_on(&id, "n2") > 0);
    }
}

/// What is refused now has to be looked at when the clock of this leader, which is behind that of the one before, gets there; nor
/// is it waited for what a clock that was set back takes.
#[test]
fn ends_of_holds_are_looked_for_by_any_clock() {
    let mut world = World::new(&["n1", "n2"]);
    world.work();
    flap(&mut world, "n2", 10);
    let (_, until) = held(&world, "n2").unwrap();
    let next = |now| world.state.next_hold_end(now);
    let minute = 60 * SECOND;
    assert_eq!(next(until - minute - 3 * SECOND), Some(until - 3 * SECOND));
    assert_eq!(next(until - 3 * SECOND), Some(until));
    assert_eq!(next(until - 60 * minute), Some(until - 59 * minute));
}

#[test]
fn managers_of_before_keep_no_returns_in_mind() {
    let mut world = World::new(&["n1", "n2"]);
    for _ in 0..5 {
        world.node_down("n2");
        let up = Operation::NodeUp {
            node_id: "n2".to_owned(),
            description: NodeReport::default(),
        };
        world.apply_by(9, up).unwrap();
    }
    let node = world.state.node("n2").unwrap();
    assert_eq!(held(&world, "n2"), None);
    // So what they store is as it was.
    let stored = serde_json::to_value(node).unwrap();
    assert!(stored.get("returns").is_none(), "{stored}");
}
