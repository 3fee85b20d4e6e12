//! `ps`: the node's containers.

use anyhow::Result;
use chrono::{DateTime, Utc};
use mesh_api::{Client, engine::ContainerSummary};

use crate::{
    format::{ListFlags, Listing, Row, human},
    view::{image_name, label_text, text, word},
};

/// Longest command shown unless told otherwise, in characters.
const MAX_COMMAND: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ended containers too
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    list: ListFlags,
    /// Show ids and commands in full
    #[arg(long)]
    no_trunc: bool,
}

const LISTING: Listing = Listing {
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
    headings: &[
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("CreatedAt", "CREATED AT"),
        ("RunningFor", "CREATED"),
        ("Status", "STATUS"),
        ("State", "STATE"),
        ("Ports", "PORTS"),
        ("Names", "NAMES"),
        ("Labels", "LABELS"),
        ("Networks", "NETWORKS"),
    ],
    quiet: "{{.ID}}",
};

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let containers = client.containers(args.all, &args.list.filters()?).await?;
    let now = Utc::now();
    let rows = containers
        .iter()
        .map(|container| row(container, args.no_trunc, now))
        .collect();
    LISTING.print(&args.list, rows)
}

fn row(container: &ContainerSummary, no_trunc: bool, now: DateTime<Utc>) -> Row {
    let created = DateTime::from_timestamp(container.created.unwrap_or(0), 0).unwrap_or_default();
    let command = text(&container.command);
    let command = match no_trunc || command.chars().count() <= MAX_COMMAND {
        true => command.to_owned(),
        false => command.chars().take(MAX_COMMAND - 1).chain(['…']).collect(),
    };
    let names: Vec<String> = container
        .names
        .iter()
        .flatten()
        .map(|name| name.trim_start_matches('/').to_owned())
        .collect();
    let ports: Vec<String> = container
        .ports
        .iter()
        .flatten()
        .map(|port| match port.public_port {
            Some(public) => format!(
                "{}:{public}->{}/{}",
                port.ip.as_deref().unwrap_or("0.0.0.0"),
                port.private_port,
                word(port.typ)
            ),
            None => format!("{}/{}", port.private_port, word(port.typ)),
        })
        .collect();
    let mut networks: Vec<String> = container
        .network_settings
        .iter()
        .filter_map(|settings| settings.networks.as_ref())
        .flat_map(|networks| networks.keys().cloned())
        .collect();
    networks.sort();
    Row::new()
        .with("ID", human::id(text(&container.id), no_trunc))
        .with("Image", image_name(text(&container.image)))
        .with("Command", format!("\"{command}\""))
        .with("CreatedAt", created.to_string())
        .with("RunningFor", human::ago(now, created))
        .with("Status", text(&container.status))
        .with("State", word(container.state))
        .with("Ports", ports.join(", "))
        .with("Names", names.join(","))
        .with("Labels", label_text(container.labels.as_ref()))
        .with("Networks", networks.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let container: ContainerSummary = serde_json::from_value(serde_json::json!({
            "Id": "0123456789abcdef", "Image": "whoami:latest", "Command": "/whoami --port 8080 --name x",
            "Created": 0, "Status": "Up 2 minutes", "Names": ["/web.1.abc"]
        }))
        .expect("container");
        let now = DateTime::from_timestamp(120, 0).expect("time");
        assert_eq!(
            LISTING
                .render(&ListFlags::default(), vec![row(&container, false, now)])
                .expect("renders"),
            "CONTAINER ID   IMAGE           COMMAND                  CREATED         STATUS         PORTS     NAMES\n\
             0123456789ab   whoami:latest   \"/whoami --port 8080…\"   2 minutes ago   Up 2 minutes             web.1.abc\n"
        );
    }
}
