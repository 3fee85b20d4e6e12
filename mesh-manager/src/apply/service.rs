//! Services: create, update, roll back, remove, with their ports and virtual addresses.

use super::{Context, address::Allocation, check_version, handout, port, validate};
use crate::{
    ErrorKind, ManagerError, Outcome, Response,
    state::{
        Address, JobStatus, Port, PublishMode, Service, ServiceMode, State, Task, TaskState,
        UpdateStatus,
    },
};
use mesh_api::engine;
use std::{collections::HashMap, sync::Arc};

/// The [rules](crate::command::RULES) from which on tasks that are as a new spec asks for stay.
const ALIKE_STAY: u32 = 12;

/// Name, and id, of the network that is each node's own.
pub(super) const HOST_NETWORK: &str = "host";

/// Networks of a spec, resolved: id and aliases.
type Networks = Vec<(String, Vec<String>)>;

pub(super) fn create(
    state: &mut State,
    cx: &mut Context,
    spec: &engine::ServiceSpec,
    registry_auth: &str,
) -> Outcome {
    validate::service(spec, cx.rules)?;
    let name = spec.name.as_deref().unwrap_or_default();
    if state.indexes().service_by_name(name).is_some() {
        return Err(ManagerError::name_conflict("service", name));
    }
    handout::check(state, spec)?;
    let id = cx.new_id();
    let networks = resolve_networks(state, spec)?;
    let (ports, next_port) = port::settle(state, &id, None, spec)?;
    let mut service = Service {
        id: id.clone(),
        meta: cx.meta(),
        spec: spec.clone(),
        previous_spec: None,
        spec_version: cx.index,
        ports,
        vips: Vec::new(),
        networks,
        update: None,
        job: ServiceMode::of(spec).is_job().then_some(JobStatus {
            iteration: 0,
            last_execution: cx.time,
        }),
        registry_auth: registry_auth.to_owned(),
    };
    let mut allocation = Allocation::default();
    service.vips = virtual_addresses(state, &mut allocation, &service)?;
    allocation.commit(state);
    state.next_port = next_port;
    state.put_service(service);
    Ok(Response::Created {
        id,
        warnings: Vec::new(),
    })
}

/// The parts of an update request besides the service's name.
pub(super) struct Update<'a> {
    pub(super) version: u64,
    pub(super) spec: &'a engine::ServiceSpec,
    pub(super) registry_auth: &'a Option<String>,
    pub(super) rollback: bool,
}

pub(super) fn update(
    state: &mut State,
    cx: &mut Context,
    key: &str,
    request: &Update<'_>,
) -> Outcome {
    let service = state.find_service(key)?.clone();
    check_version(&service.meta, request.version)?;
    let spec = if request.rollback {
        service.previous_spec.as_deref().cloned().ok_or_else(|| {
            ManagerError::precondition(format!(
                "service {} does not have a previous spec",
                service.name()
            ))
        })?
    } else {
        request.spec.clone()
    };
    let status = if request.rollback {
        (
            engine::ServiceUpdateStatusStateEnum::ROLLBACK_STARTED,
            "manually requested rollback",
        )
    } else {
        (
            engine::ServiceUpdateStatusStateEnum::UPDATING,
            "update in progress",
        )
    };
    let mut next = service;
    if let Some(auth) = request.registry_auth {
        next.registry_auth.clone_from(auth);
    }
    replace_spec(state, cx, next, spec, status)?;
    Ok(Response::Updated { version: cx.index })
}

/// Puts a new spec into a service and begins a rolling update where tasks are out of date, or executes a job again.
pub(super) fn replace_spec(
    state: &mut State,
    cx: &mut Context,
    old: Service,
    spec: engine::ServiceSpec,
    (update_state, message): (engine::ServiceUpdateStatusStateEnum, &str),
) -> Result<(), ManagerError> {
    validate::service(&spec, cx.rules)?;
    if spec.name.as_deref() != Some(old.name()) {
        return Err(ManagerError::new(
            ErrorKind::Unimplemented,
            "rpc error: code = Unimplemented desc = renaming services is not supported",
        ));
    }
    if ServiceMode::of(&spec) != old.mode() {
        return Err(ManagerError::new(
            ErrorKind::Unimplemented,
            "rpc error: code = Unimplemented desc = service mode change is not allowed",
        ));
    }
    handout::check(state, &spec)?;
    let networks = resolve_networks(state, &spec)?;
    let (ports, next_port) = port::settle(state, &old.id, Some(&old), &spec)?;
    let mut service = old.clone();
    service.spec = spec;
    service.networks = networks;
    service.ports = ports;
    let mut allocation = Allocation::default();
    service.vips = virtual_addresses(state, &mut allocation, &service)?;
    if let Some(job) = &mut service.job {
        // Whatever was changed, it is executed again; what it did before is not taken back.
        job.iteration += 1;
        job.last_execution = cx.time;
        service.spec_version = cx.index;
    } else if makes_tasks_outdated(&old, &service, cx.rules) {
        service.spec_version = cx.index;
        let has_tasks = state.tasks_of_service(&old.id).any(|t| t.is_wanted());
        service.update = has_tasks.then(|| UpdateStatus {
            state: update_state,
            started_at: cx.time,
            completed_at: None,
            message: message.to_owned(),
        });
    } else if let Some(before) = service.update.take() {
        service.update = after_change(before, cx.time);
    }
    if service.spec != old.spec {
        service.previous_spec = Some(Box::new(old.spec));
    }
    cx.touch(&mut service.meta);
    allocation.commit(state);
    state.next_port = next_port;
    if cx.rules >= ALIKE_STAY && service.job.is_none() {
        keep_alike(state, cx, &service);
    }
    state.put_service(service);
    Ok(())
}

