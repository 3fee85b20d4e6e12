//! How long a task that leaves waits for the nodes.

use crate::{
    config::Timings,
    fixture::{World, replicated},
    state::TaskState,
};
use std::time::Duration;

#[test]
fn a_task_waits_for_requests_on_their_way_and_for_nodes_that_do_not_answer() {
    let timings = Timings::default();
    for (acknowledge, expected) in [(true, timings.drain_settle), (false, timings.drain_limit)] {
        let mut world = World::new(&["n1"]);
        let id = world.service(replicated("web", 1)).unwrap();
        world.work();
        world.acknowledge = acknowledge;
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
        assert_eq!(waited, expected, "{acknowledge}");
    }
}
