//! Ways into the state besides ids: by name, by owner, by what is taken.

use super::{Network, Protocol, PublishMode, Service, State, Task, TaskState};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
};

/// Everything here follows from the objects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Indexes {
    services_by_name: BTreeMap<String, String>,
    networks_by_name: BTreeMap<String, String>,
    tasks_by_service: BTreeMap<String, BTreeSet<String>>,
    tasks_by_node: BTreeMap<String, BTreeSet<String>>,
    /// Only tasks that have addresses.
    endpoints_by_service: BTreeMap<String, BTreeSet<String>>,
    services_by_network: BTreeMap<String, BTreeSet<String>>,
    pending: BTreeSet<String>,
    ingress_ports: BTreeMap<(Protocol, u16), String>,
    addresses: BTreeMap<String, BTreeMap<Ipv4Addr, String>>,
    changes: Changes,
}

/// Raft indexes of the last changes, so that who knows an older state can tell what to look at.
#[derive(Debug, Clone, Default)]
struct Changes {
    /// All that was there when the indexes were built is taken to have changed then.
    built: u64,
    nodes: u64,
    /// Of services themselves, networks, secrets and configs: any node may have to do with them.
    shared: u64,
    /// Of each node's tasks, by the node's id.
    tasks: HashMap<String, u64>,
    /// Of each service or its tasks, by the service's id.
    services: BTreeMap<String, u64>,
    /// The same, by index.
    services_by_change: BTreeSet<(u64, String)>,
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
        indexes.changes.built = state.index;
        state.networks().for_each(|n| indexes.add_network(n));
        state.services().for_each(|s| indexes.add_service(s));
        state.tasks().for_each(|t| indexes.add_task(t));
        indexes
    }

    /// A node was added, changed or removed.
    pub(super) fn note_nodes(&mut self, index: u64) {
        self.changes.nodes = index;
    }

    /// A service itself, a network, a secret or a config was added, changed or removed.
    pub(super) fn note_shared(&mut self, index: u64) {
        self.changes.shared = index;
    }

    /// A task of a node was added, changed or removed.
    pub(super) fn note_task_of(&mut self, node_id: &str, index: u64) {
        match self.changes.tasks.get_mut(node_id) {
            Some(changed) => *changed = index,
            None => drop(self.changes.tasks.insert(node_id.to_owned(), index)),
        }
    }

    /// A node was removed.
    pub(super) fn forget_node(&mut self, id: &str) {
        self.changes.tasks.remove(id);
    }

    /// A service or one of its tasks was added, changed or removed.
    pub(super) fn note_service(&mut self, id: &str, index: u64) {
        let Changes {
            services,
            services_by_change,
            ..
        } = &mut self.changes;
        match services.get_mut(id) {
            Some(changed) if *changed == index => return,
            Some(changed) => {
                let before = std::mem::replace(changed, index);
                services_by_change.remove(&(before, id.to_owned()));
            }
            None => drop(services.insert(id.to_owned(), index)),
        }
        services_by_change.insert((index, id.to_owned()));
    }

    /// Nothing is left of a service.
    pub(super) fn forget_service(&mut self, id: &str) {
        if let Some(changed) = self.changes.services.remove(id) {
            let entry = (changed, id.to_owned());
            self.changes.services_by_change.remove(&entry);
        }
    }

    /// Whether the state of `index` has the same nodes.
    pub(crate) fn has_nodes_of(&self, index: u64) -> bool {
        self.changes.nodes.max(self.changes.built) <= index
    }

    /// Whether a service and its tasks are as they were in the state of `index`.
    pub(crate) fn has_service_of(&self, id: &str, index: u64) -> bool {
        let changed = self.changes.services.get(id).copied().unwrap_or(0);
        changed.max(self.changes.built) <= index
    }

    /// Whether the tasks of a node, and all that they may have to do with besides tasks of others and nodes, are as they
    /// were in the state of `index`.
    pub(crate) fn has_tasks_of(&self, node_id: &str, index: u64) -> bool {
        let Changes {
            built,
            shared,
            tasks,
            ..
        } = &self.changes;
        let changed = tasks.get(node_id).copied().unwrap_or(0);
        changed.max(*shared).max(*built) <= index
    }

    /// Ids of the services that have changed, or whose tasks have, since the state of `index`; of those that were there when the
    /// indexes were built only if they have changed after that.
    pub(crate) fn services_since(&self, index: u64) -> impl Iterator<Item = &str> {
        let first = (index.saturating_add(1), String::new());
        let services = self.changes.services_by_change.range(first..);
        services.map(|(_, id)| id.as_str())
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
        if !task.attachments.is_empty() {
            insert(&mut self.endpoints_by_service, &task.service_id, &task.id);
        }
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
        remove(&mut self.endpoints_by_service, &task.service_id, &task.id);
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

    pub(super) fn services_of_tasks(&self) -> impl Iterator<Item = &String> {
        self.tasks_by_service.keys()
    }

    pub(super) fn endpoints_of_service(&self, id: &str) -> impl Iterator<Item = &String> {
        members(&self.endpoints_by_service, id)
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
