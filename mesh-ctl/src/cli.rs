//! The tree of commands and the global flags.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use mesh_api::{Client, handout::Kind};

use crate::cmd;

/// The command line of the mesh.
#[derive(Debug, Parser)]
#[command(name = "mesh-ctl", version, about, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Socket of the agent, as unix:///path [env: MESH_HOST, DOCKER_HOST]
    #[arg(short = 'H', long, value_name = "HOST")]
    host: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Manage configs
    #[command(subcommand)]
    Config(cmd::handout::Command),
    /// Check every node, the tunnels between them and their published ports
    Doctor(cmd::doctor::Args),
    /// Look at packets the node dropped
    #[command(subcommand)]
    Drop(cmd::drop::Command),
    /// Run a command in a running container or task
    Exec(cmd::exec::Args),
    /// Look at flows
    #[command(subcommand)]
    Flow(cmd::flow::Command),
    /// List the node's images
    Images(cmd::image::ls::Args),
    /// Manage images
    #[command(subcommand)]
    Image(cmd::image::Command),
    /// Show what the agent says of itself and its node
    Info(cmd::info::Args),
    /// Show objects of any kind in full
    Inspect(cmd::inspect::Args),
    /// Load images from an archive
    Load(cmd::image::load::Args),
    /// Show the log of a container of this node
    Logs(cmd::logs::Args),
    /// Manage networks
    #[command(subcommand)]
    Network(cmd::network::Command),
    /// Manage nodes
    #[command(subcommand)]
    Node(cmd::node::Command),
    /// List the node's containers
    Ps(cmd::ps::Args),
    /// Pull an image from its registry
    Pull(cmd::image::pull::Args),
    /// Remove containers of this node; their services replace them
    Rm(cmd::rm::Args),
    /// Manage secrets
    #[command(subcommand)]
    Secret(cmd::handout::Command),
    /// Manage services
    #[command(subcommand)]
    Service(cmd::service::Command),
    /// Manage the cluster
    #[command(subcommand)]
    Swarm(cmd::swarm::Command),
    /// Follow packets through all nodes
    Trace(cmd::trace::Args),
    /// Show the versions of client and agent
    Version(cmd::version::Args),
    /// Look at virtual addresses
    #[command(subcommand)]
    Vip(cmd::vip::Command),
    /// Manage the node's volumes
    #[command(subcommand)]
    Volume(cmd::volume::Command),
}

impl Cli {
    /// Runs the command.
    pub(crate) async fn run(self) -> Result<ExitCode> {
        let client = Client::from_host(&host(self.host))?;
        let done = self.command.run(&client).await;
        for warning in client.take_warnings() {
            note!("WARNING: {warning}");
        }
        done
    }
}

impl Command {
    async fn run(self, client: &Client) -> Result<ExitCode> {
        match self {
            Command::Config(command) => cmd::handout::run(client, Kind::Config, command).await,
            Command::Doctor(args) => return cmd::doctor::run(client, args).await,
            Command::Drop(command) => cmd::drop::run(client, command).await,
            Command::Exec(args) => return cmd::exec::run(client, args).await,
            Command::Flow(command) => cmd::flow::run(client, command).await,
            Command::Images(args) => cmd::image::ls::run(client, args).await,
            Command::Image(command) => cmd::image::run(client, command).await,
            Command::Info(args) => cmd::info::run(client, args).await,
            Command::Inspect(args) => cmd::inspect::run(client, args).await,
            Command::Load(args) => cmd::image::load::run(client, args).await,
            Command::Logs(args) => cmd::logs::run(client, args).await,
            Command::Network(command) => cmd::network::run(client, command).await,
            Command::Node(command) => cmd::node::run(client, command).await,
            Command::Ps(args) => cmd::ps::run(client, args).await,
            Command::Pull(args) => cmd::image::pull::run(client, args).await,
            Command::Rm(args) => cmd::rm::run(client, args).await,
            Command::Secret(command) => cmd::handout::run(client, Kind::Secret, command).await,
            Command::Service(command) => cmd::service::run(client, command).await,
            Command::Swarm(command) => cmd::swarm::run(client, command).await,
            Command::Trace(args) => cmd::trace::run(client, args).await,
            Command::Version(args) => cmd::version::run(client, args).await,
            Command::Vip(command) => cmd::vip::run(client, command).await,
            Command::Volume(command) => cmd::volume::run(client, command).await,
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The flag, else `MESH_HOST`, else `DOCKER_HOST`, else the usual socket.
fn host(flag: Option<String>) -> String {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    flag.or_else(|| variable("MESH_HOST"))
        .or_else(|| variable("DOCKER_HOST"))
        .unwrap_or_else(|| format!("unix://{}", mesh_api::DEFAULT_SOCKET))
}

/// clap's complaint without its usage text.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines() {
        if line.is_empty() && !lines.is_empty() {
            break;
        }
        lines.push(line.trim());
    }
    let line = lines.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    format!("{line} (see --help)")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn complaints_are_one_line() {
        for arguments in [
            vec!["mesh-ctl", "service", "create", "--replicas", "-1", "x"],
            vec!["mesh-ctl", "node", "frobnicate"],
            vec!["mesh-ctl", "service", "scale"],
        ] {
            let error = Cli::try_parse_from(&arguments).expect_err("bad arguments");
            let line = one_line(&error);
            assert!(!line.contains('\n') && line.len() > 20, "{line}");
        }
    }
}
