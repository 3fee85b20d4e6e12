//! What each service and its tasks on other nodes contribute to the packet path. Pure.
//!
//! Of thousands of services a change concerns few: what the others contribute is kept, and the very same object each time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use mesh_api::proto::{EndpointMode, EndpointState, Network, PublishMode, Service};
use mesh_datapath::{Backend, Endpoint, Location, PublishedPort, mac_of};

use super::{LinkFacts, NodeFacts, address, on_network};
use crate::{
    assignment::{Assignment, Tasks},
    protocol,
};

/// The parts of the last state, by service id.
#[derive(Debug, Default)]
pub struct Parts {
    common: Common,
    parts: BTreeMap<String, Part>,
}

/// What every part depends on.
#[derive(Debug, Default, PartialEq)]
struct Common {
    networks: BTreeMap<String, Network>,
    /// Tunnel end points of the other nodes, by node id.
    peers: BTreeMap<String, IpAddr>,
}

/// What one service is made of.
#[derive(Debug)]
struct Source {
    service: Option<Arc<Service>>,
    tasks: Option<Arc<Tasks>>,
    /// Those of its tasks that are on this node, and whether they have links.
    here: BTreeMap<String, bool>,
}

#[derive(Debug)]
struct Part {
    source: Source,
    service: Option<Arc<mesh_datapath::Service>>,
    endpoints: Vec<((u32, IpAddr), Endpoint)>,
}

impl Parts {
    /// Makes the parts anew that are made of something else now.
    pub(super) fn update(
        &mut self,
        assignment: &Assignment,
        node: &NodeFacts,
        links: &[LinkFacts],
    ) {
        let common = Common::of(assignment, node);
        if self.common != common {
            self.common = common;
            self.parts.clear();
        }
        let mut here = here(assignment, links);
        let services = assignment.services.keys();
        let ids: BTreeSet<&String> = services.chain(assignment.endpoints.keys()).collect();
        let mut before = std::mem::take(&mut self.parts);
        for id in ids {
            let source = Source {
                service: assignment.services.get(id).cloned(),
                tasks: assignment.endpoints.get(id).cloned(),
                here: here.remove(id.as_str()).unwrap_or_default(),
            };
            let part = before.remove(id).filter(|part| part.source.is(&source));
            let part = part.unwrap_or_else(|| Part::new(source, &self.common));
            self.parts.insert(id.clone(), part);
        }
    }

    /// The services, by id.
    pub(super) fn services(
        &self,
    ) -> impl Iterator<Item = (String, Arc<mesh_datapath::Service>)> + '_ {
        let all = self.parts.iter();
        all.filter_map(|(id, part)| Some((id.clone(), part.service.clone()?)))
    }

    /// The tasks on other nodes.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = ((u32, IpAddr), Endpoint)> + '_ {
        let all = self.parts.values();
        all.flat_map(|part| part.endpoints.iter().cloned())
    }
}

impl Common {
    fn of(assignment: &Assignment, node: &NodeFacts) -> Self {
        let peers = assignment.peers.values().filter_map(|peer| {
            let vtep = address(&peer.data_path_address)?;
            (vtep != node.vtep).then(|| (peer.id.clone(), vtep))
        });
        Self {
            networks: assignment.networks.clone(),
            peers: peers.collect(),
        }
    }
}

impl Source {
    /// Whether it is the very same.
    fn is(&self, other: &Self) -> bool {
        same(self.service.as_ref(), other.service.as_ref())
            && same(self.tasks.as_ref(), other.tasks.as_ref())
            && self.here == other.here
    }

    /// A task of this node that has lost its links has ended, and is left out before the managers know.
    fn backends(&self, network: &str) -> Vec<Backend> {
        let tasks = self.tasks.iter().flat_map(|tasks| tasks.values());
        let tasks = tasks.filter(|task| self.here.get(&task.id) != Some(&false));
        let backends = tasks.filter_map(|task| {
            Some(Backend {
                address: on_network(&task.attachments, network)?,
                draining: task.state() == EndpointState::Draining,
            })
        });
        let sorted: BTreeSet<Backend> = backends.collect();
        sorted.into_iter().collect()
    }

    fn endpoints(&self, common: &Common) -> Vec<((u32, IpAddr), Endpoint)> {
        let tasks = self.tasks.iter().flat_map(|tasks| tasks.values());
        let elsewhere = tasks.filter(|task| !self.here.contains_key(&task.id));
        let mut all = Vec::new();
        for task in elsewhere {
            let Some(vtep) = common.peers.get(&task.node_id) else {
                continue;
            };
            for attachment in &task.attachments {
                let (Some(network), Some(address)) = (
                    common.networks.get(&attachment.network_id),
                    address(&attachment.address),
                ) else {
                    continue;
                };
                let endpoint = Endpoint {
                    mac: mac_of(address),
                    location: Location::Remote(*vtep),
                    encrypted: network.encrypted,
                };
                all.push(((network.vni, address), endpoint));
            }
        }
        all
    }
}

impl Part {
    fn new(source: Source, common: &Common) -> Self {
        let service = source.service.as_ref();
        Self {
            service: service.map(|service| Arc::new(self::service(service, &source, common))),
            endpoints: source.endpoints(common),
            source,
        }
    }
}

/// Whether two are one object, or both nothing.
fn same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// The tasks of this node, by service id, and whether they have links.
fn here<'a>(
    assignment: &'a Assignment,
    links: &[LinkFacts],
) -> BTreeMap<&'a str, BTreeMap<String, bool>> {
    let linked: BTreeSet<&str> = links.iter().map(|link| link.task.as_str()).collect();
    let mut all: BTreeMap<&str, BTreeMap<String, bool>> = BTreeMap::new();
    for (id, task) in &assignment.tasks {
        let of_service = all.entry(&task.service_id).or_default();
        of_service.insert(id.clone(), linked.contains(id.as_str()));
    }
    all
}

fn service(service: &Service, source: &Source, common: &Common) -> mesh_datapath::Service {
    let ingress = common.networks.values().find(|network| network.ingress);
    let is_ingress = |id: &str| ingress.is_some_and(|network| network.id == id);
    let vips = service
        .vips
        .iter()
        .filter(|vip| service.endpoint_mode() == EndpointMode::Vip && !is_ingress(&vip.network_id))
        .filter_map(|vip| {
            let vni = common.networks.get(&vip.network_id)?.vni;
            let backends = source.backends(&vip.network_id);
            Some(((vni, address(&vip.address)?), backends))
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
            Some(network) if !ports.is_empty() => source.backends(&network.id),
            _ => Vec::new(),
        },
        ports,
    }
}
