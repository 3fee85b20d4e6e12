//! What the packet path has to do, from the assignment and what there is on this node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

pub use mesh_datapath::mac_of;
use mesh_datapath::{Desired, Endpoint, Link, Location};

use super::{address, on_network, parts::Parts, subnet_v6};
use crate::assignment::Assignment;

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

/// Everything the packet path of this node has to do. What concerns one service alone is taken from `parts`, if it was
/// made of the same, and kept there for the next time.
pub fn datapath(
    assignment: &Assignment,
    node: &NodeFacts,
    links: &[LinkFacts],
    parts: &mut Parts,
) -> Desired {
    let ingress = assignment.networks.values().find(|n| n.ingress);
    parts.update(assignment, node, links);
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
        // Which devices those are, is not known here.
        cipher: None,
        former_cipher: None,
        links: links
            .iter()
            .filter_map(|found| Some((found.index, link(assignment, found)?)))
            .collect(),
        endpoints: parts.endpoints().chain(local(assignment, links)).collect(),
        services: parts.services().collect(),
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

/// Tasks of this node, from the links that are really there: one can be reached as soon as it has its link, and no longer.
fn local(
    assignment: &Assignment,
    links: &[LinkFacts],
) -> impl Iterator<Item = ((u32, IpAddr), Endpoint)> {
    links.iter().filter_map(|found| {
        let network = match &found.network {
            Some(id) => assignment.networks.get(id),
            // The gateway link answers for the ingress address, where the task holds one.
            None => assignment.networks.values().find(|network| {
                network.ingress
                    && assignment.tasks.get(&found.task).is_some_and(|task| {
                        on_network(&task.attachments, &network.id) == Some(found.address)
                    })
            }),
        }?;
        let endpoint = Endpoint {
            mac: mac_of(found.address),
            location: Location::Local(found.index),
            encrypted: network.encrypted,
        };
        Some(((network.vni, found.address), endpoint))
    })
}

#[cfg(test)]
#[path = "packets_tests.rs"]
mod tests;
