//! `drop ls`

use anyhow::Result;
use mesh_api::{Client, mesh::Drop};

use crate::{
    flags::nodes::NodeFlags,
    format::{ListFlags, Listing, Row},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also reasons for which nothing was dropped
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    nodes: NodeFlags,
    #[command(flatten)]
    list: ListFlags,
}

const LISTING: Listing = Listing {
    table: "{{.Reason}}\t{{.Place}}\t{{.Packets}}\t{{.Bytes}}",
    headings: &[
        ("Node", "NODE"),
        ("Reason", "REASON"),
        ("Place", "WHERE"),
        ("Packets", "PACKETS"),
        ("Bytes", "BYTES"),
    ],
    quiet: "{{.Reason}}",
};

const OF_NODES: Listing = Listing {
    table: "{{.Node}}\t{{.Reason}}\t{{.Place}}\t{{.Packets}}\t{{.Bytes}}",
    ..LISTING
};

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let filters = args.list.filters()?;
    filters.validate(&["reason", "place"])?;
    let (mut drops, listing) = if args.nodes.several() {
        let told = client.drops_of_nodes(args.nodes.node.as_deref()).await?;
        (args.nodes.told(told)?, OF_NODES)
    } else {
        (client.drops().await?, LISTING)
    };
    drops.retain(|drop| {
        (args.all || drop.packets > 0)
            && filters.matches("reason", |reason| reason == drop.reason)
            && filters.matches("place", |place| place == drop.place)
    });
    drops.sort_by_key(|drop| std::cmp::Reverse(drop.packets));
    listing.print(&args.list, drops.iter().map(row).collect())
}

fn row(drop: &Drop) -> Row {
    Row::new()
        .with("Node", drop.node_name.as_str())
        .with("Reason", drop.reason.as_str())
        .with("Place", drop.place.as_str())
        .with("Packets", drop.packets)
        .with("Bytes", drop.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let drop = Drop {
            node_name: String::new(),
            reason: "spoofed".into(),
            place: "overlay".into(),
            packets: 2,
            bytes: 120,
        };
        assert_eq!(
            LISTING
                .render(&ListFlags::default(), vec![row(&drop)])
                .expect("renders"),
            "REASON    WHERE     PACKETS   BYTES\nspoofed   overlay   2         120\n"
        );
    }
}
