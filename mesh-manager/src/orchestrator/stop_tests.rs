//! How long a task that leaves waits for the nodes.

use crate::{
    fixture::{World, replicated},
    state::TaskState,
};
use std::time::Duration;

#[test]
fn a_task_waits_for_nodes_that_answer_those_that_do_not_and_those_that_come_back() {
    let second = Duration::from_secs(1);
    for (acknowledge, complete, expected) in [
        (true, true, second / 5),
        (false, true, 2 * second),
        (false, false, 15 * second),
    ] {
        let mut world = World::new(&["n1"]);
        let id = world.service(replicated("web", 1)).unwrap();
        world.work();
        (world.acknowledge, world.complete) = (acknowledge, complete);
        world.scale(&id, 0);
        world.settle();
        let begun = world.now;
        let is_told = |world: &World| {
            let mut tasks = world.state.tasks_of_service(&id);
            tasks.all(|t| t.desired > TaskState::Running)
        };
        assert!(!is_told(&world), "at once");
        while !is_told(&world) {
            world.now += super::POLL;
            world.settle();
        }
        let waited = Duration::from_nanos(u64::try_from(world.now - begun).unwrap());
        assert_eq!(waited, expected, "{acknowledge} {complete}");
    }
}
