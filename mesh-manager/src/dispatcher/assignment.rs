//! The part of the state that concerns one node. Pure.
//!
//! A node is told of: its own tasks; the networks they are on and the ingress network; the services
//! with ingress ports, on those networks, or of its tasks; the endpoints of those services; the
//! secrets and configs of its tasks that have not ended; and all peers.

use super::catalog::{Catalog, Difference, Version};
use crate::state::{
    Address, Network, Node, NodeState, Port, Protocol, PublishMode, Service, State, Task, TaskState,
};
use crate::traffic::Traffic;
use mesh_api::{
    generic_resource, handout,
    proto::{self, object::Object as Body},
};
use std::{
    collections::{BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

/// What a session has sent, so that only differences follow.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    tasks: Known,
    networks: Known,
    services: Known,
    endpoints: Endpoints,
    peers: Arc<Version>,
    secrets: Known,
    configs: Known,
    catalog: Arc<Catalog>,
    /// Looks at all that the node has to do with, so far.
    round: u64,
    /// Raft index of the state that was looked at last.
    index: u64,
}

/// What a node has to learn.
#[derive(Debug, Default)]
struct Delta {
    bodies: Vec<Body>,
    removed: Vec<proto::ObjectId>,
}

/// Objects of one kind by id: fingerprint of what was sent, and the round that saw it last.
#[derive(Debug, Default)]
struct Known(HashMap<String, (u64, u64)>);

impl Known {
    /// Notes an object; whether it has to be sent.
    fn note(&mut self, id: &str, fingerprint: u64, round: u64) -> bool {
        if let Some((known, seen)) = self.0.get_mut(id) {
            *seen = round;
            return std::mem::replace(known, fingerprint) != fingerprint;
        }
        self.0.insert(id.to_owned(), (fingerprint, round));
        true
    }

    /// Forgets what this round has not seen.
    fn sweep(&mut self, kind: proto::Kind, round: u64, removed: &mut Vec<proto::ObjectId>) {
        self.0.retain(|id, (_, seen)| {
            let is_current = *seen == round;
            if !is_current {
                removed.push(object_id(kind, id));
            }
            is_current
        });
    }
}

/// The endpoints of each service, with the round in which the node had to do with the service last.
#[derive(Debug, Default)]
struct Endpoints(HashMap<String, (Arc<Version>, u64)>);

impl Endpoints {
    /// The endpoints of a service are as they were. False if there was nothing yet to stay so.
    fn stay(&mut self, service_id: &str, round: u64) -> bool {
        let known = self.0.get_mut(service_id);
        known.map(|(_, seen)| *seen = round).is_some()
    }

    /// Those of a service, to be brought up to date.
    fn known(&mut self, service_id: &str, round: u64) -> &mut Arc<Version> {
        let (known, seen) = self.0.entry(service_id.to_owned()).or_default();
        *seen = round;
        known
    }

    /// Forgets the services that this round has not seen.
    fn sweep(&mut self, round: u64, removed: &mut Vec<proto::ObjectId>) {
        self.0.retain(|_, (known, seen)| {
            let is_current = *seen == round;
            if !is_current {
                removed.extend(known.ids().map(|id| object_id(proto::Kind::Endpoint, id)));
            }
            is_current
        });
    }
}

impl Sent {
    /// Nothing yet. What sessions share is in the catalog.
    pub(crate) fn nothing(catalog: &Arc<Catalog>) -> Self {
        Self {
            catalog: catalog.clone(),
            ..Self::default()
        }
    }

    /// What a node has to learn to go from what was sent to `state`; `None` if nothing. The first
    /// one is full.
    pub(crate) fn advance(&mut self, state: &State, node_id: &str) -> Option<proto::Assignment> {
        let full = self.round == 0;
        let looked_at = std::mem::replace(&mut self.index, state.index());
        let indexes = state.indexes();
        // What has not changed since the last look is not looked at again: there are as many sessions as nodes.
        let has_same_nodes = !full && indexes.has_nodes_of(looked_at);
        let mut delta = Delta::default();
        if has_same_nodes && indexes.has_tasks_of(node_id, looked_at) {
            for id in indexes.services_since(looked_at) {
                if self.endpoints.stay(id, self.round) {
                    self.advance_endpoints(state, id, &mut delta);
                }
            }
        } else {
            self.advance_all(
                state,
                node_id,
                has_same_nodes.then_some(looked_at),
                &mut delta,
            );
        }
        let Delta { bodies, removed } = delta;
        (full || !bodies.is_empty() || !removed.is_empty()).then(|| proto::Assignment {
            revision: state.index(),
            full,
            objects: bodies
                .into_iter()
                .map(|b| proto::Object { object: Some(b) })
                .collect(),
            removed,
        })
    }

    /// Looks at all that the node has to do with, but not at the endpoints of what is as it was in the state of the index
    /// `same_nodes`, which has the same nodes.
    fn advance_all(
        &mut self,
        state: &State,
        node_id: &str,
        same_nodes: Option<u64>,
        delta: &mut Delta,
    ) {
        self.round += 1;
        let round = self.round;
        let indexes = state.indexes();
        let mut networks: BTreeSet<&str> = BTreeSet::new();
        let mut services: BTreeSet<&str> = BTreeSet::new();
        let mut handouts: BTreeSet<(handout::Kind, &str)> = BTreeSet::new();
        networks.extend(state.ingress_network().map(|n| n.id.as_str()));
        let own = |t: &&Task| t.status.state >= TaskState::Assigned;
        for task in state.tasks_of_node(node_id).filter(own) {
            if !task.status.state.is_terminal() {
                networks.extend(task.attachments.iter().map(|a| a.network_id.as_str()));
                services.insert(&task.service_id);
                let claims = task.spec.container_spec.iter();
                handouts.extend(
                    claims
                        .flat_map(handout::references)
                        .map(|claim| (claim.kind, claim.id)),
                );
            }
            if self.tasks.note(&task.id, desired(task) as u64, round) {
                delta.bodies.push(Body::Task(task_message(task)));
            }
        }
        for (kind, id) in handouts {
            // What one holds never changes.
            if let Some(handout) = state.handout(kind, id)
                && self.handouts(kind).note(id, 0, round)
            {
                let message = proto::Handout {
                    id: id.to_owned(),
                    data: handout.data.reveal().to_vec(),
                    is_template: handout.is_template,
                };
                delta.bodies.push(match kind {
                    handout::Kind::Secret => Body::Secret(message),
                    handout::Kind::Config => Body::Config(message),
                });
            }
        }
        for id in networks {
            let on_it = indexes.services_on_network(id);
            services.extend(on_it.map(String::as_str));
            if let Some(network) = state.network(id)
                && self.networks.note(id, network.meta.version, round)
            {
                delta.bodies.push(Body::Network(network_message(network)));
            }
        }
        services.extend(
            state
                .services()
                .filter(|s| s.has_ingress_ports())
                .map(|s| s.id.as_str()),
        );
        for id in services {
            if let Some(service) = state.service(id)
                && self.services.note(id, service.meta.version, round)
            {
                delta.bodies.push(Body::Service(service_message(service)));
            }
            let is_same = same_nodes.is_some_and(|index| indexes.has_service_of(id, index));
            if !(self.endpoints.stay(id, round) && is_same) {
                self.advance_endpoints(state, id, delta);
            }
        }
        if same_nodes.is_none() {
            for difference in self.catalog.peers(state, &mut self.peers) {
                match difference {
                    Difference::Told(id) => {
                        let peer = state.node(&id).map(peer_message).map(Body::Peer);
                        delta.bodies.extend(peer);
                    }
                    Difference::Gone(id) => delta.removed.push(object_id(proto::Kind::Peer, &id)),
                }
            }
        }

        let removed = &mut delta.removed;
        self.tasks.sweep(proto::Kind::Task, round, removed);
        self.networks.sweep(proto::Kind::Network, round, removed);
        self.services.sweep(proto::Kind::Service, round, removed);
        self.endpoints.sweep(round, removed);
        self.secrets.sweep(proto::Kind::Secret, round, removed);
        self.configs.sweep(proto::Kind::Config, round, removed);
    }

    /// Brings the endpoints of a service up to date.
    fn advance_endpoints(&mut self, state: &State, service_id: &str, delta: &mut Delta) {
        let known = self.endpoints.known(service_id, self.round);
        for difference in self.catalog.endpoints(state, service_id, known) {
            match difference {
                Difference::Told(id) => {
                    let told = state.task(&id);
                    let told = told.and_then(|task| Some((task, endpoint_state(state, task)?)));
                    let message = told.map(|(task, state)| endpoint_message(task, state));
                    delta.bodies.extend(message.map(Body::Endpoint));
                }
                Difference::Gone(id) => delta.removed.push(object_id(proto::Kind::Endpoint, &id)),
            }
        }
    }

    fn handouts(&mut self, kind: handout::Kind) -> &mut Known {
        match kind {
            handout::Kind::Secret => &mut self.secrets,
            handout::Kind::Config => &mut self.configs,
        }
    }
}

/// How the packet path sees a task: active while it runs, reachable without taking new flows while
/// it starts, has become unhealthy or is about to stop, else not at all.
pub(super) fn endpoint_state(state: &State, task: &Task) -> Option<proto::EndpointState> {
    let status = task.status.state;
    if status < TaskState::Assigned || status.is_terminal() {
        return None;
    }
    let node = task.node_id.as_deref().and_then(|id| state.node(id))?;
    if node.state == NodeState::Down {
        return None;
    }
    if task.is_active() {
        Some(proto::EndpointState::Active)
    } else {
        Some(proto::EndpointState::Draining)
    }
}

pub(super) fn peer_fingerprint(node: &Node) -> u64 {
    let mut hasher = DefaultHasher::new();
    node.description.hostname.hash(&mut hasher);
    node.description.data_path_address.hash(&mut hasher);
    node.description.cipher.hash(&mut hasher);
    node.description.mtu.hash(&mut hasher);
    hasher.finish()
}

fn object_id(kind: proto::Kind, id: &str) -> proto::ObjectId {
    proto::ObjectId {
        kind: kind.into(),
        id: id.to_owned(),
    }
}

fn peer_message(node: &Node) -> proto::Peer {
    let cipher = node.description.cipher.as_ref();
    proto::Peer {
        id: node.id.clone(),
        hostname: node.description.hostname.clone(),
        data_path_address: node.description.data_path_address.clone(),
        cipher: cipher.map(|cipher| proto::Cipher {
            key: cipher.key.clone(),
            port: cipher.port.into(),
            epoch: cipher.epoch,
            next_port: cipher.next_port.into(),
            former_key: cipher.former_key.clone(),
        }),
        mtu: node.description.mtu,
    }
}

fn attachment(address: &Address) -> proto::Attachment {
    proto::Attachment {
        network_id: address.network_id.clone(),
        address: address.address.to_string(),
        aliases: address.aliases.clone(),
    }
}

/// What the node is told to make of a task. One that has ended is never to run again, though the managers may have wanted
/// nothing else of it: a job's.
fn desired(task: &Task) -> TaskState {
    match task.status.state {
        state if state.is_terminal() => task.desired.max(TaskState::Shutdown),
        _ => task.desired,
    }
}

fn task_message(task: &Task) -> proto::Task {
    proto::Task {
        id: task.id.clone(),
        service_id: task.service_id.clone(),
        service_name: task.service_name.clone(),
        name: task.name(),
        slot: task.shown_slot(),
        desired_state: desired(task).as_str().to_owned(),
        // A spec that came in as JSON goes out as JSON.
        spec_json: serde_json::to_vec(&task.spec).unwrap_or_default(),
        attachments: task.attachments.iter().map(attachment).collect(),
        service_labels: task.service_labels.clone().into_iter().collect(),
        registry_auth: task.registry_auth.clone(),
        generic_resources: generic_resource::to_proto(&task.generic_resources),
    }
}

fn network_message(network: &Network) -> proto::Network {
    proto::Network {
        id: network.id.clone(),
        name: network.name().to_owned(),
        vni: network.vni,
        subnet: network.subnet.to_string(),
        gateway: network.gateway.to_string(),
        internal: network.spec.internal.unwrap_or(false),
        ingress: network.ingress,
        subnet_v6: network
            .subnet_v6
            .map_or_else(String::new, |subnet| subnet.to_string()),
        encrypted: network.is_encrypted(),
        mtu: network.mtu().unwrap_or(0),
    }
}

fn port_message(port: &Port) -> proto::Port {
    proto::Port {
        protocol: match port.protocol {
            Protocol::Tcp => proto::Protocol::Tcp,
            Protocol::Udp => proto::Protocol::Udp,
            Protocol::Sctp => proto::Protocol::Sctp,
        }
        .into(),
        published: u32::from(port.published),
        target: u32::from(port.target),
        mode: match port.mode {
            PublishMode::Ingress => proto::PublishMode::Ingress,
            PublishMode::Host => proto::PublishMode::Host,
        }
        .into(),
    }
}

fn service_message(service: &Service) -> proto::Service {
    let mode = if service.is_dnsrr() {
        proto::EndpointMode::Dnsrr
    } else {
        proto::EndpointMode::Vip
    };
    // Specs were validated when they came in.
    let traffic = Traffic::of(service.spec.labels.as_ref()).unwrap_or_default();
    proto::Service {
        id: service.id.clone(),
        name: service.name().to_owned(),
        endpoint_mode: mode.into(),
        vips: service
            .vips
            .iter()
            .map(|vip| proto::VirtualAddress {
                network_id: vip.network_id.clone(),
                address: vip.address.to_string(),
                aliases: vip.aliases.clone(),
            })
            .collect(),
        ports: service.ports.iter().map(port_message).collect(),
        affinity_seconds: traffic.affinity_seconds,
        local_only: traffic.local_only,
        direct_return: traffic.direct_return,
    }
}

fn endpoint_message(task: &Task, state: proto::EndpointState) -> proto::Endpoint {
    proto::Endpoint {
        id: task.id.clone(),
        service_id: task.service_id.clone(),
        name: task.name(),
        node_id: task.node_id.clone().unwrap_or_default(),
        attachments: task.attachments.iter().map(attachment).collect(),
        state: state.into(),
    }
}
