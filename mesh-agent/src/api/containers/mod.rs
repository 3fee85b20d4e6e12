//! `/containers`: the containers of this node's tasks. There are no others.

pub(super) mod inspect;
pub(super) mod lifecycle;
pub(super) mod streams;

use std::collections::HashMap;

use axum::{
    Json,
    extract::{Query as QueryOf, State},
};
use chrono::{DateTime, Utc};
use mesh_api::{
    Filters,
    engine::{
        ContainerSummary, ContainerSummaryHostConfig, ContainerSummaryNetworkSettings,
        ContainerSummaryStateEnum, EndpointSettings, TaskSpecContainerSpec,
    },
    human::duration,
};
use mesh_manager::state::TaskState;

use super::{Answer, Api, args::Query};
use crate::{
    container,
    health::{Health, Status},
    links::plan::mac_of,
    node::LocalTask,
};

const FILTERS: [&str; 12] = [
    "ancestor", "before", "exited", "health", "id", "is-task", "label", "name", "network", "since",
    "status", "volume",
];

pub(super) async fn list(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Json<Vec<ContainerSummary>>> {
    let filters = query.filters(&FILTERS)?;
    let limit = query
        .number::<i64>("limit")?
        .and_then(|limit| usize::try_from(limit).ok());
    let all = query.flag("all") || filters.contains("status") || limit.is_some_and(|n| n > 0);
    let own = node_id(&api);
    let bounds = bounds(&api, &filters)?;
    let tasks = api.node.tasks();
    let now = Utc::now();
    let mut found: Vec<&LocalTask> = tasks
        .iter()
        .filter(|task| all || state(task) == ContainerSummaryStateEnum::RUNNING)
        .filter(|task| matches(&filters, task, &own, api.node.health(task)))
        .filter(|task| {
            filters.matches("volume", |volume| {
                let mounts = inspect::mounts(&api, task);
                mounts.iter().any(|mount| {
                    let names = [&mount.name, &mount.destination];
                    names.into_iter().flatten().any(|name| name == volume)
                })
            })
        })
        .filter(|task| bounds.iter().all(|bound| bound.holds(task.created)))
        .collect();
    found.sort_by_key(|task| std::cmp::Reverse(task.created));
    if let Some(limit) = limit.filter(|limit| *limit > 0) {
        found.truncate(limit);
    }
    Ok(Json(
        found
            .into_iter()
            .map(|task| summary(&api, task, now))
            .collect(),
    ))
}

/// A filter by the time when another container was made, nanoseconds since the epoch.
enum Bound {
    Before(i64),
    Since(i64),
}

impl Bound {
    fn holds(&self, created: i64) -> bool {
        match self {
            Self::Before(at) => created < *at,
            Self::Since(at) => created > *at,
        }
    }
}

/// The filters `before` and `since`, which name containers.
fn bounds(api: &Api, filters: &Filters) -> Answer<Vec<Bound>> {
    let created = |name: &str| api.node.find_task(name).map(|task| task.created);
    let before = filters
        .get("before")
        .map(|name| created(name).map(Bound::Before));
    let since = filters
        .get("since")
        .map(|name| created(name).map(Bound::Since));
    Ok(before.chain(since).collect::<Result<_, _>>()?)
}

fn matches(filters: &Filters, task: &LocalTask, node_id: &str, health: Option<Health>) -> bool {
    let labels = labels(task, node_id);
    let word = word(state(task));
    filters.prefix("id", &task.container_id)
        && filters.substring("name", &task.task.name)
        && filters.exact("status", word)
        && filters.exact("is-task", "true")
        && filters.exact("health", inspect::health_word(health.as_ref()))
        && filters.matches("ancestor", |image| task_image(task).contains(image))
        && filters.matches("network", |network| {
            task.task
                .attachments
                .iter()
                .any(|held| held.network_id.starts_with(network))
        })
        && filters.matches("exited", |code| {
            task.status
                .exit_code
                .is_some_and(|own| own.to_string() == code)
        })
        && filters.labels("label", |name| labels.get(name).map(String::as_str))
}

/// Docker's state of a task's container.
pub(super) fn state(task: &LocalTask) -> ContainerSummaryStateEnum {
    match TaskState::parse(&task.status.state) {
        Some(TaskState::Running) => ContainerSummaryStateEnum::RUNNING,
        // It has to prove first that it answers, or does well.
        Some(TaskState::Starting) if task.started != 0 => ContainerSummaryStateEnum::RUNNING,
        Some(state) if state.is_terminal() => ContainerSummaryStateEnum::EXITED,
        _ => ContainerSummaryStateEnum::CREATED,
    }
}

fn word(state: ContainerSummaryStateEnum) -> &'static str {
    match state {
        ContainerSummaryStateEnum::RUNNING => "running",
        ContainerSummaryStateEnum::EXITED => "exited",
        _ => "created",
    }
}

