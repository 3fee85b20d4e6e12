//! The node's tasks as the container routes of the API list them.

use std::net::IpAddr;

use mesh_api::{engine::TaskSpec, proto};

use super::NodeError;
use crate::{
    links::plan::container_id,
    reconcile::{jobs, record::Record},
};

/// A task of this node and its container.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalTask {
    /// As assigned.
    pub task: proto::Task,
    /// The parsed specification.
    pub spec: TaskSpec,
    /// As last reported: state, pid, exit code, times.
    pub status: proto::TaskStatus,
    /// 64 hexadecimal digits, derived from the task id.
    pub container_id: String,
    /// Nanoseconds since the epoch, when the node accepted the task.
    pub created: i64,
    /// Nanoseconds since the epoch, or 0.
    pub started: i64,
    /// Nanoseconds since the epoch, or 0.
    pub finished: i64,
    /// Node-local address, for the outside; tasks with published ports use their ingress address.
    pub local_address: IpAddr,
}

impl LocalTask {
    /// From what the node remembers; `None` if the specification cannot be read.
    pub fn of(record: &Record) -> Option<Self> {
        let spec = jobs::spec_of(&record.task).ok()?;
        Some(Self {
            spec,
            container_id: container_id(&record.task.id),
            status: record.status.clone(),
            created: record.created,
            started: record.started,
            finished: record.finished,
            local_address: IpAddr::V4(record.local_address()),
            task: record.task.clone(),
        })
    }
}

pub(super) fn find(tasks: &[LocalTask], key: &str) -> Result<LocalTask, NodeError> {
    let key = key.strip_prefix('/').unwrap_or(key);
    if let Some(exact) = tasks
        .iter()
        .find(|t| t.task.id == key || t.container_id == key || t.task.name == key)
    {
        return Ok(exact.clone());
    }
    let mut matching = tasks.iter().filter(|t| {
        !key.is_empty() && (t.task.id.starts_with(key) || t.container_id.starts_with(key))
    });
    match (matching.next(), matching.next()) {
        (Some(one), None) => Ok(one.clone()),
        (Some(_), Some(_)) => Err(NodeError::Invalid(format!(
            "multiple containers found with the prefix {key}"
        ))),
        (None, _) => Err(NodeError::NotFound(format!("No such container: {key}"))),
    }
}
