//! `drop`: packets that went nowhere, and why.

mod ls;

use anyhow::Result;
use clap::Subcommand;
use mesh_api::Client;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List why and where the node dropped packets
    #[command(visible_alias = "list")]
    Ls(ls::Args),
}

pub(crate) async fn run(client: &Client, command: Command) -> Result<()> {
    let Command::Ls(args) = command;
    ls::run(client, args).await
}
