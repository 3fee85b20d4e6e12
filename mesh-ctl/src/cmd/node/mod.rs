//! `node`: the cluster's nodes.

mod inspect;
mod ls;
mod pretty;
mod ps;
pub(crate) mod role;
mod update;

use anyhow::{Result, bail};
use clap::Subcommand;
use mesh_api::{Client, engine::Node};

use super::swarm::Role;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make managers workers
    Demote(role::Args),
    /// Show nodes in full
    Inspect(inspect::Args),
    /// List nodes
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    /// Make workers managers
    Promote(role::Args),
    /// List the tasks of nodes
    Ps(ps::Args),
    /// Remove nodes from the cluster
    #[command(visible_alias = "remove")]
    Rm(Rm),
    /// Change a node
    Update(update::Args),
}

/// Flags of `node rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// Nodes: host names, ids or unique prefixes
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
    /// Remove nodes that are not down as well
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn run(client: &Client, command: Command) -> Result<()> {
    match command {
        Command::Demote(args) => role::run(client, args, Role::Worker).await,
        Command::Promote(args) => role::run(client, args, Role::Manager).await,
        Command::Inspect(args) => inspect::run(client, args).await,
        Command::Ls(args) => ls::run(client, args).await,
        Command::Ps(args) => ps::run(client, args).await,
        Command::Rm(args) => {
            super::for_each(args.nodes, async |name| {
                Ok(client.node_remove(&name, args.force).await?)
            })
            .await
        }
        Command::Update(args) => update::run(client, args).await,
    }
}

/// Id of the agent's own node; empty if it is in no cluster.
async fn own_id(client: &Client) -> Result<String> {
    let swarm = client.info().await?.swarm;
    Ok(swarm.and_then(|swarm| swarm.node_id).unwrap_or_default())
}

/// A node by reference; `self` is the agent's own.
async fn find(client: &Client, reference: &str) -> Result<Node> {
    if reference != "self" {
        return Ok(client.node(reference).await?);
    }
    let own = own_id(client).await?;
    if own.is_empty() {
        bail!(
            "this node is not part of a swarm: run 'mesh-ctl swarm init' or 'mesh-ctl swarm join'"
        );
    }
    Ok(client.node(&own).await?)
}
