//! `service logs`

use std::collections::HashMap;

use anyhow::{Result, bail};
use futures::StreamExt;
use mesh_api::{Client, Filters, client::LogOptions};

use crate::{
    format::human,
    log_line::LogLine,
    streams::{self, LogFlags},
    view::task_table::node_names,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Service or task: name, id or unique prefix
    #[arg(value_name = "SERVICE|TASK")]
    reference: String,
    #[command(flatten)]
    flags: LogFlags,
    /// Show ids in full
    #[arg(long)]
    no_trunc: bool,
    /// Leave out the names of the tasks
    #[arg(long)]
    no_task_ids: bool,
    /// Only what the tasks wrote
    #[arg(long)]
    raw: bool,
    /// Show ids instead of names
    #[arg(long)]
    no_resolve: bool,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let options = LogOptions {
        details: !args.raw,
        ..args.flags.options()?
    };
    let (stream, terminal, width) = match client.service(&args.reference, false).await {
        Ok(service) => {
            let spec = service.spec.unwrap_or_default();
            let terminal = spec.task_template.and_then(|task| task.container_spec?.tty);
            let width = spec
                .mode
                .and_then(|mode| mode.replicated?.replicas)
                .unwrap_or(1)
                .to_string()
                .len();
            let id = service.id.unwrap_or_default();
            (
                client.service_logs(&id, &options).await?,
                terminal.unwrap_or(false),
                width,
            )
        }
        Err(error) if error.is_not_found() => {
            let task = match client.task(&args.reference).await {
                Ok(task) => task,
                Err(other) if other.is_not_found() => {
                    bail!("no such task or service: {}", args.reference)
                }
                Err(other) => return Err(other.into()),
            };
            let terminal = task.spec.and_then(|spec| spec.container_spec?.tty);
            let id = task.id.unwrap_or_default();
            (
                client.task_logs(&id, &options).await?,
                terminal.unwrap_or(false),
                1,
            )
        }
        Err(error) => return Err(error.into()),
    };
    if args.raw || terminal {
        return streams::copy(streams::reader(stream), terminal).await;
    }
    let mut names = TaskNames::new(client, &args, width);
    let mut lines = streams::lines(stream, options.timestamps, options.details);
    while let Some(line) = lines.next().await {
        let line = line?;
        let prefix = names.prefix(&line).await;
        streams::write_line(&line, &prefix, args.flags.details)?;
    }
    Ok(())
}

/// `web.1.abc@n1    |` for each task seen, looked up once.
struct TaskNames<'a> {
    client: &'a Client,
    args: &'a Args,
    width: usize,
    nodes: Option<HashMap<String, String>>,
    seen: HashMap<String, String>,
}

impl<'a> TaskNames<'a> {
    fn new(client: &'a Client, args: &'a Args, width: usize) -> Self {
        Self {
            client,
            args,
            width,
            nodes: None,
            seen: HashMap::new(),
        }
    }

    async fn prefix(&mut self, line: &LogLine) -> String {
        let detail = |key| line.detail(key).unwrap_or_default();
        let id = detail("com.docker.swarm.task.id");
        if let Some(prefix) = self.seen.get(id) {
            return prefix.clone();
        }
        let node = detail("com.docker.swarm.node.id");
        let service = detail("com.docker.swarm.service.id");
        let prefix = self.resolve(id, node, service).await;
        self.seen.insert(id.to_owned(), prefix.clone());
        prefix
    }

    async fn resolve(&mut self, id: &str, node: &str, service: &str) -> String {
        let mut service_name = service.to_owned();
        let mut node_name = node.to_owned();
        if !self.args.no_resolve {
            if let Ok(found) = self.client.service(service, false).await {
                service_name = found
                    .spec
                    .and_then(|spec| spec.name)
                    .unwrap_or(service_name);
            }
            if self.nodes.is_none() {
                let nodes = self.client.nodes(&Filters::new()).await.unwrap_or_default();
                self.nodes = Some(node_names(nodes));
            }
            if let Some(name) = self.nodes.as_ref().and_then(|nodes| nodes.get(node)) {
                node_name.clone_from(name);
            }
        }
        // The task may have been forgotten since: its slot is then not shown.
        let slot = match self.client.task(id).await {
            Ok(task) => task.slot.filter(|slot| *slot != 0),
            Err(_) => None,
        };
        let slot = slot.map_or_else(|| node.to_owned(), |slot| slot.to_string());
        let mut name = format!("{service_name}.{slot}");
        if !self.args.no_task_ids {
            name.push('.');
            name.push_str(human::id(id, self.args.no_trunc));
        }
        let gap = self.width.saturating_sub(slot.len());
        format!("{name}@{node_name}{:gap$}    | ", "")
    }
}
