//! Ways into the state besides ids: by name, by owner, by what is taken.

use super::{Network, Protocol, PublishMode, Service, State, Task, TaskState};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// Everything here follows from the objects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Indexes {
    services_by_name: BTreeMap<String, String>,
    networks_by_name: BTreeMap<String, String>,
    tasks_by_service: BTreeMap<String, BTreeSet<String>>,
    tasks_by_node: BTreeMap<String, BTreeSet<String>>,
    services_by_network: BTreeMap<String, BTreeSet<String>>,
    pending: BTreeSet<String>,
    ingress_ports: BTreeMap<(Protocol, u16), String>,
    addresses: BTreeMap<String, BTreeMap<Ipv4Addr, String>>,
}

fn insert(map: &mut BTreeMap<String, BTreeSet<String>>, key: &str, value: &str) {
    map.entry(key.to_owned())
        .or_default()
        .insert(value.to_owned());
}

fn remove(map: &mut BTreeMap<String, BTreeSet<String>>, key: &str, value: &str) {
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}

fn members<'a>(
    map: &'a BTreeMap<String, BTreeSet<String>>,
    key: &str,
) -> impl Iterator<Item = &'a String> {
    map.get(key).into_iter().flatten()
}

impl Indexes {
    pub(super) fn build(state: &State) -> Self {
        let mut indexes = Self::default();
        state.networks().for_each(|n| indexes.add_network(n));
        state.services().for_each(|s| indexes.add_service(s));
        state.tasks().for_each(|t| indexes.add_task(t));
        indexes
    }

    pub(super) fn add_network(&mut self, network: &Network) {
        self.networks_by_name
            .insert(network.name().to_owned(), network.id.clone());
    }

    pub(super) fn remove_network(&mut self, network: &Network) {
        self.networks_by_name.remove(network.name());
    }

    pub(super) fn add_service(&mut self, service: &Service) {
        self.services_by_name
            .insert(service.name().to_owned(), service.id.clone());
        for (network, _) in &service.networks {
            insert(&mut self.services_by_network, network, &service.id);
        }
        for vip in &service.vips {
            self.take_address(&vip.network_id, vip.address, &service.id);
        }
        for port in service
            .ports
            .iter()
            .filter(|p| p.mode == PublishMode::Ingress)
        {
            self.ingress_ports
                .insert((port.protocol, port.published), service.id.clone());
        }
    }

    pub(super) fn remove_service(&mut self, service: &Service) {
        self.services_by_name.remove(service.name());
        for (network, _) in &service.networks {
            remove(&mut self.services_by_network, network, &service.id);
        }
        for vip in &service.vips {
            self.release_address(&vip.network_id, vip.address, &service.id);
        }
        for port in service
            .ports
            .iter()
            .filter(|p| p.mode == PublishMode::Ingress)
        {
            self.ingress_ports.remove(&(port.protocol, port.published));
        }
    }

    pub(super) fn add_task(&mut self, task: &Task) {
        insert(&mut self.tasks_by_service, &task.service_id, &task.id);
        if let Some(node) = &task.node_id {
            insert(&mut self.tasks_by_node, node, &task.id);
        }
        if task.status.state == TaskState::Pending && task.is_wanted() {
            self.pending.insert(task.id.clone());
        }
        if task.owns_addresses() {
            for address in &task.attachments {
                self.take_address(&address.network_id, address.address, &task.id);
            }
        }
    }

    pub(super) fn remove_task(&mut self, task: &Task) {
        remove(&mut self.tasks_by_service, &task.service_id, &task.id);
        if let Some(node) = &task.node_id {
            remove(&mut self.tasks_by_node, node, &task.id);
        }
        self.pending.remove(&task.id);
        if task.owns_addresses() {
            for address in &task.attachments {
                self.release_address(&address.network_id, address.address, &task.id);
            }
        }
    }

    fn take_address(&mut self, network: &str, address: Ipv4Addr, owner: &str) {
        self.addresses
            .entry(network.to_owned())
            .or_default()
            .insert(address, owner.to_owned());
    }

    fn release_address(&mut self, network: &str, address: Ipv4Addr, owner: &str) {
        if let Some(taken) = self.addresses.get_mut(network) {
            // Somebody else may own it by now.
            if taken.get(&address).is_some_and(|o| o == owner) {
                taken.remove(&address);
            }
            if taken.is_empty() {
                self.addresses.remove(network);
            }
        }
    }

    pub(crate) fn service_by_name(&self, name: &str) -> Option<&str> {
        self.services_by_name.get(name).map(String::as_str)
    }

    pub(crate) fn network_by_name(&self, name: &str) -> Option<&str> {
        self.networks_by_name.get(name).map(String::as_str)
    }

    pub(super) fn tasks_of_service(&self, id: &str) -> impl Iterator<Item = &String> {
        members(&self.tasks_by_service, id)
    }

    pub(super) fn tasks_of_node(&self, id: &str) -> impl Iterator<Item = &String> {
        members(&self.tasks_by_node, id)
    }

    pub(crate) fn services_on_network(&self, id: &str) -> impl Iterator<Item = &String> {
        members(&self.services_by_network, id)
    }

    pub(super) fn pending(&self) -> impl Iterator<Item = &String> {
        self.pending.iter()
    }

    pub(crate) fn ingress_port_owner(&self, protocol: Protocol, port: u16) -> Option<&str> {
        self.ingress_ports
            .get(&(protocol, port))
            .map(String::as_str)
    }

    pub(crate) fn is_taken(&self, network: &str, address: Ipv4Addr) -> bool {
        self.addresses
            .get(network)
            .is_some_and(|taken| taken.contains_key(&address))
    }

    pub(crate) fn taken(&self, network: &str) -> usize {
        self.addresses.get(network).map_or(0, BTreeMap::len)
    }
}
