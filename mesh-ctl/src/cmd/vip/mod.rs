//! `vip`: virtual addresses and the tasks behind them.

mod inspect;
mod ls;

use anyhow::Result;
use clap::Subcommand;
use mesh_api::Client;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the virtual addresses of services, with every task behind them
    Inspect(inspect::Args),
    /// List virtual addresses
    #[command(visible_alias = "list")]
    Ls(ls::Args),
}

pub(crate) async fn run(client: &Client, command: Command) -> Result<()> {
    match command {
        Command::Inspect(args) => inspect::run(client, args).await,
        Command::Ls(args) => ls::run(client, args).await,
    }
}
