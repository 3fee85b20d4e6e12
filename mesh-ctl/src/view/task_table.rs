//! The table of tasks that `service ps` and `node ps` show, with the history of each slot.

use std::collections::HashMap;

use anyhow::Result;
use chrono::{DateTime, Utc};
use mesh_api::{
    Client, Filters,
    engine::{Node, Service, Task},
    moment,
};

use super::{created_at, image_name, ports, word};
use crate::format::{ListFlags, Listing, Row, human};

/// Longest error shown unless told otherwise, in characters.
const MAX_ERROR: usize = 30;

/// Flags of the commands that list tasks.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct TaskFlags {
    #[command(flatten)]
    pub(crate) list: ListFlags,
    /// Show ids and errors in full
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Show ids of services and nodes instead of names
    #[arg(long)]
    pub(crate) no_resolve: bool,
}

const LISTING: Listing = Listing {
    table: "{{.ID}}\t{{.Name}}\t{{.Image}}\t{{.Node}}\t{{.DesiredState}}\t{{.CurrentState}}\t{{.Error}}\t{{.Ports}}",
    headings: &[
        ("ID", "ID"),
        ("Name", "NAME"),
        ("Image", "IMAGE"),
        ("Node", "NODE"),
        ("DesiredState", "DESIRED STATE"),
        ("CurrentState", "CURRENT STATE"),
        ("Error", "ERROR"),
        ("Ports", "PORTS"),
    ],
    quiet: "{{.ID}}",
};

/// Names of services and nodes by id.
#[derive(Default)]
struct Names {
    services: HashMap<String, String>,
    nodes: HashMap<String, String>,
}

/// Fetches the names the tasks need and writes the table.
pub(crate) async fn print(client: &Client, flags: &TaskFlags, tasks: Vec<Task>) -> Result<()> {
    let names = match flags.no_resolve {
        true => Names::default(),
        false => Names {
            services: service_names(client.services(&Filters::new(), false).await?),
            nodes: node_names(client.nodes(&Filters::new()).await?),
        },
    };
    LISTING.print(&flags.list, rows(tasks, &names, flags, Utc::now()))
}

fn service_names(services: Vec<Service>) -> HashMap<String, String> {
    services
        .into_iter()
        .filter_map(|service| Some((service.id?, service.spec?.name?)))
        .collect()
}

/// Host names of nodes by id.
pub(crate) fn node_names(nodes: Vec<Node>) -> HashMap<String, String> {
    nodes
        .into_iter()
        .filter_map(|node| {
            let name = node
                .spec
                .and_then(|spec| spec.name)
                .filter(|name| !name.is_empty());
            Some((node.id?, name.or(node.description?.hostname)?))
        })
        .collect()
}

fn rows(tasks: Vec<Task>, names: &Names, flags: &TaskFlags, now: DateTime<Utc>) -> Vec<Row> {
    let (full, is_table) = (flags.no_trunc || flags.list.quiet, flags.list.is_table());
    let mut named: Vec<(String, Task)> = tasks
        .into_iter()
        .map(|task| (name(&task, names), task))
        .collect();
    named.sort_by(|(left, a), (right, b)| {
        human::natural_cmp(left, right).then_with(|| created_at(b).cmp(&created_at(a)))
    });
    let mut rows = Vec::with_capacity(named.len());
    let mut previous = String::new();
    for (name, task) in named {
        let shown = if is_table && name == previous {
            format!(" \\_ {name}")
        } else {
            name.clone()
        };
        rows.push(row(&task, &shown, names, full, now));
        previous = name;
    }
    rows
}

/// `<service>.<slot>`, or `<service>.<node id>` for a task of a global service.
fn name(task: &Task, names: &Names) -> String {
    let service = task.service_id.as_deref().unwrap_or_default();
    let service = names.services.get(service).map_or(service, String::as_str);
    match task.slot {
        Some(slot) if slot != 0 => format!("{service}.{slot}"),
        _ => format!("{service}.{}", task.node_id.as_deref().unwrap_or_default()),
    }
}

