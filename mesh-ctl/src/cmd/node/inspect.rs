//! `node inspect`

use anyhow::Result;
use mesh_api::Client;

use crate::format::{self, inspect};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Nodes: self, names, ids or unique prefixes
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
    /// Format: 'json' or a Go template
    #[arg(short, long)]
    format: Option<String>,
    /// Show what matters for people
    #[arg(long, conflicts_with = "format")]
    pretty: bool,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let mut nodes = Vec::new();
    for reference in &args.nodes {
        nodes.push(super::find(client, reference).await?);
    }
    if args.pretty {
        for node in &nodes {
            format::write(super::pretty::render(node))?;
        }
        return Ok(());
    }
    inspect::print(&nodes, args.format.as_deref())
}
