//! Tasks: made with their addresses, moved only upwards.

use super::{Context, address::Allocation, service};
use crate::{
    Change, ManagerError, NewTask,
    command::GENERIC_RESOURCES,
    generic,
    state::{Address, PublishMode, Service, State, Task, TaskState, TaskStatus},
};
use mesh_api::generic_resource::GenericResources;

/// A node's report. Reports that would move a task backwards are old and skipped.
pub(super) fn report(state: &mut State, cx: &Context, id: &str, status: &TaskStatus) {
    let Some(old) = state.task(id) else { return };
    // Managers from before it was known do without it.
    let is_known = old.status
        == TaskStatus {
            healthy: old.status.healthy,
            ..status.clone()
        };
    if status.state < old.status.state || is_known {
        return;
    }
    if old.status.state.is_terminal() {
        return;
    }
    let mut task = old.clone();
    if status.state == TaskState::Running && task.running_since.is_none() {
        task.running_since = Some(cx.time);
    }
    task.status = status.clone();
    // Rejected by the constraint enforcer, which waited for its end. What a job's task has done is done.
    if task.has_lost_its_node()
        && !task.has_done_its_job()
        && task.status.state.is_terminal()
        && task.status.state < TaskState::Rejected
    {
        task.status.state = TaskState::Rejected;
        task.status.message = "task rejected by constraint enforcer".to_owned();
        task.status.error = "assigned node no longer meets constraints".to_owned();
    }
    cx.touch(&mut task.meta);
    state.put_task(task);
}

/// One change of a reconciler; skipped where the state has moved on.
pub(super) fn change(state: &mut State, cx: &mut Context, change: &Change) {
    match change {
        Change::CreateTask(new) => create(state, cx, new),
        Change::Assign { task_id, node_id } => {
            assign(state, cx, task_id, node_id);
        }
        Change::Explain { task_id, error } => modify(state, cx, task_id, |task| {
            let is_news = task.status.state == TaskState::Pending && task.status.error != *error;
            if is_news {
                task.status.error.clone_from(error);
            }
            is_news
        }),
        Change::Drain { task_id, then } => {
            let (index, time) = (cx.index, cx.time);
            modify(state, cx, task_id, |task| {
                let is_news = task.drained_at.is_none();
                if is_news {
                    task.drained_at = Some(index);
                    task.drained_time = Some(time);
                    task.drain_to = Some(*then);
                }
                is_news
            });
        }
        Change::Desire { task_id, desired } => desire(state, cx, task_id, *desired),
        Change::Start { task_id } => modify(state, cx, task_id, |task| {
            let waits = task.desired == TaskState::Ready;
            if waits {
                task.desired = TaskState::Running;
            }
            waits
        }),
        Change::SetStatus {
            task_id,
            state: to,
            error,
        } => {
            let time = cx.time;
            modify(state, cx, task_id, |task| {
                let rises = *to > task.status.state && !task.status.state.is_terminal();
                if rises {
                    task.status.state = *to;
                    task.status.timestamp = time;
                    task.status.error.clone_from(error);
                }
                rises
            });
        }
        Change::DeleteTask { task_id } => state.remove_task(task_id),
        Change::UpdateStatus {
            service_id,
            spec_version,
            state: to,
            message,
        } => {
            service::set_update_status(state, cx, service_id, *spec_version, *to, message);
        }
        Change::Rollback {
            service_id,
            spec_version,
            message,
        } => {
            service::roll_back(state, cx, service_id, *spec_version, message);
        }
    }
}

/// Runs `edit` on a copy of a task and stores it if `edit` says that it changed something.
fn modify(state: &mut State, cx: &Context, id: &str, edit: impl FnOnce(&mut Task) -> bool) {
    let Some(mut task) = state.task(id).cloned() else {
        return;
    };
    if edit(&mut task) {
        cx.touch(&mut task.meta);
        state.put_task(task);
    }
}

