//! What has to be true at every moment, and is looked at whenever a manager says or applies something.

use crate::{process, sim::Sim};
use bytes::Bytes;
use mesh_api::{engine::ServiceSpecUpdateConfigOrderEnum, proto::RaftMessage};
use mesh_manager::state::{NodeState, PublishMode, Service, State, TaskState};
use prost::Message;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hasher},
    net::Ipv4Addr,
    time::Duration,
};

/// gRPC's length before each message.
const PREFIX: usize = 5;
/// States are compared at every so many entries of the log.
const COMPARED: u64 = 16;
/// What was planned by a spec may come true so long after it was changed.
const PLANNED: Duration = Duration::from_secs(3);

/// A leader. Openraft orders leaders by term, and those of one term by node: one that is outranked commits nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Leader {
    term: u64,
    node_id: u64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct LogId {
    leader_id: Leader,
    index: u64,
}

#[derive(Debug, Deserialize)]
struct Vote {
    leader_id: Leader,
}

/// What there is to know of a message of a leader.
#[derive(Debug, Deserialize)]
struct Append {
    vote: Vote,
    leader_commit: Option<LogId>,
}

/// What was seen so far, of all managers.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// By index: the leader whose entry is committed there.
    committed: BTreeMap<u64, Leader>,
    leaders: BTreeSet<Leader>,
    /// By index: the digest of the state, and who had it first.
    states: HashMap<u64, (u64, usize)>,
}

/// What one manager said of its state so far, since it was started.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    index: u64,
    tasks: BTreeMap<String, (TaskState, TaskState)>,
    /// By service: its version, and since when it was seen. One that goes and comes again between two looks, of a manager that
    /// catches up, may have had another number of tasks meanwhile.
    versions: BTreeMap<String, (u64, Duration)>,
}

/// What identifies a state.
pub(crate) fn digest(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Maps in it are ordered, but for labels, of which there is one at most.
    let text = serde_json::to_vec(state).unwrap_or_default();
    hasher.write(&text);
    hasher.finish()
}

impl Checks {
    /// How many leaders there were.
    pub(crate) fn leaders(&self) -> usize {
        self.leaders.len()
    }

    /// A message between managers: nobody may commit something else where another entry is committed.
    pub(crate) fn message(&mut self, sim: &Sim, path: &str, body: &Bytes) {
        if !path.ends_with("/AppendEntries") {
            return;
        }
        let message = body.get(PREFIX..).map(RaftMessage::decode);
        let Some(Ok(message)) = message else {
            sim.violated(format_args!("a message of Raft is none"));
        };
        let Ok(append) = serde_json::from_slice::<Append>(&message.payload) else {
            sim.violated(format_args!("a message of Raft cannot be read"));
        };
        if self.leaders.insert(append.vote.leader_id) {
            sim.note(format_args!("leader {:?}", append.vote.leader_id));
        }
        let Some(LogId { leader_id, index }) = append.leader_commit else {
            return;
        };
        let known = *self.committed.entry(index).or_insert(leader_id);
        if known != leader_id {
            sim.violated(format_args!(
                "two entries are committed at {index}: {known:?} and {leader_id:?}"
            ));
        }
        let before = self.committed.range(..index).next_back();
        let after = self.committed.range(index + 1..).next();
        let is_ordered = before.is_none_or(|(_, leader)| *leader <= leader_id)
            && after.is_none_or(|(_, leader)| *leader >= leader_id);
        if !is_ordered {
            sim.violated(format_args!(
                "an entry of {leader_id:?} is committed at {index}, between {before:?} and {after:?}"
            ));
        }
    }

    /// A manager has applied something.
    pub(crate) fn state(&mut self, sim: &Sim, host: usize, state: &State, seen: &mut Seen) {
        let index = state.index();
        if index < seen.index {
            sim.violated(format_args!(
                "manager {host} went back from entry {} to {index}",
                seen.index
            ));
        }
        seen.index = index;
        if index.is_multiple_of(COMPARED) {
            self.compare(sim, host, state);
        }
        slots(sim, host, state, seen);
        tasks_rise(sim, host, state, seen);
        addresses(sim, host, state);
        ports(sim, host, state);
    }

    /// Managers that have applied as much have the same state.
    pub(crate) fn compare(&mut self, sim: &Sim, host: usize, state: &State) {
        let (index, own) = (state.index(), digest(state));
        let (known, other) = *self.states.entry(index).or_insert((own, host));
        if known != own {
            sim.violated(format_args!(
                "managers {other} and {host} differ after entry {index}"
            ));
        }
    }
}