/// Such as `Up 3 minutes (healthy)` or `Exited (137) 2 seconds ago`.
fn status_text(task: &LocalTask, health: Option<Health>, now: DateTime<Utc>) -> String {
    let seconds = |nanos: i64| (now - DateTime::from_timestamp_nanos(nanos)).num_seconds();
    match state(task) {
        ContainerSummaryStateEnum::RUNNING => {
            let health = match health.map(|health| health.status) {
                None => "",
                Some(Status::Starting) => " (health: starting)",
                Some(Status::Healthy) => " (healthy)",
                Some(Status::Unhealthy) => " (unhealthy)",
            };
            format!("Up {}{health}", duration(seconds(task.started)))
        }
        ContainerSummaryStateEnum::EXITED => format!(
            "Exited ({}) {} ago",
            task.status.exit_code.unwrap_or(0),
            duration(seconds(task.finished))
        ),
        _ => "Created".to_owned(),
    }
}

/// The labels of a container: the spec's and Swarm's.
pub(super) fn labels(task: &LocalTask, node_id: &str) -> HashMap<String, String> {
    let mut labels = container_spec(task).labels.unwrap_or_default();
    labels.extend(container::swarm_labels(&task.task, node_id));
    labels
}

/// This node's id; empty outside of a cluster.
pub(super) fn node_id(api: &Api) -> String {
    api.node
        .state()
        .cluster()
        .map(|member| member.node_id.clone())
        .unwrap_or_default()
}

pub(super) fn container_spec(task: &LocalTask) -> TaskSpecContainerSpec {
    task.spec.container_spec.clone().unwrap_or_default()
}

fn task_image(task: &LocalTask) -> String {
    container_spec(task).image.unwrap_or_default()
}

/// The image's id and the command that it and the spec make together.
pub(super) fn image_and_command(api: &Api, task: &LocalTask) -> (String, Vec<String>) {
    let spec = container_spec(task);
    let image = api
        .node
        .images()
        .get(spec.image.as_deref().unwrap_or_default())
        .ok();
    let id = image
        .as_ref()
        .map(|image| image.id.to_string())
        .unwrap_or_default();
    let config = image.map(|image| image.config).unwrap_or_default();
    (id, container::command(&spec, &config))
}

/// The MAC that goes with an IPv4 address, in words.
pub(super) fn mac(address: &str) -> Option<String> {
    let mac = mac_of(address.parse().ok()?);
    Some(mac.map(|byte| format!("{byte:02x}")).join(":"))
}

/// The networks of a task by name.
pub(super) fn networks(api: &Api, task: &LocalTask) -> HashMap<String, EndpointSettings> {
    let assignment = api.node.assignment();
    task.task
        .attachments
        .iter()
        .map(|held| {
            let network = assignment.networks.get(&held.network_id);
            let name = network.map_or_else(|| held.network_id.clone(), |known| known.name.clone());
            let prefix = network.and_then(|known| known.subnet.split_once('/')?.1.parse().ok());
            let settings = EndpointSettings {
                network_id: Some(held.network_id.clone()),
                ip_address: Some(held.address.clone()),
                ip_prefix_len: prefix,
                mac_address: mac(&held.address),
                aliases: Some(held.aliases.clone()),
                gateway: Some(String::new()),
                endpoint_id: Some(task.container_id.clone()),
                ..Default::default()
            };
            (name, settings)
        })
        .collect()
}

fn summary(api: &Api, task: &LocalTask, now: DateTime<Utc>) -> ContainerSummary {
    let (image_id, command) = image_and_command(api, task);
    ContainerSummary {
        id: Some(task.container_id.clone()),
        names: Some(vec![format!("/{}", task.task.name)]),
        image: Some(task_image(task)),
        image_id: Some(image_id),
        command: Some(command.join(" ")),
        created: Some(task.created / 1_000_000_000),
        ports: Some(Vec::new()),
        labels: Some(labels(task, &node_id(api))),
        state: Some(state(task)),
        status: Some(status_text(task, api.node.health(task), now)),
        host_config: Some(ContainerSummaryHostConfig {
            network_mode: Some("default".to_owned()),
            annotations: None,
        }),
        network_settings: Some(ContainerSummaryNetworkSettings {
            networks: Some(networks(api, task)),
        }),
        mounts: Some(inspect::mounts(api, task)),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::mac;

    #[test]
    fn macs_are_made_of_addresses() {
        assert_eq!(mac("10.0.1.255").as_deref(), Some("02:42:0a:00:01:ff"));
        assert_eq!(mac("fd00::1"), None);
    }
}
