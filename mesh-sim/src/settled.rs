//! What has to be true in the end, when all is healed: nothing is left to be done.

use mesh_api::{
    engine::NodeSpecAvailabilityEnum as Availability,
    generic_resource::{Amount, reserved},
};
use mesh_manager::RULES;
use mesh_manager::state::{Node, NodeState, Service, ServiceMode, State, Task, TaskState};
use std::collections::BTreeSet;

/// Whether all managers' rules are in force, every service has its tasks, which run on nodes that are there, every job is done, and there are no other tasks.
pub(crate) fn is_settled(state: &State) -> Result<(), String> {
    if state.rules() != RULES {
        return Err(format!("the rules in force are {}", state.rules()));
    }
    for service in state.services() {
        let found = match service.mode() {
            ServiceMode::Replicated => replicas(state, service),
            ServiceMode::Global => global(state, service),
            ServiceMode::ReplicatedJob | ServiceMode::GlobalJob => job(state, service),
        };
        found.map_err(|missing| format!("{}: {missing}", service.name()))?;
    }
    let stray = state
        .tasks()
        .find(|task| state.service(&task.service_id).is_none() && !task.status.state.is_terminal());
    match stray {
        Some(task) => Err(format!("task {} has no service any more", task.id)),
        None => Ok(()),
    }
}

/// Nodes that take new tasks: they are there, and neither paused nor drained.
fn active(state: &State) -> impl Iterator<Item = &Node> {
    let is_active = |node: &&Node| {
        node.state == NodeState::Ready && node.availability() == Availability::ACTIVE
    };
    state.nodes().filter(is_active)
}

/// Whether a task's node is there and may go on running it: a paused one does, one that is drained does not.
fn may_run(state: &State, task: &Task) -> bool {
    let node = task.node_id.as_deref().and_then(|id| state.node(id));
    node.is_some_and(|node| {
        node.state == NodeState::Ready && node.availability() != Availability::DRAIN
    })
}

/// The tasks of a service that have not ended: all have to run, but for those that find no room, or wait for their node.
fn settled<'a>(state: &'a State, service: &Service) -> Result<Vec<&'a Task>, String> {
    let tasks = state.tasks_of_service(&service.id);
    let tasks: Vec<&Task> = tasks.filter(|t| !t.status.state.is_terminal()).collect();
    for task in &tasks {
        let may_run = may_run(state, task);
        let runs = task.status.state == TaskState::Running && may_run;
        let waits = waits_for_room(state, task) || waits_for_node(state, task);
        if !task.is_wanted() || !(runs || waits) {
            return Err(format!(
                "task {} is {}, to be {}, its node may run it: {may_run}",
                task.id, task.status.state, task.desired
            ));
        }
    }
    Ok(tasks)
}

/// Whether a task is for a node that is paused, and takes none.
fn waits_for_node(state: &State, task: &Task) -> bool {
    let is_own = |node: &Node| task.node_id.as_ref() == Some(&node.id);
    let is_bound = task.node_id.is_some() && task.status.state == TaskState::Pending;
    is_bound && may_run(state, task) && !active(state).any(is_own)
}

/// Whether a task has no node because wherever it could run its port is in use, or what it reserves is taken.
fn waits_for_room(state: &State, task: &Task) -> bool {
    let wanted = reserved(&task.spec);
    let is_taken = |node: &Node| {
        let taken = |kind: &str| -> u64 {
            let holders = state
                .tasks_of_node(&node.id)
                .filter(|t| t.holds_resources());
            let held = holders.filter_map(|t| t.generic_resources.get(kind));
            held.map(Amount::count).sum()
        };
        wanted.iter().any(|(kind, number)| {
            let has = node.description.generic_resources.get(*kind);
            taken(kind) + number > has.map_or(0, Amount::count)
        })
    };
    let in_use = |node: &Node| {
        let mut others = state.tasks_of_node(&node.id).filter(|other| {
            let now = other.status.state;
            now >= TaskState::Assigned && !now.is_terminal()
        });
        let is_same = |other: &Task| {
            let mut ports = other.host_ports.iter();
            ports.any(|port| {
                let mut own = task.host_ports.iter();
                own.any(|p| (p.protocol, p.published) == (port.protocol, port.published))
            })
        };
        others.any(is_same)
    };
    let mut nodes = active(state).filter(|node| {
        let own = task.node_id.as_deref();
        own.is_none_or(|id| id == node.id)
    });
    let needs_room = !task.host_ports.is_empty() || !wanted.is_empty();
    let is_pending = task.status.state == TaskState::Pending;
    is_pending && needs_room && nodes.all(|node| in_use(node) || is_taken(node))
}

fn replicas(state: &State, service: &Service) -> Result<(), String> {
    let slots = settled(state, service)?;
    let slots: Vec<u64> = slots.iter().map(|task| task.slot).collect();
    let wanted = service.replicas();
    let is_even = slots.iter().collect::<BTreeSet<_>>().len() == slots.len();
    match slots.len() as u64 == wanted && is_even {
        true => Ok(()),
        false => Err(format!(
            "it has tasks in slots {slots:?}, and wants {wanted}"
        )),
    }
}

fn global(state: &State, service: &Service) -> Result<(), String> {
    let tasks = settled(state, service)?;
    // An update that starts first goes on once the node is active again.
    let tasks = tasks.iter().filter(|task| !waits_for_node(state, task));
    let nodes: Vec<&str> = tasks.filter_map(|t| t.node_id.as_deref()).collect();
    let has_one = |node: &Node| nodes.contains(&node.id.as_str());
    let is_even = nodes.iter().collect::<BTreeSet<_>>().len() == nodes.len();
    match is_even && active(state).all(has_one) {
        true => Ok(()),
        false => Err(format!("it has tasks on {nodes:?}")),
    }
}

/// A job has as many completed tasks as it is to have, each in a slot or on a node of its own, and nothing runs any more.
fn job(state: &State, service: &Service) -> Result<(), String> {
    let mut tasks = state.tasks_of_service(&service.id);
    let is_left = |task: &&Task| !task.status.state.is_terminal() && !waits_for_node(state, task);
    if let Some(task) = tasks.find(is_left) {
        return Err(format!("task {} is {}", task.id, task.status.state));
    }
    let done = state.tasks_of_service(&service.id).filter(|task| {
        task.job_iteration == service.iteration() && task.status.state == TaskState::Complete
    });
    let is_done = if service.mode().is_global() {
        let done: BTreeSet<&str> = done.filter_map(|t| t.node_id.as_deref()).collect();
        active(state).all(|node| done.contains(node.id.as_str()))
    } else {
        let done: BTreeSet<u64> = done.map(|task| task.slot).collect();
        done.into_iter().eq(1..=service.completions())
    };
    match is_done {
        true => Ok(()),
        false => Err("it is not done".to_owned()),
    }
}
