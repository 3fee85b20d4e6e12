//! The replicated state: objects by id, and indexes over them that are rebuilt, never stored.
//!
//! Only `apply` changes it. Everything else reads.

mod convert;
mod event;
mod flapping;
mod handout;
mod index;
mod joins;
mod lineage;
mod lookup;
mod mode;
mod objects;
mod root;
mod rules;
mod task_state;
mod templates;

pub(crate) use convert::engine_role;
pub use convert::service_status;
pub use event::{Event, EventAction, ObjectKind, TaskContainer};
pub(crate) use flapping::is_due;
pub use flapping::{Holds, Returns};
pub use handout::Handout;
pub(crate) use lineage::Lineage;
pub use mode::ServiceMode;
pub(crate) use objects::v6;
pub use objects::{
    Address, Cluster, JobStatus, MAX_MTU, MIN_MTU, MTU_OPTION, Meta, Network, Node, NodeState,
    Port, Protocol, PublishMode, Service, Task, TaskStatus, UpdateStatus,
};
pub(crate) use root::certificate_validity;
pub use root::{NodeRoots, RootChange, RootRotation, refuse_external};
pub use task_state::TaskState;

use index::Indexes;
use joins::Join;
use mesh_api::engine;
use rules::InForce;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use templates::Templates;

/// The state of the cluster after some Raft index.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct State {
    /// Index of the last entry applied.
    pub(crate) index: u64,
    pub(crate) cluster: Option<Cluster>,
    pub(crate) nodes: BTreeMap<String, Node>,
    pub(crate) services: BTreeMap<String, Service>,
    /// Shared with copies of the state.
    pub(crate) tasks: BTreeMap<String, Arc<Task>>,
    pub(crate) networks: BTreeMap<String, Network>,
    #[serde(default)]
    secrets: BTreeMap<String, Handout>,
    #[serde(default)]
    configs: BTreeMap<String, Handout>,
    /// Ids of nodes that were removed after they had been managers: their certificates are worth nothing.
    #[serde(default)]
    pub(crate) removed_managers: BTreeSet<String>,
    /// By the digest of a key: which node it has lately joined as.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    joins: BTreeMap<String, Join>,
    /// The rules by which the leader has changes applied.
    #[serde(default, skip_serializing_if = "InForce::is_untold")]
    rules: InForce,
    /// What the group of managers differs by from those that it took the place of, when it was rebuilt from one manager or
    /// a backup; empty in one that never was. Managers of another one are not heard.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) incarnation: String,
    /// Those of the groups that it took the place of, see [`Lineage`]: managers of these have to stop.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    past_incarnations: Vec<String>,
    /// The next VNI to try.
    pub(crate) next_vni: u32,
    /// The next dynamic port to try.
    pub(crate) next_port: u16,
    /// Time of the proposal being applied, nanoseconds since the epoch.
    #[serde(skip)]
    pub(crate) time: i64,
    #[serde(skip)]
    indexes: Indexes,
    #[serde(skip)]
    templates: Templates,
    /// What the entries applied since the last [`State::take_events`] changed.
    #[serde(skip)]
    events: Vec<Event>,
}