fn row(task: &Task, name: &str, names: &Names, full: bool, now: DateTime<Utc>) -> Row {
    let status = task.status.clone().unwrap_or_default();
    let image = task
        .spec
        .as_ref()
        .and_then(|spec| spec.container_spec.as_ref())
        .and_then(|container| container.image.as_deref())
        .unwrap_or_default();
    let node = task.node_id.as_deref().unwrap_or_default();
    let current = match moment::read(status.timestamp.as_deref()) {
        Some(at) => {
            format!(
                "{} {}",
                human::title(&word(status.state)),
                human::ago(now, at).to_lowercase()
            )
        }
        None => human::title(&word(status.state)),
    };
    let published = status
        .port_status
        .and_then(|ports| ports.ports)
        .unwrap_or_default();
    Row::new()
        .with(
            "ID",
            human::id(task.id.as_deref().unwrap_or_default(), full),
        )
        .with("Name", name)
        .with("Image", if full { image } else { image_name(image) })
        .with("Node", names.nodes.get(node).map_or(node, String::as_str))
        .with("DesiredState", human::title(&word(task.desired_state)))
        .with("CurrentState", current)
        .with(
            "Error",
            error(status.err.as_deref().unwrap_or_default(), full),
        )
        .with("Ports", ports::of_task(&published))
}

fn error(text: &str, full: bool) -> String {
    if text.is_empty() {
        return String::new();
    }
    if full || text.chars().count() <= MAX_ERROR {
        return format!("\"{text}\"");
    }
    let cut: String = text.chars().take(MAX_ERROR - 1).collect();
    format!("\"{cut}…\"")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tasks() -> Vec<Task> {
        let task = |id: &str, slot: i64, state: &str, desired: &str, created: &str, error: &str| {
            json!({
                "ID": id, "ServiceID": "svc", "Slot": slot, "NodeID": "nod", "CreatedAt": created,
                "Spec": {"ContainerSpec": {"Image": "nginx:latest@sha256:00"}},
                "Status": {"State": state, "Timestamp": "2026-01-01T00:00:57Z", "Err": error},
                "DesiredState": desired
            })
        };
        serde_json::from_value(json!([
            task(
                "task10xxxxxxxxxxxxxxxxxxx",
                10,
                "running",
                "running",
                "2026-01-01T00:00:00Z",
                ""
            ),
            task(
                "task2axxxxxxxxxxxxxxxxxxx",
                2,
                "failed",
                "shutdown",
                "2026-01-01T00:00:00Z",
                "task: non-zero exit (137): something long"
            ),
            task(
                "task2bxxxxxxxxxxxxxxxxxxx",
                2,
                "running",
                "running",
                "2026-01-01T00:00:30Z",
                ""
            )
        ]))
        .expect("tasks")
    }

    #[test]
    fn history_hangs_below_its_slot() {
        let names = Names {
            services: HashMap::from([("svc".to_owned(), "web".to_owned())]),
            nodes: HashMap::from([("nod".to_owned(), "n1".to_owned())]),
        };
        let now = "2026-01-01T00:01:00Z".parse().expect("time");
        let render = |format: Option<&str>| {
            let mut flags = TaskFlags::default();
            flags.list.format = format.map(str::to_owned);
            let rows = rows(tasks(), &names, &flags, now);
            LISTING.render(&flags.list, rows).expect("renders")
        };
        let marked = |format| render(format).contains("\\_");
        assert!(marked(Some("table {{.Name}}")));
        assert!(!marked(Some("{{.Name}}")) && !marked(Some("json")));
        assert_eq!(
            render(None).lines().map(str::trim_end).collect::<Vec<_>>(),
            [
                "ID             NAME        IMAGE          NODE      DESIRED STATE   CURRENT STATE           ERROR                              PORTS",
                "task2bxxxxxx   web.2       nginx:latest   n1        Running         Running 3 seconds ago",
                "task2axxxxxx    \\_ web.2   nginx:latest   n1        Shutdown        Failed 3 seconds ago    \"task: non-zero exit (137): so…\"",
                "task10xxxxxx   web.10      nginx:latest   n1        Running         Running 3 seconds ago",
            ]
        );
    }
}