/// Tasks that run, as the service's new ones would, are of its version from now on: they stay. So the rollback of an update that
/// was half done replaces those that it had got to. Those that do not run may never do so, and an update waits for those of
/// its version: they take their turn, after those that run and are out of date.
fn keep_alike(state: &mut State, cx: &Context, service: &Service) {
    let template = service.spec.task_template.as_ref().map(essence);
    let template = template.unwrap_or_default();
    // Tasks share what they were made of: each is compared once.
    let mut compared: HashMap<*const engine::TaskSpec, bool> = HashMap::new();
    let mut alike = Vec::new();
    for task in state.tasks_of_service(&service.id) {
        let runs = task.status.state == TaskState::Running && !task.status.unhealthy;
        let is_dirty = task.spec_version != service.spec_version;
        let may_stay = task.is_wanted() && runs && is_dirty;
        if !may_stay || !is_attached_alike(state, service, task) {
            continue;
        }
        let known = compared.entry(Arc::as_ptr(&task.spec));
        if *known.or_insert_with(|| essence(&task.spec) == template) {
            alike.push(task.clone());
        }
    }
    for mut task in alike {
        task.spec_version = service.spec_version;
        cx.touch(&mut task.meta);
        state.put_task(task);
    }
}

/// Whether a task has the networks and the ports that one would have that is made of the service now.
fn is_attached_alike(state: &State, service: &Service, task: &Task) -> bool {
    let ingress = service.has_ingress_ports();
    let ingress = ingress.then(|| state.ingress_network()).flatten();
    let ingress = ingress.map(|network| (&network.id, &[][..]));
    let networks = service.networks.iter();
    let networks = networks.map(|(id, aliases)| (id, aliases.as_slice()));
    let attachments = task.attachments.iter();
    let attachments = attachments.map(|at| (&at.network_id, at.aliases.as_slice()));
    attachments.eq(ingress.into_iter().chain(networks))
        && host_ports(service).eq(task.host_ports.iter().copied())
        && is_on_host(&task.spec) == service.spec.task_template.as_ref().is_some_and(is_on_host)
}

/// Whether tasks of a template are on the network of their node, which is none of the cluster's.
fn is_on_host(template: &engine::TaskSpec) -> bool {
    let mut networks = template.networks.iter().flatten();
    networks.any(|network| network.target.as_deref() == Some(HOST_NETWORK))
}

/// What of a template makes tasks be out of date where it differs.
fn essence(template: &engine::TaskSpec) -> engine::TaskSpec {
    engine::TaskSpec {
        placement: None,
        networks: None,
        ..template.clone()
    }
}

fn host_ports(service: &Service) -> impl Iterator<Item = Port> {
    let ports = service.ports.iter();
    ports.filter(|p| p.mode == PublishMode::Host).copied()
}

/// The state of a rolling update after a change that outdates no task, say of the number of replicas: an update goes
/// on, a rollback goes on as an update to what was asked for last, what was paused is tried again, what ended is over.
fn after_change(before: UpdateStatus, time: i64) -> Option<UpdateStatus> {
    use engine::ServiceUpdateStatusStateEnum as Update;
    match before.state {
        Update::UPDATING => Some(before),
        Update::ROLLBACK_STARTED | Update::PAUSED | Update::ROLLBACK_PAUSED => Some(UpdateStatus {
            state: Update::UPDATING,
            started_at: time,
            completed_at: None,
            message: "update in progress".to_owned(),
        }),
        _ => None,
    }
}

/// Whether tasks made from the old spec have to be replaced. Placement does not count: tasks that no longer
/// fit are the orchestrator's.
fn makes_tasks_outdated(old: &Service, new: &Service, rules: u32) -> bool {
    let template = |s: &Service| s.spec.task_template.as_ref().map(essence);
    let on_host = |s: &Service| s.spec.task_template.as_ref().is_some_and(is_on_host);
    if rules >= ALIKE_STAY && on_host(old) != on_host(new) {
        return true;
    }
    template(old).unwrap_or_default() != template(new).unwrap_or_default()
        || old.networks != new.networks
        || !host_ports(old).eq(host_ports(new))
        || old.has_ingress_ports() != new.has_ingress_ports()
}