impl State {
    /// Index of the last entry applied.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The cluster; `None` until its first entry is applied.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// Every node, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Every service, by id.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// Every task, by id.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values().map(|task| &**task)
    }

    /// Every network, by id.
    pub fn networks(&self) -> impl Iterator<Item = &Network> {
        self.networks.values()
    }

    /// The node with this very id.
    pub fn node(&self, id: &str) -> Option<&Node> {
        self.nodes.get(id)
    }

    /// The service with this very id.
    pub fn service(&self, id: &str) -> Option<&Service> {
        self.services.get(id)
    }

    /// The task with this very id.
    pub fn task(&self, id: &str) -> Option<&Task> {
        self.tasks.get(id).map(|task| &**task)
    }

    /// The network with this very id.
    pub fn network(&self, id: &str) -> Option<&Network> {
        self.networks.get(id)
    }

    /// The network that published ports travel on.
    pub fn ingress_network(&self) -> Option<&Network> {
        self.networks.values().find(|n| n.ingress)
    }

    /// Tasks of a service, by task id. Tasks outlive their service until they have stopped.
    pub fn tasks_of_service<'a>(&'a self, service_id: &str) -> impl Iterator<Item = &'a Task> {
        self.indexes
            .tasks_of_service(service_id)
            .filter_map(|id| self.task(id))
    }

    /// The services that have tasks, whether or not they are there themselves.
    pub(crate) fn services_of_tasks(&self) -> impl Iterator<Item = &String> {
        self.indexes.services_of_tasks()
    }

    /// Tasks of a service that have addresses, by task id.
    pub(crate) fn endpoints_of_service<'a>(
        &'a self,
        service_id: &str,
    ) -> impl Iterator<Item = &'a Task> {
        self.indexes
            .endpoints_of_service(service_id)
            .filter_map(|id| self.task(id))
    }

    /// Tasks on a node, by task id.
    pub fn tasks_of_node<'a>(&'a self, node_id: &str) -> impl Iterator<Item = &'a Task> {
        self.indexes
            .tasks_of_node(node_id)
            .filter_map(|id| self.task(id))
    }

    /// Tasks that wait for a node.
    pub(crate) fn pending_tasks(&self) -> impl Iterator<Item = &Task> {
        self.indexes.pending().filter_map(|id| self.task(id))
    }

    /// The events since the last call.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Rebuilds what is not stored, after the state was read.
    pub fn rebuild_indexes(&mut self) {
        templates::share_again(self.tasks.values_mut());
        self.indexes = Indexes::build(self);
    }

    pub(crate) fn indexes(&self) -> &Indexes {
        &self.indexes
    }

    pub(crate) fn put_cluster(&mut self, cluster: Cluster) {
        let id = cluster.id.clone();
        let action = EventAction::of(self.cluster.replace(cluster).is_none());
        self.event(ObjectKind::Cluster, action, id, String::new());
    }

    pub(crate) fn put_node(&mut self, node: Node) {
        self.indexes.note_nodes(self.index);
        let (id, name) = (node.id.clone(), node.description.hostname.clone());
        let action = EventAction::of(self.nodes.insert(id.clone(), node).is_none());
        self.event(ObjectKind::Node, action, id, name);
    }

    pub(crate) fn put_service(&mut self, service: Service) {
        let id = service.id.clone();
        if let Some(old) = self.services.get(&id) {
            self.indexes.remove_service(old);
        }
        self.indexes.add_service(&service);
        self.indexes.note_service(&id, self.index);
        self.indexes.note_shared(self.index);
        let name = service.name().to_owned();
        let action = EventAction::of(self.services.insert(id.clone(), service).is_none());
        self.event(ObjectKind::Service, action, id, name);
    }

    /// The template of a service, for a task that is made of it.
    pub(crate) fn template(&mut self, service_id: &str) -> Arc<engine::TaskSpec> {
        let service = self.services.get(service_id);
        match service.and_then(|service| service.spec.task_template.as_ref()) {
            Some(template) => self.templates.share(service_id, template),
            None => Arc::default(),
        }
    }

    pub(crate) fn put_task(&mut self, task: Task) {
        let id = task.id.clone();
        if let Some(old) = self.tasks.get(&id) {
            self.indexes.remove_task(old);
        }
        self.indexes.add_task(&task);
        self.indexes.note_service(&task.service_id, self.index);
        self.note_task_of(&task);
        let old = self.tasks.get(&id).map(|old| &old.status);
        let health = EventAction::of_health(old, &task.status);
        let change = Event {
            index: self.index,
            time: self.time,
            kind: ObjectKind::Task,
            action: EventAction::of(old.is_none()),
            id: id.clone(),
            name: String::new(),
            service_id: Some(task.service_id.clone()),
            container: None,
        };
        if let Some(action) = health {
            self.events.push(Event {
                action,
                name: task.name(),
                container: Some(Box::new(TaskContainer::of(&task))),
                ..change.clone()
            });
        }
        self.events.push(change);
        self.tasks.insert(id, Arc::new(task));
    }

    pub(crate) fn put_network(&mut self, network: Network) {
        let (id, name) = (network.id.clone(), network.name().to_owned());
        if let Some(old) = self.networks.get(&id) {
            self.indexes.remove_network(old);
        }
        self.indexes.add_network(&network);
        self.indexes.note_shared(self.index);
        let action = EventAction::of(self.networks.insert(id.clone(), network).is_none());
        self.event(ObjectKind::Network, action, id, name);
    }

    pub(crate) fn remove_node(&mut self, id: &str) {
        if let Some(old) = self.nodes.remove(id) {
            self.indexes.note_nodes(self.index);
            self.indexes.forget_node(id);
            let name = old.description.hostname;
            self.event(ObjectKind::Node, EventAction::Remove, id.to_owned(), name);
        }
    }

    pub(crate) fn remove_service(&mut self, id: &str) {
        if let Some(old) = self.services.remove(id) {
            self.indexes.remove_service(&old);
            self.indexes.note_shared(self.index);
            self.note_removal(id);
            let name = old.name().to_owned();
            self.event(
                ObjectKind::Service,
                EventAction::Remove,
                id.to_owned(),
                name,
            );
        }
    }

    pub(crate) fn remove_task(&mut self, id: &str) {
        if let Some(old) = self.tasks.remove(id) {
            self.indexes.remove_task(&old);
            self.note_task_of(&old);
            self.note_removal(&old.service_id);
            self.events.push(Event {
                index: self.index,
                time: self.time,
                kind: ObjectKind::Task,
                action: EventAction::Remove,
                id: old.id.clone(),
                name: String::new(),
                service_id: Some(old.service_id.clone()),
                container: None,
            });
        }
    }

    /// The task was added, changed or removed.
    fn note_task_of(&mut self, task: &Task) {
        // Tasks outlive nodes that were removed, and nobody is told of these.
        if let Some(node) = &task.node_id
            && self.nodes.contains_key(node)
        {
            self.indexes.note_task_of(node, self.index);
        }
    }

    /// A service was removed, or a task of it.
    fn note_removal(&mut self, service_id: &str) {
        let is_gone = !self.services.contains_key(service_id)
            && self.indexes.tasks_of_service(service_id).next().is_none();
        if is_gone {
            self.indexes.forget_service(service_id);
            self.templates.forget(service_id);
        } else {
            self.indexes.note_service(service_id, self.index);
        }
    }

    pub(crate) fn remove_network(&mut self, id: &str) {
        if let Some(old) = self.networks.remove(id) {
            self.indexes.remove_network(&old);
            self.indexes.note_shared(self.index);
            let name = old.name().to_owned();
            self.event(
                ObjectKind::Network,
                EventAction::Remove,
                id.to_owned(),
                name,
            );
        }
    }

    fn event(&mut self, kind: ObjectKind, action: EventAction, id: String, name: String) {
        self.events.push(Event {
            index: self.index,
            time: self.time,
            kind,
            action,
            id,
            name,
            service_id: None,
            container: None,
        });
    }
}
