//! What has to be true of the state of each manager, whenever it has applied something.

use crate::{process, sim::Sim, violation::Violation};
use mesh_api::{
    engine::{NodeSpecAvailabilityEnum as Availability, ServiceSpecUpdateConfigOrderEnum},
    generic_resource::Amount,
};
use mesh_manager::state::{NodeState, PublishMode, Service, ServiceMode, State, Task, TaskState};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

/// What was planned by a spec may come true so long after it was changed.
const PLANNED: Duration = Duration::from_secs(3);

/// What one manager said of its state so far, since it was started.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    index: u64,
    tasks: BTreeMap<String, (TaskState, TaskState)>,
    /// By service: its version, and since when it was seen. One that goes and comes again between two looks, of a manager that
    /// catches up, may have had another number of tasks meanwhile.
    versions: BTreeMap<String, (u64, Duration)>,
    /// The same of nodes.
    nodes: BTreeMap<String, (u64, Duration)>,
}

impl Seen {
    /// The index of the last state.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }
}

/// Keeps in mind since when an object has this version.
fn note(seen: &mut BTreeMap<String, (u64, Duration)>, id: &str, version: u64) {
    let now = process::elapsed();
    match seen.get_mut(id) {
        Some(known) if known.0 == version => {}
        Some(known) => *known = (version, now),
        None => drop(seen.insert(id.to_owned(), (version, now))),
    }
}

/// Looks at what manager `host` has applied.
pub(crate) fn check(sim: &Sim, host: usize, state: &State, seen: &mut Seen) {
    let index = state.index();
    if index < seen.index {
        sim.violated(
            Violation::WentBack,
            format_args!(
                "manager {host} went back from entry {} to {index}",
                seen.index
            ),
        );
    }
    seen.index = index;
    slots(sim, host, state, seen);
    placed(sim, host, state, seen);
    tasks_rise(sim, host, state, seen);
    addresses(sim, host, state);
    ports(sim, host, state);
    resources(sim, host, state);
}

/// Most tasks of this many replicas that are wanted at the same time: an update that starts first has two of each replica
/// that it replaces at the moment.
fn at_most(service: &Service, replicas: u64) -> u64 {
    let config = service.spec.update_config.as_ref();
    let parallelism = config.and_then(|config| u64::try_from(config.parallelism?).ok());
    let replaced = match (config.and_then(|config| config.order), parallelism) {
        (Some(ServiceSpecUpdateConfigOrderEnum::START_FIRST), Some(0)) => replicas,
        (Some(ServiceSpecUpdateConfigOrderEnum::START_FIRST), at_a_time) => {
            at_a_time.unwrap_or(1).min(replicas)
        }
        _ => 0,
    };
    replicas + replaced
}

/// Whether these are no more tasks than a service may have at the same time.
fn excess(service: &Service, tasks: &[&Task]) -> Option<String> {
    let count = tasks.len() as u64;
    let too_many = |most: u64, what: &str| {
        (count > most).then(|| format!("has {count} tasks {what}; it may have {most}"))
    };
    match service.mode() {
        ServiceMode::Replicated => too_many(at_most(service, service.replicas()), "in all"),
        ServiceMode::ReplicatedJob => {
            let slots = 1..=service.completions();
            let beyond = tasks.iter().find(|task| !slots.contains(&task.slot));
            let beyond = beyond.map(|t| format!("has a task in slot {} of {slots:?}", t.slot));
            beyond.or_else(|| too_many(service.max_concurrent(), "at a time"))
        }
        ServiceMode::Global | ServiceMode::GlobalJob => {
            let mut per_node: BTreeMap<&str, u64> = BTreeMap::new();
            for node in tasks.iter().filter_map(|task| task.node_id.as_deref()) {
                *per_node.entry(node).or_default() += 1;
            }
            let most = at_most(service, 1);
            let full = per_node.into_iter().find(|(_, count)| *count > most);
            full.map(|(node, count)| format!("has {count} tasks on node {node}"))
        }
    }
}

/// Nobody makes more tasks than a service may have.
fn slots(sim: &Sim, host: usize, state: &State, seen: &mut Seen) {
    let now = process::elapsed();
    let is_new = seen.versions.is_empty();
    for service in state.services() {
        note(&mut seen.versions, &service.id, service.meta.version);
    }
    let made = state
        .tasks()
        .filter(|task| !seen.tasks.contains_key(&task.id));
    let made: BTreeSet<&str> = made.map(|task| task.service_id.as_str()).collect();
    for service in made.iter().filter_map(|id| state.service(id)) {
        let since = seen.versions.get(&service.id).map(|(_, since)| *since);
        let is_fresh = is_new || since.is_none_or(|since| now < since + PLANNED);
        // What was planned for a job before it was changed comes to nothing.
        if is_fresh && !service.mode().is_job() {
            continue;
        }
        let wanted = state.tasks_of_service(&service.id).filter(|task| {
            let is_current = task.job_iteration == service.iteration();
            is_current && task.is_wanted() && !task.status.state.is_terminal()
        });
        let wanted: Vec<&Task> = wanted.collect();
        if let Some(excess) = excess(service, &wanted) {
            sim.violated(
                Violation::SurplusTask,
                format_args!(
                    "manager {host}: service {} got another task, and {excess}",
                    service.name()
                ),
            );
        }
    }
}

