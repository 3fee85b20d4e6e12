//! Nodes: joining, reporting, falling silent, leaving.

use super::{Context, check_version, cipher};
use crate::{
    AddNode, ManagerError, NodeReport, Outcome, Response,
    command::GENERIC_RESOURCES,
    state::{Meta, Node, NodeState, Protocol, Returns, State, TaskState, engine_role},
};
use mesh_api::engine;
use mesh_pki::Role;

/// The [rules](crate::command::RULES) from which on a node that joins again is known by its key.
const KNOWN_BY_KEY: u32 = 8;
/// Those from which on it is kept in mind when nodes came back.
const RETURNS: u32 = 10;

/// Refuses an address that tasks would take for one of their own.
fn check_address(state: &State, text: &str) -> Result<(), ManagerError> {
    let Ok(address) = text.parse() else {
        return Ok(());
    };
    match state.networks().find(|n| n.subnet.contains(address)) {
        Some(network) => Err(ManagerError::precondition(format!(
            "the node's address {address} is inside {} of network {}: choose another one with --advertise-addr or \
             --data-path-addr, or remove the network",
            network.subnet,
            network.name()
        ))),
        None => Ok(()),
    }
}

pub(super) fn add(state: &mut State, cx: &mut Context, add: &AddNode) -> Outcome {
    check_address(state, &add.data_path_address)?;
    let id = match cx.rules >= KNOWN_BY_KEY {
        true => state.join_as(&add.key, &add.id, add.role, cx.time),
        false => add.id.clone(),
    };
    let old = state.node(&id);
    state.put_node(Node {
        id: id.clone(),
        meta: Meta {
            created_at: old.map_or(cx.time, |n| n.meta.created_at),
            ..cx.meta()
        },
        spec: engine::NodeSpec {
            name: None,
            labels: Some(Default::default()),
            role: Some(engine_role(add.role)),
            availability: Some(add.availability),
        },
        role: add.role,
        demoted_at: None,
        description: NodeReport {
            hostname: add.hostname.clone(),
            ..NodeReport::default()
        },
        former_key: None,
        state: NodeState::Unknown,
        message: String::new(),
        state_since: cx.time,
        returns: Returns::default(),
        manager_addr: add.manager_addr.clone(),
    });
    Ok(Response::Created {
        id,
        warnings: Vec::new(),
    })
}

fn get(state: &State, id: &str) -> Result<Node, ManagerError> {
    state
        .node(id)
        .cloned()
        .ok_or_else(|| ManagerError::not_found("node", id))
}

pub(super) fn manager_at(state: &mut State, cx: &Context, id: &str, address: &str) -> Outcome {
    let mut node = get(state, id)?;
    if node.role != Role::Manager || node.desired_role() != Role::Manager {
        return Err(ManagerError::precondition(format!("node {id} is a worker")));
    }
    if node.manager_addr.as_deref() == Some(address) {
        return Ok(Response::Done);
    }
    check_manager_address(state, address)?;
    node.manager_addr = Some(address.to_owned());
    cx.touch(&mut node.meta);
    state.put_node(node);
    Ok(Response::Done)
}

/// Whether a manager can be reached there, "address:port": neither is a network's or a service's.
///
/// # Errors
/// Whose it is.
pub(super) fn check_manager_address(state: &State, address: &str) -> Result<(), ManagerError> {
    let (host, number) = address.rsplit_once(':').unwrap_or((address, ""));
    check_address(state, host)?;
    let number = number.parse().unwrap_or_default();
    let owner = state
        .indexes()
        .ingress_port_owner(Protocol::Tcp, number)
        .and_then(|id| state.service(id));
    if let Some(service) = owner {
        return Err(ManagerError::precondition(format!(
            "service {} publishes port {number}, which the new manager would be reached on: choose another one with \
             --listen-addr and --advertise-addr",
            service.name()
        )));
    }
    Ok(())
}

