//! `vip inspect`

use anyhow::Result;
use mesh_api::Client;

use crate::format::inspect;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Services (names, ids, unique prefixes) or virtual addresses
    #[arg(required = true, value_name = "SERVICE|ADDRESS")]
    references: Vec<String>,
    /// Format: 'json' or a Go template
    #[arg(short, long)]
    format: Option<String>,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let mut vips = Vec::new();
    for reference in &args.references {
        vips.extend(client.vip(reference).await?);
    }
    inspect::print(&vips, args.format.as_deref())
}
