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

fn message<'a>(world: &'a World, node: &str) -> &'a str {
    &world.state.node(node).unwrap().message
}

#[test]
fn a_node_that_came_back_for_the_third_time_gets_no_new_tasks_for_a_while() {
    let mut world = World::new(&["n1", "n2"]);
    let id = world.service(replicated("web", 4)).unwrap();
    world.work();
    flap(&mut world, "n2", 2);
    assert_eq!(message(&world, "n2"), "");
    world.scale(&id, 6);
    world.work();
    assert_eq!(world.running_on(&id, "n2"), 2, "twice means nothing");

    flap(&mut world, "n2", 1);
    let until = world.state.node("n2").unwrap().held_until(world.now);
    assert_eq!(until, Some(world.now + 10 * SECOND));
    let told = message(&world, "n2").to_owned();
    assert!(
        told.starts_with("came back 3 times within 5 minutes: gets no new tasks before "),
        "{told}"
    );
    world.scale(&id, 8);
    world.work();
    assert_eq!(world.running_on(&id, "n2"), 0);
    assert_eq!(world.running_on(&id, "n1"), 8);
    // It says something of itself meanwhile: that is no return.
    world.node_up("n2");
    assert_eq!(message(&world, "n2"), told);
    world.now = until.unwrap();
    world.scale(&id, 10);
    world.work();
    assert_eq!(world.running_on(&id, "n2"), 2);
    world.node_up("n2");
    assert_eq!(message(&world, "n2"), "");
}

#[test]
fn what_it_runs_it_keeps() {
    let mut world = World::new(&["n1", "n2"]);
    let id = world.service(replicated("web", 4)).unwrap();
    world.work();
    flap(&mut world, "n2", 3);
    world.now += 20 * SECOND;
    world.scale(&id, 8);
    world.work();
    let before = world.running_on(&id, "n2");
    assert_eq!(before, 4);
    // The managers are cut off for less than it takes to replace anything.
    world.node_down("n2");
    world.node_up("n2");
    assert!(
        world
            .state
            .node("n2")
            .unwrap()
            .held_until(world.now)
            .is_some()
    );
    world.work();
    assert_eq!(world.running_on(&id, "n2"), before);
}

#[test]
fn a_global_task_goes_where_it_belongs_all_the_same() {
    let mut world = World::new(&["n1", "n2"]);
    let id = world.service(global("web")).unwrap();
    world.work();
    flap(&mut world, "n2", 3);
    let n2 = world.state.node("n2").unwrap();
    assert!(n2.held_until(world.now).is_some());
    world.work();
    assert_eq!(world.running_on(&id, "n2"), 1);
}

#[test]
fn where_all_come_and_go_none_is_held_back() {
    let mut world = World::new(&["n1", "n2"]);
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
    world.work();
    assert_eq!(world.running_on(&id, "n1"), 2);
    assert_eq!(world.running_on(&id, "n2"), 2);
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
    assert_eq!(
        (node.held_until(world.now), node.message.as_str()),
        (None, "")
    );
    // So what they store is as it was.
    let stored = serde_json::to_value(node).unwrap();
    assert!(stored.get("returns").is_none(), "{stored}");
}
