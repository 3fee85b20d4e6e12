//! What the packet path has to do, from the assignment and what there is on this node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mesh_api::proto::{self, EndpointMode, EndpointState, Network, PublishMode, Service};
pub use mesh_datapath::mac_of;
use mesh_datapath::{Backend, Desired, Endpoint, Link, Location, PublishedPort};

use super::{address, on_network, subnet_v6};
use crate::{assignment::Assignment, protocol};

/// What the packet path has to know of this node itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Interfaces that face the other nodes and the clients.
    pub uplinks: BTreeSet<u32>,
    /// Addresses on which published ports answer.
    pub own_addresses: BTreeSet<IpAddr>,
    /// This node's tunnel end point.
    pub vtep: IpAddr,
}

/// The host end of a task's link, as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFacts {
    /// Interface index of the host end.
    pub index: u32,
    /// The task whose link it is.
    pub task: String,
    /// The overlay network it is on; none for the gateway link.
    pub network: Option<String>,
    /// The task's address on it.
    pub address: IpAddr,
}

/// Everything the packet path of this node has to do.
pub fn datapath(assignment: &Assignment, node: &NodeFacts, links: &[LinkFacts]) -> Desired {
    let ingress = assignment.networks.values().find(|n| n.ingress);
    let backends = by_service(assignment, links);
    Desired {
        uplinks: node.uplinks.clone(),
        own_addresses: node.own_addresses.clone(),
        vtep: Some(node.vtep),
        ingress_vni: ingress.map_or(0, |network| network.vni),
        ingress_prefix: ingress.and_then(subnet_v6).map(|(first, _)| first),
        peers: assignment
            .peers
            .values()
            .filter_map(|peer| {
                let vtep = address(&peer.data_path_address)?;
                Some((vtep, (peer.mtu != 0).then_some(peer.mtu)))
            })
            .filter(|(vtep, _)| *vtep != node.vtep)
            .collect(),
        // Which device that is, is not known here.
        cipher: None,
        links: links
            .iter()
            .filter_map(|found| Some((found.index, link(assignment, found)?)))
            .collect(),
        endpoints: endpoints(assignment, node, links),
        services: assignment
            .services
            .values()
            .map(|service| {
                (
                    service.id.clone(),
                    self::service(assignment, service, ingress, &backends),
                )
            })
            .collect(),
        // Told apart by namespaces, which are not known here: `namespaces.rs`.
        namespaces: BTreeMap::new(),
    }
}

fn link(assignment: &Assignment, found: &LinkFacts) -> Option<Link> {
    let (address, mac) = (found.address, mac_of(found.address));
    Some(match &found.network {
        Some(network) => {
            let network = assignment.networks.get(network)?;
            Link::Overlay {
                vni: network.vni,
                prefix: subnet_v6(network).map(|(first, _)| first),
                address,
                mac,
                encrypted: network.encrypted,
            }
        }
        None => Link::Gateway { address, mac },
    })
}

/// Remote tasks from the cluster's list, local ones from the links that are really there: a task of
/// this node can be reached as soon as it has its link, and no longer.
fn endpoints(
    assignment: &Assignment,
    node: &NodeFacts,
    links: &[LinkFacts],
) -> BTreeMap<(u32, IpAddr), Endpoint> {
    let mut all = BTreeMap::new();
    for endpoint in assignment.endpoints.values() {
        if assignment.tasks.contains_key(&endpoint.id) {
            continue;
        }
        let Some(vtep) = assignment
            .peers
            .get(&endpoint.node_id)
            .and_then(|peer| address(&peer.data_path_address))
            .filter(|vtep| *vtep != node.vtep)
        else {
            continue;
        };
        for attachment in &endpoint.attachments {
            let (Some(network), Some(task_address)) = (
                assignment.networks.get(&attachment.network_id),
                address(&attachment.address),
            ) else {
                continue;
            };
            let endpoint = Endpoint {
                mac: mac_of(task_address),
                location: Location::Remote(vtep),
                encrypted: network.encrypted,
            };
            all.insert((network.vni, task_address), endpoint);
        }
    }
    for found in links {
        let network = match &found.network {
            Some(id) => assignment.networks.get(id),
            // The gateway link answers for the ingress address, where the task holds one.
            None => assignment.networks.values().find(|network| {
                network.ingress
                    && assignment.tasks.get(&found.task).is_some_and(|task| {
                        on_network(&task.attachments, &network.id) == Some(found.address)
                    })
            }),
        };
        if let Some(network) = network {
            let endpoint = Endpoint {
                mac: mac_of(found.address),
                location: Location::Local(found.index),
                encrypted: network.encrypted,
            };
            all.insert((network.vni, found.address), endpoint);
        }
    }
    all
}

/// The tasks behind each service, by service id. A task of this node that has lost its links has
/// ended, and is left out before the managers know.
fn by_service<'a>(
    assignment: &'a Assignment,
    links: &[LinkFacts],
) -> BTreeMap<&'a str, Vec<&'a proto::Endpoint>> {
    let linked: BTreeSet<&str> = links.iter().map(|link| link.task.as_str()).collect();
    let mut all: BTreeMap<&str, Vec<&proto::Endpoint>> = BTreeMap::new();
    for endpoint in assignment.endpoints.values() {
        let here = assignment.tasks.contains_key(&endpoint.id);
        if !here || linked.contains(endpoint.id.as_str()) {
            all.entry(&endpoint.service_id).or_default().push(endpoint);
        }
    }
    all
}

fn service(
    assignment: &Assignment,
    service: &Service,
    ingress: Option<&Network>,
    by_service: &BTreeMap<&str, Vec<&proto::Endpoint>>,
) -> mesh_datapath::Service {
    let backends = |network: &str| -> Vec<Backend> {
        let all: BTreeSet<Backend> = by_service
            .get(service.id.as_str())
            .into_iter()
            .flatten()
            .filter_map(|endpoint| {
                Some(Backend {
                    address: on_network(&endpoint.attachments, network)?,
                    draining: endpoint.state() == EndpointState::Draining,
                })
            })
            .collect();
        all.into_iter().collect()
    };
    let is_ingress = |id: &str| ingress.is_some_and(|network| network.id == id);

    let vips = service
        .vips
        .iter()
        .filter(|vip| service.endpoint_mode() == EndpointMode::Vip && !is_ingress(&vip.network_id))
        .filter_map(|vip| {
            let vni = assignment.networks.get(&vip.network_id)?.vni;
            Some(((vni, address(&vip.address)?), backends(&vip.network_id)))
        })
        .collect();
    let ports: BTreeSet<PublishedPort> = service
        .ports
        .iter()
        .filter(|port| port.mode() == PublishMode::Ingress)
        .filter_map(|port| {
            Some(PublishedPort {
                protocol: protocol::number(port.protocol()),
                published: u16::try_from(port.published).ok()?,
                target: u16::try_from(port.target).ok()?,
            })
        })
        .collect();
    mesh_datapath::Service {
        name: service.name.clone(),
        affinity_s: service.affinity_seconds,
        local_only: service.local_only,
        direct: service.direct_return,
        vips,
        ingress: match ingress {
            Some(network) if !ports.is_empty() => backends(&network.id),
            _ => Vec::new(),
        },
        ports,
    }
}

#[cfg(test)]
#[path = "packets_tests.rs"]
mod tests;
