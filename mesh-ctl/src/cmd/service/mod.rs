//! `service`: services and their tasks.

mod create;
mod inspect;
mod logs;
mod ls;
mod pretty;
mod ps;
mod rollback;
mod rollout_flags;
mod scale;
mod spec_flags;
mod update;

use anyhow::Result;
use clap::Subcommand;
use mesh_api::Client;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a service
    Create(Box<create::Args>),
    /// Show services in full
    Inspect(inspect::Args),
    /// Show the logs of a service or a task
    Logs(logs::Args),
    /// List services
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    /// List the tasks of services
    Ps(ps::Args),
    /// Remove services
    #[command(visible_alias = "remove")]
    Rm(Rm),
    /// Put a service's previous spec back
    Rollback(rollback::Args),
    /// Set the number of tasks of services
    Scale(scale::Args),
    /// Change a service
    Update(Box<update::Args>),
}

/// Flags of `service rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// Services: names, ids or unique prefixes
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

/// Whether to wait until the service has converged.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct WaitFlags {
    /// Return at once instead of waiting for the service to converge
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) detach: bool,
    /// Show no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

pub(crate) async fn run(client: &Client, command: Command) -> Result<()> {
    match command {
        Command::Create(args) => create::run(client, *args).await,
        Command::Inspect(args) => inspect::run(client, args).await,
        Command::Logs(args) => logs::run(client, args).await,
        Command::Ls(args) => ls::run(client, args).await,
        Command::Ps(args) => ps::run(client, args).await,
        Command::Rm(args) => {
            super::for_each(args.services, async |name| {
                Ok(client.service_remove(&name).await?)
            })
            .await
        }
        Command::Rollback(args) => rollback::run(client, args).await,
        Command::Scale(args) => scale::run(client, args).await,
        Command::Update(args) => update::run(client, *args).await,
    }
}