pub(super) fn remove(state: &mut State, key: &str) -> Outcome {
    let id = state.find_service(key)?.id.clone();
    state.remove_service(&id);
    Ok(Response::Removed)
}

fn resolve_networks(state: &State, spec: &engine::ServiceSpec) -> Result<Networks, ManagerError> {
    let of_template = spec
        .task_template
        .as_ref()
        .and_then(|t| t.networks.as_deref());
    // The place where old clients put them.
    let of_service = spec.networks.as_deref().unwrap_or_default();
    let wanted = of_template.filter(|n| !n.is_empty()).unwrap_or(of_service);
    let mut networks = Networks::with_capacity(wanted.len());
    if wanted
        .iter()
        .any(|n| n.target.as_deref() == Some(HOST_NETWORK))
    {
        return on_host_network(spec, wanted.len());
    }
    for attachment in wanted {
        let target = attachment.target.as_deref().unwrap_or_default();
        let network = state.find_network(target)?;
        if network.ingress {
            return Err(ManagerError::invalid(format!(
                "Service cannot be explicitly attached to the ingress network \"{target}\""
            )));
        }
        if networks.iter().any(|(id, _)| *id == network.id) {
            return Err(ManagerError::invalid(format!(
                "network {target} is given more than once"
            )));
        }
        networks.push((
            network.id.clone(),
            attachment.aliases.clone().unwrap_or_default(),
        ));
    }
    Ok(networks)
}

/// The networks of a service on its nodes' own: none of the cluster's.
fn on_host_network(spec: &engine::ServiceSpec, wanted: usize) -> Result<Networks, ManagerError> {
    if wanted > 1 {
        return Err(ManagerError::invalid(
            "a service on the host network cannot be on other networks as well",
        ));
    }
    let ports = spec.endpoint_spec.as_ref().and_then(|e| e.ports.as_ref());
    if ports.is_some_and(|ports| !ports.is_empty()) {
        return Err(ManagerError::invalid(
            "a service on the host network cannot publish ports: it listens on those of its nodes",
        ));
    }
    Ok(Networks::new())
}

/// The service's VIPs: those it has stay, new ones are given out.
fn virtual_addresses(
    state: &State,
    allocation: &mut Allocation,
    service: &Service,
) -> Result<Vec<Address>, ManagerError> {
    if service.is_dnsrr() {
        return Ok(Vec::new());
    }
    let ingress = service
        .has_ingress_ports()
        .then(|| state.ingress_network().map(|n| (n.id.clone(), Vec::new())))
        .flatten();
    let mut vips = Vec::with_capacity(service.networks.len() + 1);
    for (network_id, aliases) in ingress.into_iter().chain(service.networks.iter().cloned()) {
        let kept = service.vips.iter().find(|v| v.network_id == network_id);
        let address = match kept {
            Some(vip) => vip.address,
            None => allocation.next(state, &network_id)?,
        };
        vips.push(Address {
            network_id,
            address,
            aliases,
        });
    }
    Ok(vips)
}

/// Sets the state of a rolling update, unless the spec has changed since.
pub(super) fn set_update_status(
    state: &mut State,
    cx: &Context,
    service_id: &str,
    spec_version: u64,
    update_state: engine::ServiceUpdateStatusStateEnum,
    message: &str,
) {
    use engine::ServiceUpdateStatusStateEnum as Update;
    let Some(mut service) = state.service(service_id).cloned() else {
        return;
    };
    if service.spec_version != spec_version {
        return;
    }
    let Some(update) = &mut service.update else {
        return;
    };
    update.state = update_state;
    message.clone_into(&mut update.message);
    if matches!(update_state, Update::COMPLETED | Update::ROLLBACK_COMPLETED) {
        update.completed_at = Some(cx.time);
    }
    cx.touch(&mut service.meta);
    state.put_service(service);
}

/// Puts the previous spec back after a failed update.
pub(super) fn roll_back(
    state: &mut State,
    cx: &mut Context,
    service_id: &str,
    spec_version: u64,
    message: &str,
) {
    let Some(service) = state.service(service_id).cloned() else {
        return;
    };
    let Some(previous) = service.previous_spec.as_deref().cloned() else {
        return;
    };
    if service.spec_version != spec_version {
        return;
    }
    let started = (
        engine::ServiceUpdateStatusStateEnum::ROLLBACK_STARTED,
        message,
    );
    if let Err(error) = replace_spec(state, cx, service, previous, started) {
        // The old spec may clash with what was made since, say a port: stay where we are.
        let text = format!("rollback is not possible: {error}");
        let paused = engine::ServiceUpdateStatusStateEnum::PAUSED;
        set_update_status(state, cx, service_id, spec_version, paused, &text);
    } else if let Some(mut service) = state.service(service_id).cloned() {
        // The way back from here would be the spec that just failed.
        service.previous_spec = None;
        state.put_service(service);
    }
}
