//! What has to be true in the end, when all is healed: nothing is left to be done.

use mesh_manager::state::{Node, NodeState, Service, ServiceMode, State, Task, TaskState};
use std::collections::BTreeSet;

/// Whether every service has its tasks, which run on nodes that are there, every job is done, and there are no other tasks.
pub(crate) fn is_settled(state: &State) -> Result<(), String> {
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

fn ready(state: &State) -> impl Iterator<Item = &Node> {
    state.nodes().filter(|node| node.state == NodeState::Ready)
}

/// The tasks of a service that have not ended: all have to run, but for those that find no port.
fn settled<'a>(state: &'a State, service: &Service) -> Result<Vec<&'a Task>, String> {
    let tasks = state.tasks_of_service(&service.id);
    let tasks: Vec<&Task> = tasks.filter(|t| !t.status.state.is_terminal()).collect();
    for task in &tasks {
        let node = task.node_id.as_deref().and_then(|id| state.node(id));
        let is_there = node.is_some_and(|node| node.state == NodeState::Ready);
        let runs = task.status.state == TaskState::Running && is_there;
        if !task.is_wanted() || !(runs || waits_for_port(state, task)) {
            return Err(format!(
                "task {} is {}, to be {}, node there: {is_there}",
                task.id, task.status.state, task.desired
            ));
        }
    }
    Ok(tasks)
}

/// Whether a task has no node because its port is in use wherever it could run.
fn waits_for_port(state: &State, task: &Task) -> bool {
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
    let mut nodes = ready(state).filter(|node| {
        let own = task.node_id.as_deref();
        own.is_none_or(|id| id == node.id)
    });
    task.status.state == TaskState::Pending && !task.host_ports.is_empty() && nodes.all(in_use)
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
    let mut nodes: Vec<&str> = tasks.iter().filter_map(|t| t.node_id.as_deref()).collect();
    nodes.sort_unstable();
    let wanted: Vec<&str> = ready(state).map(|node| node.id.as_str()).collect();
    match nodes == wanted {
        true => Ok(()),
        false => Err(format!("it has tasks on {nodes:?}, of {wanted:?}")),
    }
}

/// A job has as many completed tasks as it is to have, each in a slot or on a node of its own, and nothing runs any more.
fn job(state: &State, service: &Service) -> Result<(), String> {
    let mut tasks = state.tasks_of_service(&service.id);
    if let Some(task) = tasks.find(|task| !task.status.state.is_terminal()) {
        return Err(format!("task {} is {}", task.id, task.status.state));
    }
    let done = state.tasks_of_service(&service.id).filter(|task| {
        task.job_iteration == service.iteration() && task.status.state == TaskState::Complete
    });
    let is_done = if service.mode().is_global() {
        let done: BTreeSet<&str> = done.filter_map(|t| t.node_id.as_deref()).collect();
        ready(state).all(|node| done.contains(node.id.as_str()))
    } else {
        let done: BTreeSet<u64> = done.map(|task| task.slot).collect();
        done.into_iter().eq(1..=service.completions())
    };
    match is_done {
        true => Ok(()),
        false => Err("it is not done".to_owned()),
    }
}
