//! `network ls`

use anyhow::Result;
use mesh_api::{Client, engine::Network, moment};

use crate::{
    format::{ListFlags, Listing, Row, human},
    view::{label_text, text},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    list: ListFlags,
    /// Show ids in full
    #[arg(long)]
    no_trunc: bool,
}

const LISTING: Listing = Listing {
    table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
    headings: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ],
    quiet: "{{.ID}}",
};

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let mut networks = client.networks(&args.list.filters()?).await?;
    networks.sort_by(|a, b| human::natural_cmp(text(&a.name), text(&b.name)));
    let rows = networks
        .iter()
        .map(|network| row(network, args.no_trunc))
        .collect();
    LISTING.print(&args.list, rows)
}

fn row(network: &Network, no_trunc: bool) -> Row {
    Row::new()
        .with("ID", human::id(text(&network.id), no_trunc))
        .with("Name", text(&network.name))
        .with("Driver", text(&network.driver))
        .with("Scope", text(&network.scope))
        .with("IPv6", network.enable_ipv6.unwrap_or(false).to_string())
        .with("Internal", network.internal.unwrap_or(false).to_string())
        .with("Labels", label_text(network.labels.as_ref()))
        .with(
            "CreatedAt",
            moment::read(network.created.as_deref())
                .map(|at| at.to_string())
                .unwrap_or_default(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let network: Network = serde_json::from_value(serde_json::json!({
            "Id": "abcdefghijklmnopqrstuvwxy", "Name": "ingress", "Driver": "overlay", "Scope": "swarm"
        }))
        .expect("network");
        assert_eq!(
            LISTING
                .render(&ListFlags::default(), vec![row(&network, false)])
                .expect("renders"),
            "NETWORK ID     NAME      DRIVER    SCOPE\nabcdefghijkl   ingress   overlay   swarm\n"
        );
    }
}
