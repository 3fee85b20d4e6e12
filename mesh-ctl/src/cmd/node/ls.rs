//! `node ls`

use anyhow::Result;
use mesh_api::{
    Client,
    engine::{Node, Reachability},
};

use crate::{
    format::{ListFlags, Listing, Row, human},
    view::word,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    list: ListFlags,
}

const LISTING: Listing = Listing {
    table: "{{.ID}} {{if .Self}}*{{else}} {{end}}\t{{.Hostname}}\t{{.Status}}\t{{.Availability}}\t{{.ManagerStatus}}\t{{.EngineVersion}}",
    headings: &[
        ("ID", "ID"),
        ("Self", ""),
        ("Hostname", "HOSTNAME"),
        ("Status", "STATUS"),
        ("Availability", "AVAILABILITY"),
        ("ManagerStatus", "MANAGER STATUS"),
        ("EngineVersion", "ENGINE VERSION"),
        ("TLSStatus", "TLS STATUS"),
    ],
    quiet: "{{.ID}}",
};

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let mut nodes = client.nodes(&args.list.filters()?).await?;
    let own = match args.list.quiet {
        true => String::new(),
        false => super::own_id(client).await?,
    };
    nodes.sort_by(|a, b| human::natural_cmp(hostname(a), hostname(b)));
    LISTING.print(
        &args.list,
        nodes.iter().map(|node| row(node, &own)).collect(),
    )
}

fn hostname(node: &Node) -> &str {
    node.description
        .as_ref()
        .and_then(|known| known.hostname.as_deref())
        .unwrap_or_default()
}

fn row(node: &Node, own: &str) -> Row {
    let id = node.id.as_deref().unwrap_or_default();
    let manager = match &node.manager_status {
        Some(status) if status.leader == Some(true) => "Leader".to_owned(),
        Some(status) => match status.reachability {
            Some(Reachability::UNREACHABLE) => "Unreachable".to_owned(),
            Some(Reachability::REACHABLE) => "Reachable".to_owned(),
            _ => "Unknown".to_owned(),
        },
        None => String::new(),
    };
    let engine = node
        .description
        .as_ref()
        .and_then(|known| known.engine.as_ref());
    Row::new()
        .with("ID", id)
        .with("Self", id == own)
        .with("Hostname", hostname(node))
        .with(
            "Status",
            human::title(&word(node.status.as_ref().and_then(|status| status.state))),
        )
        .with(
            "Availability",
            human::title(&word(node.spec.as_ref().and_then(|spec| spec.availability))),
        )
        .with("ManagerStatus", manager)
        .with(
            "EngineVersion",
            engine
                .and_then(|engine| engine.engine_version.clone())
                .unwrap_or_default(),
        )
        .with("TLSStatus", "Ready")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let nodes: Vec<Node> = serde_json::from_value(serde_json::json!([
            {"ID": "node1xxxxxxxxxxxxxxxxxxxx1", "Spec": {"Availability": "active", "Role": "manager"},
             "Description": {"Hostname": "h1", "Engine": {"EngineVersion": "28.0.0"}},
             "Status": {"State": "ready"},
             "ManagerStatus": {"Leader": true, "Reachability": "reachable"}},
            {"ID": "node2xxxxxxxxxxxxxxxxxxxx2", "Spec": {"Availability": "drain", "Role": "worker"},
             "Description": {"Hostname": "h2", "Engine": {"EngineVersion": "28.0.0"}},
             "Status": {"State": "down"}}
        ]))
        .expect("nodes");
        let rows = nodes
            .iter()
            .map(|node| row(node, "node1xxxxxxxxxxxxxxxxxxxx1"))
            .collect();
        assert_eq!(
            LISTING
                .render(&ListFlags::default(), rows)
                .expect("renders"),
            "ID                             HOSTNAME   STATUS    AVAILABILITY   MANAGER STATUS   ENGINE VERSION\n\
             node1xxxxxxxxxxxxxxxxxxxx1 *   h1         Ready     Active         Leader           28.0.0\n\
             node2xxxxxxxxxxxxxxxxxxxx2     h2         Down      Drain                           28.0.0\n"
        );
    }
}