pub(super) fn up(state: &mut State, cx: &Context, id: &str, report: &NodeReport) -> Outcome {
    let mut node = get(state, id)?;
    check_address(state, &report.data_path_address)?;
    if node.state == NodeState::Down && cx.rules >= RETURNS {
        node.returns.note(cx.time);
    }
    if node.state != NodeState::Ready {
        node.state = NodeState::Ready;
        node.state_since = cx.time;
    }
    node.message.clear();
    let mtu = match report.mtu {
        0 => node.description.mtu,
        mtu => mtu,
    };
    let mut described = NodeReport {
        mtu,
        ..report.clone()
    };
    if cx.rules < GENERIC_RESOURCES {
        described.generic_resources.clear();
    }
    cipher::take(state, cx, &mut node, described);
    cx.touch(&mut node.meta);
    state.put_node(node);
    cipher::forget(state, cx, id, &report.data_path_address);
    Ok(Response::Done)
}

pub(super) fn down(state: &mut State, cx: &Context, id: &str, message: &str) -> Outcome {
    let mut node = get(state, id)?;
    if node.state != NodeState::Down {
        node.state = NodeState::Down;
        node.state_since = cx.time;
        message.clone_into(&mut node.message);
        cx.touch(&mut node.meta);
        state.put_node(node);
    }
    Ok(Response::Done)
}

pub(super) fn update(
    state: &mut State,
    cx: &Context,
    key: &str,
    version: u64,
    spec: &engine::NodeSpec,
) -> Outcome {
    let mut node = state.find_node(key)?.clone();
    check_version(&node.meta, version)?;
    let old = node.desired_role();
    let wanted = match spec.role {
        Some(engine::NodeSpecRoleEnum::WORKER) => Role::Worker,
        Some(engine::NodeSpecRoleEnum::MANAGER) => Role::Manager,
        None | Some(engine::NodeSpecRoleEnum::EMPTY) => old,
    };
    if (old, wanted) == (Role::Manager, Role::Worker) {
        let managers = state
            .nodes()
            .filter(|n| n.desired_role() == Role::Manager)
            .count();
        if managers <= 1 {
            return Err(ManagerError::precondition(
                "attempting to demote the last manager of the swarm",
            ));
        }
        node.demoted_at = Some(cx.time);
    }
    node.spec = engine::NodeSpec {
        role: Some(engine_role(wanted)),
        ..spec.clone()
    };
    cx.touch(&mut node.meta);
    state.put_node(node);
    Ok(Response::Updated { version: cx.index })
}

/// Gives a node the role that it is to have, now that the group of managers agrees with it.
pub(super) fn set_role(state: &mut State, cx: &Context, id: &str, role: Role) -> Outcome {
    let mut node = get(state, id)?;
    // The user may have changed their mind since.
    if node.role != role && node.desired_role() == role {
        node.role = role;
        if role == Role::Worker {
            node.manager_addr = None;
        }
        cx.touch(&mut node.meta);
        state.put_node(node);
    }
    Ok(Response::Done)
}

pub(super) fn remove(state: &mut State, cx: &Context, key: &str, force: bool) -> Outcome {
    let node = state.find_node(key)?;
    if node.role == Role::Manager || node.desired_role() == Role::Manager {
        return Err(ManagerError::precondition(format!(
            "node {} is a cluster manager and is a member of the raft cluster. It must be demoted \
             to worker before removal",
            node.id
        )));
    }
    if node.state != NodeState::Down && !force {
        return Err(ManagerError::precondition(format!(
            "node {} is not down and can't be removed",
            node.id
        )));
    }
    let (id, was_manager) = (node.id.clone(), node.demoted_at.is_some());
    if was_manager {
        state.removed_managers.insert(id.clone());
    }
    // Nobody will report on its tasks any more.
    let tasks: Vec<_> = state.tasks_of_node(&id).cloned().collect();
    for mut task in tasks {
        if !task.status.state.is_terminal() {
            task.status.state = TaskState::Orphaned;
            task.status.timestamp = cx.time;
            task.status.message = "node was removed".to_owned();
            cx.touch(&mut task.meta);
            state.put_task(task);
        }
    }
    state.remove_node(&id);
    Ok(Response::Removed)
}
