//! `volume`: the volumes of the node.

mod create;
mod ls;
mod prune;

use anyhow::Result;
use clap::Subcommand;
use mesh_api::Client;
use serde_json::Value;

use crate::format::inspect;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a volume
    Create(create::Args),
    /// Show volumes in full
    Inspect(Inspect),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    /// Remove the volumes that no container uses
    Prune(prune::Args),
    /// Remove volumes
    #[command(visible_alias = "remove")]
    Rm(Rm),
}

/// Flags of `volume inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// Names of volumes
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
    /// Format: 'json' or a Go template
    #[arg(short, long)]
    format: Option<String>,
}

/// Flags of `volume rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// Names of volumes
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
    /// One that is not there is no error
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn run(client: &Client, command: Command) -> Result<()> {
    match command {
        Command::Create(args) => create::run(client, args).await,
        Command::Inspect(args) => {
            // As they come: Docker writes their fields by the alphabet.
            let mut volumes: Vec<Value> = Vec::new();
            for name in &args.volumes {
                let path = format!("/volumes/{}", mesh_api::client::encode(name));
                volumes.push(client.get(&path, &[]).await?);
            }
            inspect::print(&volumes, args.format.as_deref())
        }
        Command::Ls(args) => ls::run(client, args).await,
        Command::Prune(args) => prune::run(client, args).await,
        Command::Rm(args) => {
            super::for_each(args.volumes, async |name| {
                Ok(client.volume_remove(&name, args.force).await?)
            })
            .await
        }
    }
}
