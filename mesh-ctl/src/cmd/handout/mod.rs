//! `secret` and `config`: files that tasks are handed. The commands are the same for both.

mod create;
mod inspect;
mod ls;

use anyhow::Result;
use clap::Subcommand;
use mesh_api::{Client, handout::Kind};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make one of a file, or of standard input
    Create(create::Args),
    /// Show some in full
    Inspect(inspect::Args),
    /// List all
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    /// Remove some
    #[command(visible_alias = "remove")]
    Rm(Rm),
}

/// Flags of `secret rm` and `config rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// Names, ids or unique prefixes
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

pub(crate) async fn run(client: &Client, kind: Kind, command: Command) -> Result<()> {
    match command {
        Command::Create(args) => create::run(client, kind, args).await,
        Command::Inspect(args) => inspect::run(client, kind, args).await,
        Command::Ls(args) => ls::run(client, kind, args).await,
        Command::Rm(args) => {
            super::for_each(args.names, async |name| {
                Ok(client.handout_remove(kind, &name).await?)
            })
            .await
        }
    }
}
