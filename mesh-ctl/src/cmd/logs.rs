//! `logs`: the log of one of the node's containers.

use anyhow::Result;
use mesh_api::Client;

use crate::streams::{self, LogFlags};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    flags: LogFlags,
    /// Container or task of this node: name, id or unique prefix
    #[arg(value_name = "CONTAINER|TASK")]
    container: String,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let options = args.flags.options()?;
    let container = client.container(&args.container).await?;
    let terminal = container
        .config
        .and_then(|config| config.tty)
        .unwrap_or(false);
    let stream = client.container_logs(&args.container, &options).await?;
    streams::copy(streams::reader(stream), terminal).await
}
