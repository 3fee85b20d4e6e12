//! What is there when a pass begins, and what follows from it for each task. Reads only.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use mesh_api::{
    handout::{Kind, references},
    proto,
};
use mesh_runtime::{ContainerInfo, ContainerState};

use super::{
    jobs,
    plan::{Container, Net},
    record::Record,
    state::TaskState,
};
use crate::{
    assignment::{Assignment, Handout},
    config::Config,
    desired::{LinkFacts, subnet_v6},
    links::{
        host::{HostView, Interface},
        netns,
        plan::{self, LinkKind, TaskLink, VXLAN_OVERHEAD},
        sysctl,
    },
};

/// MTU of a node whose uplink is not found: Ethernet's.
pub(crate) const DEFAULT_MTU: u32 = 1500;

/// What is there when a pass begins.
#[derive(Debug)]
pub(crate) struct Observed {
    /// The node's namespace.
    pub(crate) host: HostView,
    /// Containers by task id.
    pub(crate) containers: BTreeMap<String, ContainerInfo>,
}

impl Observed {
    /// A task's container.
    pub(crate) fn container(&self, id: &str) -> Container {
        let Some(info) = self.containers.get(id) else {
            return Container::None;
        };
        match (info.state, &info.exit) {
            (ContainerState::Created, _) => Container::Created,
            (ContainerState::Running, _) => Container::Running,
            (ContainerState::Exited, Some(exit)) => Container::Exited {
                code: exit.code,
                oom: exit.oom_killed,
                error: exit.error.clone(),
            },
            (ContainerState::Exited, None) => Container::Exited {
                code: 255,
                oom: false,
                error: Some("the exit status is lost".to_owned()),
            },
        }
    }
}

/// The links a task shall have; `None` while a network is unknown.
pub(crate) fn links_of(
    instance: &str,
    assignment: &Assignment,
    record: &Record,
) -> Option<Vec<TaskLink>> {
    plan::task_links(
        instance,
        &record.task,
        |id| assignment.networks.get(id),
        Some(record.local_address()),
        ingress_v6(assignment),
    )
}

/// The first address of the ingress network's IPv6 subnet.
pub(crate) fn ingress_v6(assignment: &Assignment) -> Option<Ipv6Addr> {
    let mut networks = assignment.networks.values();
    let (first, _) = subnet_v6(networks.find(|network| network.ingress)?)?;
    Some(first)
}

/// Names that a task's host ends may have.
pub(crate) fn host_names(instance: &str, task: &proto::Task) -> Vec<String> {
    (0..=task.attachments.len())
        .map(|index| plan::host_name(instance, &task.id, index))
        .collect()
}

/// Whether all is known that a task is handed, as far as that matters now.
pub(crate) fn is_handed(assignment: &Assignment, record: &Record) -> bool {
    record.state() > TaskState::Preparing || handouts(assignment, &record.task).is_some()
}

/// The secrets and configs of a task; `None` while one of them is not known.
pub(crate) fn handouts(
    assignment: &Assignment,
    task: &proto::Task,
) -> Option<BTreeMap<(Kind, String), Arc<Handout>>> {
    let spec = jobs::spec_of(task).unwrap_or_default();
    let container = spec.container_spec.unwrap_or_default();
    let claims = references(&container);
    claims
        .map(|claim| {
            let handout = assignment.handout(claim.kind, claim.id)?;
            Some(((claim.kind, claim.id.to_owned()), Arc::clone(handout)))
        })
        .collect()
}

/// Whether the task is asked to use the host's own network.
pub(crate) fn uses_host_network(task: &proto::Task) -> bool {
    jobs::spec_of(task).is_ok_and(|spec| {
        spec.networks
            .iter()
            .flatten()
            .any(|network| network.target.as_deref() == Some("host"))
    })
}

/// The state of a task's namespace and links. `configured` tells whether this process has set up
/// the inside, which cannot be seen from here.
pub(crate) fn net_of(
    config: &Config,
    instance: &str,
    assignment: &Assignment,
    observed: &Observed,
    record: &Record,
    configured: bool,
) -> Net {
    if uses_host_network(&record.task) {
        return Net::Host;
    }
    let namespace = netns::exists(&config.netns_path(&record.task.id));
    let interfaces = &observed.host.interfaces;
    if record.state().is_over() {
        let any = host_names(instance, &record.task)
            .iter()
            .any(|n| interfaces.contains_key(n));
        return if namespace || any {
            Net::Partial
        } else {
            Net::Absent
        };
    }
    let Some(links) = links_of(instance, assignment, record) else {
        return Net::Unknown;
    };
    if !namespace {
        return Net::Absent;
    }
    let there = |link: &TaskLink| {
        interfaces.get(&link.host_name).is_some_and(|interface| {
            let routed = match link.kind {
                LinkKind::Gateway => {
                    let six = link.v6.filter(|_| sysctl::has_ipv6());
                    [Some(link.address.into()), six.map(|(a, _)| a.into())]
                        .into_iter()
                        .flatten()
                        .all(|a| observed.host.host_routes.get(&a) == Some(&interface.index))
                }
                LinkKind::Overlay { .. } => true,
            };
            interface.up && routed
        })
    };
    if configured && links.iter().all(there) {
        Net::Complete
    } else {
        Net::Partial
    }
}

/// The host ends that are there, for the packet path. Ended tasks have none.
pub(crate) fn link_facts<'a>(
    host: &HostView,
    instance: &str,
    assignment: &Assignment,
    records: impl Iterator<Item = &'a Record>,
) -> Vec<LinkFacts> {
    let mut facts = Vec::new();
    for record in records.filter(|record| !record.state().is_over()) {
        for link in links_of(instance, assignment, record).into_iter().flatten() {
            let Some(interface) = host.interfaces.get(&link.host_name) else {
                continue;
            };
            facts.push(LinkFacts {
                index: interface.index,
                task: record.task.id.clone(),
                network: match link.kind {
                    LinkKind::Overlay { network } => Some(network),
                    LinkKind::Gateway => None,
                },
                address: IpAddr::V4(link.address),
            });
        }
    }
    facts
}

/// MTU for links of tasks: what fits into the tunnel over the uplink.
pub(crate) fn task_mtu(host: &HostView, vtep: IpAddr) -> u32 {
    uplink_mtu(host, vtep).unwrap_or(DEFAULT_MTU) - VXLAN_OVERHEAD
}

/// MTU of the uplink that carries the tunnels, if one does.
pub(crate) fn uplink_mtu(host: &HostView, vtep: IpAddr) -> Option<u32> {
    host.holder(vtep).map(|uplink| uplink.mtu)
}

/// Host ends of this agent that belong to none of `records`: left over from tasks long forgotten.
pub(crate) fn stray_links<'a>(
    host: &'a HostView,
    instance: &str,
    records: &BTreeMap<String, Record>,
) -> Vec<&'a Interface> {
    let prefix = plan::host_prefix(instance);
    let known: BTreeSet<_> = records
        .values()
        .flat_map(|record| host_names(instance, &record.task))
        .collect();
    host.interfaces
        .values()
        .filter(|i| i.name.starts_with(&prefix) && i.name.len() == 14 && !known.contains(&i.name))
        .collect()
}

/// Node-local addresses in use.
pub(crate) fn taken_addresses(records: &BTreeMap<String, Record>) -> BTreeSet<Ipv4Addr> {
    records.values().map(Record::local_address).collect()
}
