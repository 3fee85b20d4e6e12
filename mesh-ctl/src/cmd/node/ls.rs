//! `node ls`

use anyhow::Result;
use mesh_api::{
    Client,
    engine::{Node, Reachability, SwarmInfo, TlsInfo},
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
    let swarm = match args.list.quiet {
        true => SwarmInfo::default(),
        false => client.info().await?.swarm.unwrap_or_default(),
    };
    let own = swarm.node_id.unwrap_or_default();
    let wanted = swarm.cluster.and_then(|cluster| cluster.tls_info);
    nodes.sort_by(|a, b| human::natural_cmp(hostname(a), hostname(b)));
    LISTING.print(
        &args.list,
        nodes
            .iter()
            .map(|node| row(node, &own).with("TLSStatus", tls_status(node, wanted.as_ref())))
            .collect(),
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
}

/// Whether the node trusts the root, and has a certificate of the one, that it is to; Docker's words.
fn tls_status(node: &Node, wanted: Option<&TlsInfo>) -> &'static str {
    let has = node.description.as_ref();
    match (has.and_then(|known| known.tls_info.as_ref()), wanted) {
        (Some(has), Some(wanted)) if has == wanted => "Ready",
        (Some(_), Some(_)) => "Needs Rotation",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_statuses() {
        let tls = |root: &str, key: &str| -> TlsInfo {
            let info = serde_json::json!({"TrustRoot": root, "CertIssuerPublicKey": key});
            serde_json::from_value(info).expect("an info")
        };
        let node = |info: &TlsInfo| -> Node {
            let node = serde_json::json!({"Description": {"TLSInfo": info}});
            serde_json::from_value(node).expect("a node")
        };
        let wanted = tls("old", "new");
        for (has, expected) in [
            (node(&wanted), "Ready"),
            (node(&tls("old", "old")), "Needs Rotation"),
            (node(&tls("new", "new")), "Needs Rotation"),
            (Node::default(), "Unknown"),
        ] {
            assert_eq!(tls_status(&has, Some(&wanted)), expected);
            assert_eq!(tls_status(&has, None), "Unknown");
        }
    }

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
