//! `network`: overlay networks.

mod create;
mod inspect;
mod ls;
mod prune;

use anyhow::Result;
use clap::Subcommand;
use mesh_api::Client;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a network
    Create(create::Args),
    /// Show networks in full
    Inspect(inspect::Args),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    /// Remove the networks that nothing uses
    Prune(prune::Args),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(Rm),
}

/// Flags of `network rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// Networks: names, ids or unique prefixes
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

pub(crate) async fn run(client: &Client, command: Command) -> Result<()> {
    match command {
        Command::Create(args) => create::run(client, args).await,
        Command::Inspect(args) => inspect::run(client, args).await,
        Command::Ls(args) => ls::run(client, args).await,
        Command::Prune(args) => prune::run(client, args).await,
        Command::Rm(args) => {
            super::for_each(args.networks, async |name| {
                Ok(client.network_remove(&name).await?)
            })
            .await
        }
    }
}
