//! `drop ls`

use anyhow::Result;
use mesh_api::{Client, mesh::Drop};

use crate::format::{ListFlags, Listing, Row};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also reasons for which nothing was dropped
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    list: ListFlags,
}

const LISTING: Listing = Listing {
    table: "{{.Reason}}\t{{.Place}}\t{{.Packets}}\t{{.Bytes}}",
    headings: &[
        ("Reason", "REASON"),
        ("Place", "WHERE"),
        ("Packets", "PACKETS"),
        ("Bytes", "BYTES"),
    ],
    quiet: "{{.Reason}}",
};

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let filters = args.list.filters()?;
    filters.validate(&["reason", "place"])?;
    let mut drops = client.drops().await?;
    drops.retain(|drop| {
        (args.all || drop.packets > 0)
            && filters.matches("reason", |reason| reason == drop.reason)
            && filters.matches("place", |place| place == drop.place)
    });
    drops.sort_by_key(|drop| std::cmp::Reverse(drop.packets));
    LISTING.print(&args.list, drops.iter().map(row).collect())
}

fn row(drop: &Drop) -> Row {
    Row::new()
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
