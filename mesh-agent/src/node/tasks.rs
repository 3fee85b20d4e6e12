//! The node's tasks as the container routes of the API list them.

use std::net::IpAddr;

use mesh_api::{engine::TaskSpec, proto};

use super::NodeError;
use crate::{
    assignment::Assignment,
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

pub(super) fn find(
    tasks: &[LocalTask],
    key: &str,
    assignment: &Assignment,
) -> Result<LocalTask, NodeError> {
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
        (None, _) => {
            if let Some(task) = of_slot(tasks, key) {
                return Ok(task.clone());
            }
            let hint = example(key, tasks, assignment).map_or_else(String::new, |task| {
                format!(": this is a service; name a task of it, such as {task}")
            });
            Err(NodeError::NotFound(format!(
                "No such container: {key}{hint}"
            )))
        }
    }
}

/// The task that `service ps` calls so (a name ends with the task's id); where a slot has had several, the newest of those
/// that have not ended, or of all.
fn of_slot<'a>(tasks: &'a [LocalTask], slot: &str) -> Option<&'a LocalTask> {
    let is_of = |t: &&LocalTask| {
        let name = t.task.name.strip_suffix(t.task.id.as_str());
        name.and_then(|name| name.strip_suffix('.')) == Some(slot)
    };
    let newest = |t: &&LocalTask| (t.finished == 0, t.created);
    tasks.iter().filter(is_of).max_by_key(newest)
}

/// A task of the service that is called so: on this node if there is one, else with its node's name.
fn example(service: &str, tasks: &[LocalTask], assignment: &Assignment) -> Option<String> {
    if let Some(own) = tasks.iter().rfind(|t| t.task.service_name == service) {
        return Some(own.task.name.clone());
    }
    let service = assignment.services.values().find(|s| s.name == service)?;
    let task = assignment.endpoints.get(&service.id)?.values().next()?;
    let node = assignment.peers.get(&task.node_id)?;
    Some(format!("{} on {}", task.name, node.hostname))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_a_service_is_told_a_task_of_it() {
        let mut assignment = Assignment::default();
        let service = proto::Service {
            id: "s".into(),
            name: "web".into(),
            ..Default::default()
        };
        assignment.services.insert("s".into(), service.into());
        let endpoint = proto::Endpoint {
            service_id: "s".into(),
            name: "web.2".into(),
            node_id: "n".into(),
            ..Default::default()
        };
        assignment.add_endpoint(endpoint);
        let peer = proto::Peer {
            hostname: "n2".into(),
            ..Default::default()
        };
        assignment.peers.insert("n".into(), peer);
        let record = Record {
            task: proto::Task {
                id: "t1".into(),
                name: "web.1.t1".into(),
                service_name: "web".into(),
                spec_json: b"{}".into(),
                ..Default::default()
            },
            ..Default::default()
        };
        let own = [LocalTask::of(&record).expect("task")];
        let refused = |tasks: &[LocalTask], key| {
            let error = find(tasks, key, &assignment).expect_err("refused");
            error.to_string()
        };
        assert_eq!(
            refused(&own, "web"),
            "No such container: web: this is a service; name a task of it, such as web.1.t1"
        );
        assert_eq!(
            refused(&[], "web"),
            "No such container: web: this is a service; name a task of it, such as web.2 on n2"
        );
        assert_eq!(refused(&own, "db"), "No such container: db");
        assert_eq!(refused(&own, "web."), "No such container: web.");
        for key in ["t1", "t", "web.1", "web.1.t1", "/web.1"] {
            assert_eq!(find(&own, key, &assignment).expect(key), own[0]);
        }
        // Two that have ended, one that was made before the second of them and runs.
        let of_slot = |id: &str, created, finished| {
            let mut task = own[0].clone();
            task.task.id = id.to_owned();
            task.task.name = format!("web.1.{id}");
            LocalTask {
                created,
                finished,
                ..task
            }
        };
        let mut slot = vec![of_slot("a", 1, 2), of_slot("b", 3, 0), of_slot("c", 4, 5)];
        let found = |tasks: &[LocalTask]| find(tasks, "web.1", &assignment).expect("one").task.id;
        assert_eq!(found(&slot), "b");
        slot.remove(1);
        assert_eq!(found(&slot), "c");
    }
}
