//! `network prune`

use anyhow::Result;
use mesh_api::Client;

use crate::{flags, terminal};

/// Docker's words.
const WARNING: &str =
    "WARNING! This will remove all custom networks not used by at least one container.";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Filter, as key=value
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let filters = flags::filters(&args.filters)?;
    if !args.force {
        terminal::confirm("network prune", WARNING)?;
    }
    let removed = client.networks_prune(&filters).await?;
    if !removed.is_empty() {
        say!("Deleted Networks:\n{}\n", removed.join("\n"))?;
    }
    Ok(())
}
