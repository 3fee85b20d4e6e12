//! `swarm leave`

use anyhow::Result;
use mesh_api::Client;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave even as a manager, whatever becomes of the cluster
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    client.swarm_leave(args.force).await?;
    say!("Node left the swarm.")?;
    Ok(())
}
