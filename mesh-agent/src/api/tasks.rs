//! `/tasks`

use axum::{
    extract::{Path, Query as QueryOf, State},
    http::Uri,
};
use form_urlencoded::Serializer;
use mesh_api::{Filters, engine};
use mesh_manager::state::{State as ClusterState, Task, TaskState};

use super::{Answer, Api, Shown, args::Query, errors::ApiError};

const FILTERS: [&str; 8] = [
    "_up-to-date",
    "desired-state",
    "id",
    "label",
    "name",
    "node",
    "runtime",
    "service",
];

/// What stands for the node that is asked.
const SELF: &str = "self";

/// A question for the tasks of the node that is asked, as another one may answer it: with the `own` id in the place of
/// `self`. `None` if it is not such a question.
pub(super) fn with_own_id(uri: &Uri, own: &str) -> Option<Uri> {
    let query = uri.query().filter(|_| uri.path().ends_with("/tasks"))?;
    let mut is_changed = false;
    let mut rewritten = Serializer::new(String::new());
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        // What cannot be read is refused by whoever answers.
        let filters = Filters::parse(&value).ok().filter(|_| name == "filters");
        let replaced = filters.and_then(|mut filters| {
            let is_replaced = filters.replace("node", SELF, own);
            is_replaced.then(|| filters.to_query()).flatten()
        });
        is_changed |= replaced.is_some();
        rewritten.append_pair(&name, replaced.as_deref().unwrap_or(&value));
    }
    let query = rewritten.finish();
    let uri = format!("{}?{query}", uri.path()).parse();
    uri.ok().filter(|_| is_changed)
}

pub(super) async fn list(
    State(api): State<Api>,
    QueryOf(query): QueryOf<Query>,
) -> Answer<Shown<Vec<engine::Task>>> {
    let manager = api.manager()?;
    let own = manager.identity().node_id.clone();
    let filters = query.filters(&FILTERS)?;
    let view = manager.view();
    let wanted = Wanted::read(&filters, &view, &own)?;
    let tasks = match wanted.services.as_deref() {
        Some(services) => services
            .iter()
            .flat_map(|id| view.tasks_of_service(id))
            .filter(|task| wanted.matches(&view, task))
            .map(Task::to_engine)
            .collect(),
        None => view
            .tasks()
            .filter(|task| wanted.matches(&view, task))
            .map(Task::to_engine)
            .collect(),
    };
    Ok(Shown(tasks))
}

/// The filters with names resolved.
struct Wanted<'a> {
    filters: &'a Filters,
    services: Option<Vec<String>>,
    nodes: Option<Vec<String>>,
    up_to_date: Option<bool>,
}

impl<'a> Wanted<'a> {
    fn read(filters: &'a Filters, view: &ClusterState, own: &str) -> Result<Self, ApiError> {
        let services = filters
            .contains("service")
            .then(|| {
                filters
                    .get("service")
                    .map(|name| Ok(view.find_service(name)?.id.clone()))
                    .collect::<Result<Vec<_>, ApiError>>()
            })
            .transpose()?;
        let nodes = filters
            .contains("node")
            .then(|| {
                filters
                    .get("node")
                    .map(|name| {
                        // Older managers leave this to the leader.
                        let name = if name == SELF { own } else { name };
                        Ok(view.find_node(name)?.id.clone())
                    })
                    .collect::<Result<Vec<_>, ApiError>>()
            })
            .transpose()?;
        for state in filters.get("desired-state") {
            if !matches!(
                TaskState::parse(state),
                Some(
                    TaskState::Running
                        | TaskState::Complete
                        | TaskState::Shutdown
                        | TaskState::Accepted
                )
            ) {
                return Err(ApiError::bad_request(format!(
                    "invalid filter 'desired-state={state}': it is running, complete, shutdown or accepted"
                )));
            }
        }
        Ok(Self {
            filters,
            services,
            nodes,
            up_to_date: filters.boolean("_up-to-date")?,
        })
    }

    fn matches(&self, view: &ClusterState, task: &Task) -> bool {
        let node = task.node_id.as_deref().unwrap_or_default();
        let on_node = self
            .nodes
            .as_ref()
            .is_none_or(|nodes| nodes.iter().any(|id| id == node));
        let current = || {
            view.service(&task.service_id)
                .is_some_and(|service| service.spec_version == task.spec_version)
        };
        on_node
            && self.filters.prefix("id", &task.id)
            && self.filters.prefix("name", &task.name())
            && self.filters.exact("runtime", "container")
            && self
                .filters
                .matches("desired-state", |wanted| desired(task, wanted))
            && self.filters.labels("label", |name| {
                task.service_labels.get(name).map(String::as_str)
            })
            && self.up_to_date.is_none_or(|wanted| wanted == current())
    }
}

/// To its users a task is wanted to run, a job's to complete, or it is not.
fn desired(task: &Task, wanted: &str) -> bool {
    let is_job = task.job_iteration.is_some();
    match wanted {
        "running" => task.desired == TaskState::Running && !is_job,
        "complete" => task.desired == TaskState::Running && is_job,
        "accepted" => task.desired == TaskState::Accepted,
        _ => task.desired == TaskState::Shutdown,
    }
}

pub(super) async fn inspect(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Answer<Shown<engine::Task>> {
    let manager = api.manager()?;
    let task = manager.view().find_task(&id)?.to_engine();
    Ok(Shown(task))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A question for tasks by these filters.
    fn asked(path: &str, filters: &str) -> Uri {
        let mut query = Serializer::new(String::new());
        query.append_pair("filters", filters);
        query.append_pair("x", "a&b");
        format!("{path}?{}", query.finish()).parse().expect("a URI")
    }

    #[test]
    fn self_is_who_was_asked() {
        for (filters, resolved) in [
            (r#"{"node":["self"]}"#, Some(r#"{"node":{"me":true}}"#)),
            (
                r#"{"name":{"web":true},"node":{"other":true,"self":true}}"#,
                Some(r#"{"name":{"web":true},"node":{"me":true,"other":true}}"#),
            ),
            (r#"{"node":{"self":false}}"#, None),
            (r#"{"node":["other"]}"#, None),
            (r#"{"name":["self"]}"#, None),
            ("nonsense", None),
            ("", None),
        ] {
            let expected = resolved.map(|filters| asked("/tasks", filters));
            assert_eq!(with_own_id(&asked("/tasks", filters), "me"), expected);
        }
        let of_node = r#"{"node":["self"]}"#;
        assert_eq!(with_own_id(&asked("/nodes", of_node), "me"), None);
        assert_eq!(with_own_id(&Uri::from_static("/tasks"), "me"), None);
    }
}
