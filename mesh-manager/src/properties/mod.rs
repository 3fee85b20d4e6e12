//! Properties of the managers' pure cores, looked for with random clusters, services and courses of events.

mod allocation;
mod placement;
mod updates;

use crate::{
    Command,
    fixture::World,
    state::{Task, TaskState},
};
use mesh_api::engine;

/// Changes what the user has said of a node.
fn set_node(world: &mut World, id: &str, change: impl FnOnce(&mut engine::NodeSpec)) {
    let node = world.state.node(id).expect("a node");
    let (version, mut spec) = (node.meta.version, node.spec.clone());
    change(&mut spec);
    let update = Command::UpdateNode {
        id: id.to_owned(),
        version,
        spec,
    };
    world.call(update).expect("a valid spec");
}

/// Wanted tasks of a service that have not ended.
fn live<'a>(world: &'a World, service: &str) -> Vec<&'a Task> {
    let wanted = world.wanted(service).into_iter();
    wanted.filter(|t| !t.status.state.is_terminal()).collect()
}

/// What nodes have to do next: tasks, each with the state that it comes to.
fn due(world: &World) -> Vec<(String, TaskState)> {
    let placed = world.state.tasks().filter(|task| {
        let state = task.status.state;
        state >= TaskState::Assigned && !state.is_terminal()
    });
    let next = placed.map(|task| {
        let to = match task.desired {
            TaskState::Ready => TaskState::Ready,
            TaskState::Running => TaskState::Running,
            _ => TaskState::Shutdown,
        };
        (task, to)
    });
    next.filter(|(task, to)| task.status.state != *to)
        .map(|(task, to)| (task.id.clone(), to))
        .collect()
}
