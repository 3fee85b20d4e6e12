//! The constraint enforcer: tasks whose node no longer meets their constraints, or has no longer what they reserve, are
//! rejected.
//!
//! Such a task is first taken out of load balancing and told to stop, as any other. Swarm writes *rejected* at once; here
//! that is written when the node has reported the end (`apply::task::report`), for until then the task runs, and owns its
//! addresses.

use crate::{
    scheduler::{fits_node, has_room},
    state::{Service, State, Task, TaskState},
};
use mesh_api::engine::NodeSpecAvailabilityEnum as Availability;

/// What a task has to become because of its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stays.
    Kept,
    /// To end as this, another one takes its place.
    Lost(TaskState),
}

/// Whether a task's node can go on running it.
pub(super) fn fate(state: &State, service: &Service, task: &Task) -> Fate {
    let Some(id) = task.node_id.as_deref() else {
        return Fate::Kept;
    };
    let Some(node) = state.node(id).filter(|node| node.keeps_tasks()) else {
        return Fate::Lost(TaskState::Shutdown);
    };
    let is_there = task.status.state >= TaskState::Assigned && !task.status.state.is_terminal();
    let has_shrunk = is_there && !has_room(state, node, task);
    let fits = fits_node(service.placement(), node);
    if fits && !has_shrunk {
        return Fate::Kept;
    }
    // A global service's task that no node ever had is no history.
    if task.status.state < TaskState::Assigned {
        return Fate::Lost(TaskState::Remove);
    }
    // Its own constraints are those that it was placed by. Where they hold, the service's have changed.
    let has_changed = !fits && fits_node(task.spec.placement.as_ref(), node);
    if task.status.state.is_terminal() || has_changed {
        return Fate::Lost(TaskState::Shutdown);
    }
    // As in Swarm: a pause is for looking at what is there.
    if node.availability() == Availability::PAUSE {
        return Fate::Kept;
    }
    Fate::Lost(TaskState::Rejected)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use crate::{
        Command, Operation,
        command::NodeReport,
        fixture::{SECOND, World, constrained, global, replicated, template},
        state::{Task, TaskState},
    };
    use mesh_api::engine::{self, NodeSpecAvailabilityEnum as Availability};

    use serde_json::json;

    const GIB: i64 = 1 << 30;
    const TEXT: &str = "assigned node no longer meets constraints";

    fn update(world: &mut World, node: &str, change: impl FnOnce(&mut engine::NodeSpec)) {
        let node = world.state.node(node).unwrap();
        let (id, version, mut spec) = (node.id.clone(), node.meta.version, node.spec.clone());
        change(&mut spec);
        let command = Command::UpdateNode { id, version, spec };
        world.call(command).unwrap();
    }

    fn label(world: &mut World, node: &str, zone: &str) {
        let labels = HashMap::from([("zone".to_owned(), zone.to_owned())]);
        update(world, node, |spec| spec.labels = Some(labels));
    }

    /// Two nodes, the first in zone a, and a service that has to be there.
    fn placed(spec: engine::ServiceSpec) -> (World, String) {
        let mut world = World::new(&["n1", "n2"]);
        label(&mut world, "n1", "a");
        let spec = constrained(spec, &["node.labels.zone==a"]);
        let id = world.service(spec).unwrap();
        world.work();
        (world, id)
    }

    fn ended(world: &World, id: &str) -> Vec<(TaskState, TaskState, String)> {
        let tasks = world.state.tasks_of_service(id);
        tasks
            .filter(|t| t.status.state.is_terminal())
            .map(|t| (t.desired, t.status.state, t.status.error.clone()))
            .collect()
    }

    fn rejected() -> (TaskState, TaskState, String) {
        (TaskState::Shutdown, TaskState::Rejected, TEXT.to_owned())
    }

    #[test]
    fn tasks_move_and_the_old_ones_are_rejected_once_they_have_ended() {
        let (mut world, id) = placed(replicated("web", 2));
        assert_eq!(world.running_on(&id, "n1"), 2);
        world.acknowledge = false;
        label(&mut world, "n2", "A");
        label(&mut world, "n1", "b");
        world.settle();
        let drained: Vec<&Task> = world.state.tasks_of_node("n1").collect();
        assert_eq!(drained.len(), 2);
        for task in drained {
            let shown = task.to_engine();
            assert_eq!(shown.desired_state, Some(engine::TaskState::SHUTDOWN));
            assert_eq!(task.status.state, TaskState::Running, "it drains first");
            assert_eq!(task.desired, TaskState::Running);
        }
        world.acknowledge = true;
        world.now += SECOND;
        world.settle();
        for task in world.state.tasks_of_node("n1") {
            let seen = (task.desired, task.status.state);
            assert_eq!(seen, (TaskState::Shutdown, TaskState::Running));
        }
        world.work();
        assert_eq!(world.running_on(&id, "n2"), 2);
        assert_eq!(ended(&world, &id), [rejected(), rejected()]);
        let message = |t: &Task| t.status.message == "task rejected by constraint enforcer";
        assert!(world.state.tasks_of_node("n1").all(message));
        world.call(Command::RemoveService { id }).unwrap();
        world.work();
        assert_eq!(world.state.tasks().count(), 0);
    }

    #[test]
    fn where_no_node_fits_the_next_task_waits_and_says_why() {
        let (mut world, id) = placed(replicated("web", 1));
        label(&mut world, "n1", "b");
        world.work();
        let task = world.wanted(&id)[0].clone();
        assert_eq!(task.status.state, TaskState::Pending);
        let reason = "scheduling constraints not satisfied on 2 nodes";
        assert!(task.status.error.contains(reason), "{}", task.status.error);
        assert_eq!(ended(&world, &id), [rejected()]);
        label(&mut world, "n2", "a");
        world.work();
        assert_eq!(world.running_on(&id, "n2"), 1);
    }

    #[test]
    fn a_global_services_task_is_rejected_and_another_made_when_the_node_fits_again() {
        let (mut world, id) = placed(global("agent"));
        label(&mut world, "n1", "b");
        world.work();
        assert_eq!(world.wanted(&id).len(), 0);
        assert_eq!(ended(&world, &id), [rejected()]);
        label(&mut world, "n1", "a");
        world.work();
        assert_eq!(world.running_on(&id, "n1"), 1);
    }

    #[test]
    fn other_constraints_of_the_service_are_no_rejection() {
        for spec in [replicated("web", 1), global("web")] {
            let (mut world, id) = placed(spec);
            label(&mut world, "n2", "b");
            let edit =
                |s: &mut engine::ServiceSpec| *s = constrained(s.clone(), &["node.labels.zone==b"]);
            world.edit(&id, edit).unwrap();
            world.work();
            assert_eq!(world.running_on(&id, "n2"), 1);
            let shutdown = (TaskState::Shutdown, TaskState::Shutdown, String::new());
            assert_eq!(ended(&world, &id), [shutdown]);
        }
    }

    #[test]
    fn a_paused_nodes_tasks_are_left_alone() {
        for spec in [replicated("web", 1), global("web")] {
            let (mut world, id) = placed(spec);
            update(&mut world, "n1", |spec| {
                spec.availability = Some(Availability::PAUSE);
                spec.labels = None;
            });
            world.work();
            assert_eq!(world.running_on(&id, "n1"), 1);
            let active = Some(Availability::ACTIVE);
            update(&mut world, "n1", |spec| spec.availability = active);
            world.work();
            assert_eq!(ended(&world, &id), [rejected()]);
        }
    }

    #[test]
    fn tasks_that_reserve_more_than_a_node_has_left_are_rejected() {
        for spec in [replicated("web", 3), global("web")] {
            let mut world = World::new(&["n1"]);
            let tell = |world: &mut World, nano_cpus: i64, memory_bytes: i64| {
                let description = NodeReport {
                    nano_cpus,
                    memory_bytes,
                    ..world.state.node("n1").unwrap().description.clone()
                };
                let node_id = "n1".to_owned();
                let up = Operation::NodeUp {
                    node_id,
                    description,
                };
                world.apply(up).unwrap();
                world.work();
            };
            let is_global = spec.mode.as_ref().is_some_and(|mode| mode.global.is_some());
            let count = if is_global { 1 } else { 3 };
            tell(&mut world, 4_000_000_000, 4 * GIB);
            let mut spec = spec;
            let reserved = json!({"Reservations": {"MemoryBytes": GIB, "NanoCPUs": 1_000_000_000}});
            template(&mut spec).resources = serde_json::from_value(reserved).unwrap();
            let id = world.service(spec).unwrap();
            let free = world.service(replicated("free", 1)).unwrap();
            world.work();
            assert_eq!(world.running_on(&id, "n1"), count);
            // It has enough for all, to the byte.
            tell(&mut world, 3_000_000_000, 3 * GIB);
            assert_eq!(ended(&world, &id), []);
            tell(&mut world, 3_000_000_000, GIB);
            assert_eq!(world.running_on(&id, "n1"), 1);
            assert_eq!(ended(&world, &id), vec![rejected(); count - 1]);
            tell(&mut world, 900_000_000, GIB);
            assert_eq!(world.running_on(&id, "n1"), 0);
            assert_eq!(ended(&world, &id).last(), Some(&rejected()));
            assert_eq!(world.running_on(&free, "n1"), 1, "it reserves nothing");
            tell(&mut world, 4_000_000_000, 4 * GIB);
            assert_eq!(world.running_on(&id, "n1"), count);
        }
    }

    fn reserving(mut spec: engine::ServiceSpec, memory: i64) -> engine::ServiceSpec {
        let reserved = json!({"Reservations": {"MemoryBytes": memory}});
        template(&mut spec).resources = serde_json::from_value(reserved).unwrap();
        spec
    }

    /// A world with a node of 1 GiB, and ids of its own.
    fn full(number: usize) -> World {
        let mut world = World::new(&["n1"]);
        for _ in 0..number {
            world.node_up("n1");
        }
        world
    }

    #[test]
    fn an_update_on_a_full_node_rejects_nothing() {
        for number in 0..20 {
            let mut world = full(number);
            let spec = reserving(replicated("web", 2), GIB / 2);
            let id = world.service(spec).unwrap();
            world.work();
            assert_eq!(world.running_on(&id, "n1"), 2);
            world.acknowledge = false;
            world.force_update(&id);
            world.settle();
            world.acknowledge = true;
            world.work();
            world.now += 60 * SECOND;
            world.work();
            let rejected = |t: &&Task| t.drain_to == Some(TaskState::Rejected);
            let tasks = world.state.tasks_of_service(&id);
            assert_eq!(tasks.filter(rejected).count(), 0);
            assert_eq!(world.running_on(&id, "n1"), 2);
        }
    }

    #[test]
    fn a_task_that_finds_no_room_takes_none_from_others() {
        for number in 0..20 {
            let mut world = full(number);
            let spec = reserving(replicated("web", 1), GIB / 2);
            let id = world.service(spec).unwrap();
            world.work();
            world.service(reserving(global("all"), GIB)).unwrap();
            world.work();
            assert_eq!(world.running_on(&id, "n1"), 1);
            assert_eq!(ended(&world, &id), []);
        }
    }

    #[test]
    fn a_task_that_fails_on_its_way_out_is_rejected_too() {
        let (mut world, id) = placed(replicated("web", 1));
        world.acknowledge = false;
        label(&mut world, "n1", "b");
        world.settle();
        let task = world.state.tasks_of_node("n1").next().unwrap().id.clone();
        world.report(&task, TaskState::Failed);
        world.report(&task, TaskState::Running);
        world.settle();
        assert_eq!(ended(&world, &id), [rejected()]);
    }

    #[test]
    fn one_that_was_still_being_prepared_is_rejected() {
        let mut world = World::new(&["n1"]);
        label(&mut world, "n1", "a");
        let spec = constrained(replicated("web", 1), &["node.labels.zone==a"]);
        let id = world.service(spec).unwrap();
        world.settle();
        let task = world.wanted(&id)[0].id.clone();
        world.report(&task, TaskState::Preparing);
        label(&mut world, "n1", "b");
        world.work();
        assert_eq!(ended(&world, &id), [rejected()]);
    }
}
