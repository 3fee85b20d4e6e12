//! `node ps`

use anyhow::Result;
use mesh_api::Client;

use crate::view::task_table::{self, TaskFlags};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Nodes: self, names, ids or unique prefixes
    #[arg(default_value = "self", value_name = "NODE")]
    nodes: Vec<String>,
    #[command(flatten)]
    flags: TaskFlags,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let mut filters = args.flags.list.filters()?;
    for reference in &args.nodes {
        let node = super::find(client, reference).await?;
        filters = filters.with("node", node.id.unwrap_or_default());
    }
    let tasks = client.tasks(&filters).await?;
    task_table::print(client, &args.flags, tasks).await
}
