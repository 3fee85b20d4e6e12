//! `rm`: the node's containers.

use anyhow::Result;
use mesh_api::Client;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Containers: names, ids or unique prefixes
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Kill those that run
    #[arg(short, long)]
    force: bool,
    /// Volumes without a name, too: they go with their task in any case
    #[arg(short, long)]
    volumes: bool,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    super::for_each(args.containers, async |name| {
        Ok(client.container_remove(&name, args.force).await?)
    })
    .await
}
