//! `network inspect`

use anyhow::Result;
use mesh_api::Client;

use crate::format::inspect;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Networks: names, ids or unique prefixes
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
    /// Format: 'json' or a Go template
    #[arg(short, long)]
    format: Option<String>,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let mut networks = Vec::new();
    for reference in &args.networks {
        networks.push(client.network(reference).await?);
    }
    inspect::print(&networks, args.format.as_deref())
}