/// Nobody gives a task to a node that takes none.
fn placed(sim: &Sim, host: usize, state: &State, seen: &mut Seen) {
    for node in state.nodes() {
        note(&mut seen.nodes, &node.id, node.meta.version);
    }
    let closed = state.nodes().filter(|node| {
        let is_open = node.state == NodeState::Ready && node.availability() == Availability::ACTIVE;
        let since = seen.nodes.get(&node.id).map(|(_, since)| *since);
        !is_open && since.is_some_and(|since| process::elapsed() >= since + PLANNED)
    });
    for node in closed {
        let new = state.tasks_of_node(&node.id).find(|task| {
            let had = seen.tasks.get(&task.id).map(|(had, _)| *had);
            let now = task.status.state;
            had.is_none_or(|had| had < TaskState::Assigned)
                && now >= TaskState::Assigned
                && !now.is_terminal()
        });
        if let Some(task) = new {
            sim.violated(
                Violation::ClosedNode,
                format_args!(
                    "manager {host}: node {}, which is {:?} and {:?}, got task {}",
                    node.id,
                    node.state,
                    node.availability(),
                    task.id
                ),
            );
        }
    }
}

/// States of tasks, had and desired, only rise, and what has ended stays as it ended.
fn tasks_rise(sim: &Sim, host: usize, state: &State, seen: &mut Seen) {
    for task in state.tasks() {
        let now = (task.status.state, task.desired);
        let before = seen.tasks.get(&task.id).copied();
        if before == Some(now) {
            continue;
        }
        let falls = |before: (TaskState, TaskState)| {
            let has_ended = before.0.is_terminal() && now.0 != before.0;
            has_ended || now.0 < before.0 || now.1 < before.1
        };
        if before.is_some_and(falls) {
            sim.violated(
                Violation::FellBack,
                format_args!(
                    "manager {host}: task {} went from {before:?} to {now:?} (state, desired)",
                    task.id
                ),
            );
        }
        seen.tasks.insert(task.id.clone(), now);
    }
}

/// No address is owned twice.
fn addresses(sim: &Sim, host: usize, state: &State) {
    let mut owners: BTreeMap<(&str, Ipv4Addr), &str> = BTreeMap::new();
    let of_tasks = state
        .tasks()
        .filter(|task| task.owns_addresses())
        .flat_map(|task| task.attachments.iter().map(|a| (a, task.id.as_str())));
    let of_services = state
        .services()
        .flat_map(|service| service.vips.iter().map(|a| (a, service.id.as_str())));
    for (address, owner) in of_tasks.chain(of_services) {
        let key = (address.network_id.as_str(), address.address);
        if let Some(other) = owners.insert(key, owner) {
            sim.violated(
                Violation::SharedAddress,
                format_args!(
                    "manager {host}: {} on network {} belongs to {other} and to {owner}",
                    key.1, key.0
                ),
            );
        }
        let network = state.network(key.0);
        if network.is_some_and(|n| n.gateway == key.1 || !n.subnet.contains(key.1)) {
            sim.violated(
                Violation::SharedAddress,
                format_args!(
                    "manager {host}: {owner} has {} on network {}, which is not for it",
                    key.1, key.0
                ),
            );
        }
    }
}

/// No port is published twice, neither on all nodes nor on one.
fn ports(sim: &Sim, host: usize, state: &State) {
    let mut everywhere = BTreeMap::new();
    for service in state.services() {
        let ports = service.ports.iter();
        for port in ports.filter(|port| port.mode == PublishMode::Ingress) {
            let other = everywhere.insert((port.protocol, port.published), &service.id);
            if let Some(other) = other {
                sim.violated(
                    Violation::SharedPort,
                    format_args!(
                        "manager {host}: port {} belongs to {other} and to {}",
                        port.published, service.id
                    ),
                );
            }
        }
    }
    let mut on_nodes = BTreeMap::new();
    // What is on its way out makes room, on paper, for what is to take its place.
    let placed = state.tasks().filter(|task| {
        let now = task.status.state;
        task.is_wanted() && now >= TaskState::Assigned && !now.is_terminal()
    });
    for (task, node) in placed.filter_map(|task| Some((task, task.node_id.as_deref()?))) {
        for port in &task.host_ports {
            let other = on_nodes.insert((node, port.protocol, port.published), &task.id);
            if let Some(other) = other {
                sim.violated(
                    Violation::SharedPort,
                    format_args!(
                        "manager {host}: port {} of node {node} belongs to {other} and to {}",
                        port.published, task.id
                    ),
                );
            }
        }
    }
}

/// No generic resource is held twice, and none that its node does not have.
fn resources(sim: &Sim, host: usize, state: &State) {
    for node in state.nodes() {
        let has = &node.description.generic_resources;
        let mut left = has.clone();
        let holders = state.tasks_of_node(&node.id);
        for task in holders.filter(|task| task.holds_resources()) {
            for (kind, held) in &task.generic_resources {
                let is_there = match (left.get_mut(kind), held) {
                    (Some(Amount::Named(left)), Amount::Named(held)) => {
                        held.iter().all(|name| left.remove(name))
                    }
                    (Some(Amount::Discrete(left)), Amount::Discrete(held)) => {
                        let rest = left.checked_sub(*held);
                        *left = rest.unwrap_or(0);
                        rest.is_some()
                    }
                    _ => false,
                };
                if !is_there {
                    sim.violated(
                        Violation::SharedResource,
                        format_args!(
                            "manager {host}: task {} on node {} holds {held:?} of {kind}, which is not there or another's: \
                             the node has {has:?}",
                            task.id, node.id
                        ),
                    );
                }
            }
        }
    }
}