/// Puts a task on a node, and gives it what it reserves of the node's generic resources. Nothing happens where others have
/// taken those meanwhile: it is placed anew.
fn assign(state: &mut State, cx: &Context, id: &str, node_id: &str) {
    let (Some(task), Some(node)) = (state.task(id), state.node(node_id)) else {
        return;
    };
    if task.status.state != TaskState::Pending || !task.is_wanted() {
        return;
    }
    let given = match cx.rules >= GENERIC_RESOURCES {
        true => generic::give(state, node, task),
        false => Some(GenericResources::new()),
    };
    let Some(given) = given else {
        return;
    };
    modify(state, cx, id, |task| {
        task.node_id = Some(node_id.to_owned());
        task.generic_resources = given;
        task.status.state = TaskState::Assigned;
        task.status.message = "scheduler assigned task to node".to_owned();
        task.status.error.clear();
        true
    });
}

fn desire(state: &mut State, cx: &Context, id: &str, desired: TaskState) {
    let Some(task) = state.task(id) else { return };
    if desired <= task.desired {
        return;
    }
    // No node knows of it: nobody will ever report its end.
    let is_unknown = task.status.state < TaskState::Assigned;
    if is_unknown && desired == TaskState::Remove {
        state.remove_task(id);
        return;
    }
    let time = cx.time;
    modify(state, cx, id, |task| {
        task.desired = desired;
        if is_unknown && desired > TaskState::Running {
            task.status.state = TaskState::Shutdown;
            task.status.timestamp = time;
            task.status.message = "shutdown before it had a node".to_owned();
        }
        true
    });
}

fn create(state: &mut State, cx: &mut Context, new: &NewTask) {
    let spec = state.template(&new.service_id);
    let Some(service) = state.service(&new.service_id) else {
        return;
    };
    if new.job_iteration.is_some() && new.job_iteration != service.iteration() {
        return;
    }
    let mut allocation = Allocation::default();
    let attachments = attach(state, &mut allocation, service);
    let (attachments, status) = match attachments {
        Ok(attachments) => (
            attachments,
            status(TaskState::Pending, cx.time, "pending task scheduling", ""),
        ),
        Err(error) => {
            let text = error.message;
            (
                Vec::new(),
                status(TaskState::Rejected, cx.time, "allocation failed", &text),
            )
        }
    };
    let task = Task {
        id: cx.new_id(),
        meta: cx.meta(),
        service_id: service.id.clone(),
        service_name: service.name().to_owned(),
        service_labels: service
            .spec
            .labels
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        slot: new.slot,
        node_id: new.node_id.clone(),
        spec,
        spec_version: service.spec_version,
        job_iteration: service.iteration(),
        moved: new.slot != 0 && new.node_id.is_some(),
        host_ports: service
            .ports
            .iter()
            .filter(|p| p.mode == PublishMode::Host)
            .copied()
            .collect(),
        desired: new.desired,
        status,
        running_since: None,
        start_after: new.start_after,
        drained_at: None,
        drained_time: None,
        drain_to: None,
        attachments,
        generic_resources: GenericResources::new(),
        registry_auth: service.registry_auth.clone(),
    };
    allocation.commit(state);
    state.put_task(task);
}

fn status(state: TaskState, timestamp: i64, message: &str, error: &str) -> TaskStatus {
    TaskStatus {
        state,
        timestamp,
        message: message.to_owned(),
        error: error.to_owned(),
        ..TaskStatus::default()
    }
}

/// The addresses of a new task: one per network, one more where ports are published.
fn attach(
    state: &State,
    allocation: &mut Allocation,
    service: &Service,
) -> Result<Vec<Address>, ManagerError> {
    let ingress = service
        .has_ingress_ports()
        .then(|| state.ingress_network().map(|n| (n.id.clone(), Vec::new())))
        .flatten();
    let mut attachments = Vec::with_capacity(service.networks.len() + 1);
    for (network_id, aliases) in ingress.into_iter().chain(service.networks.iter().cloned()) {
        let address = allocation.next(state, &network_id)?;
        attachments.push(Address {
            network_id,
            address,
            aliases,
        });
    }
    Ok(attachments)
}
