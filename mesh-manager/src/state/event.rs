//! What an applied entry changed, for those who wait for changes.

use super::{Task, TaskState, TaskStatus};
use std::collections::HashMap;

/// Kind of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// The cluster itself.
    Cluster,
    /// A node.
    Node,
    /// A service.
    Service,
    /// A task.
    Task,
    /// A network.
    Network,
    /// A secret.
    Secret,
    /// A config.
    Config,
}

/// What happened to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventAction {
    /// It was made.
    Create,
    /// It was changed.
    Update,
    /// It was removed.
    Remove,
    /// The health check of a task has succeeded: it runs from now on.
    Healthy,
    /// The health check of a task has failed for good.
    Unhealthy,
}

impl EventAction {
    pub(crate) fn of(is_new: bool) -> Self {
        if is_new { Self::Create } else { Self::Update }
    }

    /// What a task's new status says of its health that the old one did not.
    pub(super) fn of_health(old: Option<&TaskStatus>, new: &TaskStatus) -> Option<Self> {
        let was = |is: fn(&TaskStatus) -> bool| old.is_some_and(is);
        if new.unhealthy && !was(|old| old.unhealthy) {
            return Some(Self::Unhealthy);
        }
        (new.healthy && !was(|old| old.state >= TaskState::Running)).then_some(Self::Healthy)
    }
}

/// The container of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskContainer {
    /// Its id.
    pub id: String,
    /// Its image, as the task's specification names it.
    pub image: String,
    /// Its labels, those included that say whose it is.
    pub labels: HashMap<String, String>,
}

impl TaskContainer {
    pub(super) fn of(task: &Task) -> Self {
        let container = task.spec.container_spec.clone().unwrap_or_default();
        let own = [
            ("node.id", task.node_id.clone().unwrap_or_default()),
            ("service.id", task.service_id.clone()),
            ("service.name", task.service_name.clone()),
            ("task", String::new()),
            ("task.id", task.id.clone()),
            ("task.name", task.name()),
        ];
        let mut labels = container.labels.unwrap_or_default();
        labels.extend(own.map(|(key, value)| (format!("com.docker.swarm.{key}"), value)));
        Self {
            id: task.status.container_id.clone(),
            image: container.image.unwrap_or_default(),
            labels,
        }
    }
}

/// One change of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Raft index of the change.
    pub index: u64,
    /// Time of the change, nanoseconds since the epoch.
    pub time: i64,
    /// Kind of the object.
    pub kind: ObjectKind,
    /// What happened.
    pub action: EventAction,
    /// Its id.
    pub id: String,
    /// Its name, unless it is the cluster or a task; of a task's health, that of its container.
    pub name: String,
    /// Of a task: its service.
    pub service_id: Option<String>,
    /// Of a task's health: its container.
    pub container: Option<Box<TaskContainer>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Operation,
        fixture::{World, replicated},
    };

    #[test]
    fn a_tasks_health_is_told_once() {
        let mut world = World::new(&["n1"]);
        let id = world.service(replicated("web", 1)).unwrap();
        world.settle();
        let task = world.wanted(&id)[0].clone();
        let report = |state, healthy, unhealthy, message: &str| TaskStatus {
            state,
            healthy,
            unhealthy,
            message: message.to_owned(),
            container_id: "c1".to_owned(),
            ..TaskStatus::default()
        };
        let running = TaskState::Running;
        let mut told: Vec<Vec<_>> = Vec::new();
        for status in [
            report(TaskState::Starting, false, false, ""),
            report(running, true, false, ""),
            report(running, true, false, "again"),
            report(running, true, true, ""),
            report(TaskState::Failed, false, false, ""),
        ] {
            world.state.events.clear();
            let statuses = vec![(task.id.clone(), status)];
            world.apply(Operation::TaskStatuses(statuses)).unwrap();
            let events = world.state.events.iter();
            told.push(
                events
                    .filter_map(|e| Some((e.action, e.container.clone()?)))
                    .collect(),
            );
        }
        let container = TaskContainer::of(world.state.task(&task.id).unwrap());
        assert_eq!(container.id, "c1");
        let of = |action| vec![(action, Box::new(container.clone()))];
        let (healthy, unhealthy) = (of(EventAction::Healthy), of(EventAction::Unhealthy));
        assert_eq!(told, [vec![], healthy, vec![], unhealthy, vec![]]);
        assert_eq!(container.labels["com.docker.swarm.task.name"], task.name());
        assert_eq!(container.labels["com.docker.swarm.node.id"], "n1");
    }
}
