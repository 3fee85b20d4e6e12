//! Finding objects as users name them: full id, then full name, then unique id prefix.

use super::{Network, Node, Service, State, Task};
use crate::ManagerError;
use std::collections::BTreeMap;

/// The one object whose id begins with `prefix`.
pub(super) fn by_prefix<'a, T>(
    noun: &str,
    objects: &'a BTreeMap<String, T>,
    prefix: &str,
) -> Result<&'a T, ManagerError> {
    if prefix.is_empty() {
        return Err(ManagerError::not_found(noun, prefix));
    }
    let mut matches = objects
        .range(prefix.to_owned()..)
        .take_while(|(id, _)| id.starts_with(prefix))
        .map(|(_, object)| object);
    match (matches.next(), matches.next()) {
        (Some(object), None) => Ok(object),
        (Some(_), Some(_)) => Err(ManagerError::ambiguous(noun, prefix)),
        (None, _) => Err(ManagerError::not_found(noun, prefix)),
    }
}

impl State {
    /// Whether a manager's certificate, signed at `issued_at` (nanoseconds since the epoch), may still make this node one. The
    /// state may be older than the certificate: who is not known, or is a worker here, has become a manager since.
    pub(crate) fn honours_manager(&self, node_id: &str, issued_at: i64) -> bool {
        let demoted_at = self.nodes.get(node_id).and_then(|node| node.demoted_at);
        !self.removed_managers.contains(node_id) && demoted_at.is_none_or(|at| issued_at > at)
    }

    /// A service by id, name or unique id prefix.
    ///
    /// # Errors
    /// Not found, or the prefix is that of several.
    pub fn find_service(&self, key: &str) -> Result<&Service, ManagerError> {
        let named = || self.services.get(self.indexes.service_by_name(key)?);
        match self.services.get(key).or_else(named) {
            Some(service) => Ok(service),
            None => by_prefix("service", &self.services, key),
        }
    }

    /// A network by id, name or unique id prefix.
    ///
    /// # Errors
    /// As [`find_service`](Self::find_service).
    pub fn find_network(&self, key: &str) -> Result<&Network, ManagerError> {
        let named = || self.networks.get(self.indexes.network_by_name(key)?);
        match self.networks.get(key).or_else(named) {
            Some(network) => Ok(network),
            None => by_prefix("network", &self.networks, key),
        }
    }

    /// A node by id, host name or unique id prefix. Host names need not be unique: one of several nodes names none.
    ///
    /// # Errors
    /// As [`find_service`](Self::find_service).
    pub fn find_node(&self, key: &str) -> Result<&Node, ManagerError> {
        if let Some(node) = self.nodes.get(key) {
            return Ok(node);
        }
        let mut named = self
            .nodes
            .values()
            .filter(|n| n.description.hostname == key);
        match (named.next(), named.next()) {
            (Some(node), None) => Ok(node),
            (Some(_), Some(_)) => Err(ManagerError::ambiguous("node", key)),
            (None, _) => by_prefix("node", &self.nodes, key),
        }
    }

    /// A task by id, name or unique id prefix.
    ///
    /// # Errors
    /// As [`find_service`](Self::find_service).
    pub fn find_task(&self, key: &str) -> Result<&Task, ManagerError> {
        if let Some(task) = self.task(key) {
            return Ok(task);
        }
        if let Some(task) = self.tasks().find(|t| t.name() == key) {
            return Ok(task);
        }
        by_prefix("task", &self.tasks, key).map(|task| &**task)
    }
}
