//! `flow`: which client talks to which task.

mod ls;

use anyhow::Result;
use clap::Subcommand;
use mesh_api::Client;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List open flows: of clients to the node's tasks, and of its tasks to virtual addresses
    #[command(visible_alias = "list")]
    Ls(ls::Args),
}

pub(crate) async fn run(client: &Client, command: Command) -> Result<()> {
    let Command::Ls(args) = command;
    ls::run(client, args).await
}