/// Most tasks of a service that are wanted at the same time: an update that starts first has two in a slot for a while.
fn most(service: &Service) -> u64 {
    let config = service.spec.update_config.as_ref();
    let order = config.and_then(|config| config.order);
    match order {
        Some(ServiceSpecUpdateConfigOrderEnum::START_FIRST) => 2 * service.replicas(),
        _ => service.replicas(),
    }
}

/// Nobody makes more tasks than a service may have.
fn slots(sim: &Sim, host: usize, state: &State, seen: &mut Seen) {
    let now = process::elapsed();
    let is_new = seen.versions.is_empty();
    for service in state.services() {
        let version = service.meta.version;
        match seen.versions.get_mut(&service.id) {
            Some(known) if known.0 == version => {}
            Some(known) => *known = (version, now),
            None => drop(seen.versions.insert(service.id.clone(), (version, now))),
        }
    }
    let made = state
        .tasks()
        .filter(|task| !seen.tasks.contains_key(&task.id));
    let made: BTreeSet<&str> = made.map(|task| task.service_id.as_str()).collect();
    for service in made.iter().filter_map(|id| state.service(id)) {
        let Some((_, since)) = seen.versions.get(&service.id) else {
            continue;
        };
        if is_new || now < *since + PLANNED {
            continue;
        }
        let wanted = state
            .tasks_of_service(&service.id)
            .filter(|task| task.is_wanted() && !task.status.state.is_terminal());
        let (wanted, most) = (wanted.count() as u64, most(service));
        if wanted > most {
            sim.violated(format_args!(
                "manager {host}: service {} got another task, its {wanted}th; it may have {most}",
                service.name()
            ));
        }
    }
}

/// Whether nothing is left to be done: every service has its tasks, which run on nodes that are there, and no others.
pub(crate) fn is_settled(state: &State) -> Result<(), String> {
    for service in state.services() {
        let name = service.name();
        let mut running = 0;
        for task in state.tasks_of_service(&service.id) {
            if task.status.state.is_terminal() {
                continue;
            }
            let node = task.node_id.as_deref().and_then(|id| state.node(id));
            let is_there = node.is_some_and(|node| node.state == NodeState::Ready);
            if !task.is_wanted() || task.status.state != TaskState::Running || !is_there {
                return Err(format!(
                    "task {} of {name} is {}, to be {}, node there: {is_there}",
                    task.id, task.status.state, task.desired
                ));
            }
            running += 1;
        }
        if running != service.replicas() {
            let wanted = service.replicas();
            return Err(format!("{name} has {running} tasks of {wanted}"));
        }
    }
    let stray = state
        .tasks()
        .find(|task| state.service(&task.service_id).is_none() && !task.status.state.is_terminal());
    match stray {
        Some(task) => Err(format!("task {} has no service any more", task.id)),
        None => Ok(()),
    }
}

fn tasks_rise(sim: &Sim, host: usize, state: &State, seen: &mut Seen) {
    for task in state.tasks() {
        let now = (task.status.state, task.desired);
        let before = seen.tasks.get(&task.id).copied();
        if before == Some(now) {
            continue;
        }
        if before.is_some_and(|before| now.0 < before.0 || now.1 < before.1) {
            sim.violated(format_args!(
                "manager {host}: task {} went from {before:?} to {now:?} (state, desired)",
                task.id
            ));
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
            sim.violated(format_args!(
                "manager {host}: {} on network {} belongs to {other} and to {owner}",
                key.1, key.0
            ));
        }
        let network = state.network(key.0);
        if network.is_some_and(|n| n.gateway == key.1 || !n.subnet.contains(key.1)) {
            sim.violated(format_args!(
                "manager {host}: {owner} has {} on network {}, which is not for it",
                key.1, key.0
            ));
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
                sim.violated(format_args!(
                    "manager {host}: port {} belongs to {other} and to {}",
                    port.published, service.id
                ));
            }
        }
    }
    let mut on_nodes = BTreeMap::new();
    let placed = state.tasks().filter(|task| task.owns_addresses());
    for (task, node) in placed.filter_map(|task| Some((task, task.node_id.as_deref()?))) {
        for port in &task.host_ports {
            let other = on_nodes.insert((node, port.protocol, port.published), &task.id);
            if let Some(other) = other {
                sim.violated(format_args!(
                    "manager {host}: port {} of node {node} belongs to {other} and to {}",
                    port.published, task.id
                ));
            }
        }
    }
}
