//! `node promote`, `node demote`

use anyhow::{Context, Result};
use mesh_api::{
    Client, Filters,
    engine::{Node, NodeSpecRoleEnum},
};

use crate::cmd::{all_done, swarm::Role};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Nodes: host names, ids, unique prefixes or self
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

pub(crate) async fn run(client: &Client, args: Args, role: Role) -> Result<()> {
    let mut errors = Vec::new();
    for name in &args.nodes {
        match change(client, name, role).await {
            // The others are done also where nobody reads on.
            Ok(said) => drop(say!("{said}")),
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    warn(client).await;
    all_done(errors)
}

async fn change(client: &Client, name: &str, role: Role) -> Result<String> {
    let node = super::find(client, name).await?;
    let id = node
        .id
        .clone()
        .context("the agent gave a node without an id")?;
    let version = node.version.as_ref().and_then(|version| version.index);
    let version = version.context("the agent gave a node without a version")?;
    let wanted = match role {
        Role::Worker => NodeSpecRoleEnum::WORKER,
        Role::Manager => NodeSpecRoleEnum::MANAGER,
    };
    let mut spec = node.spec.unwrap_or_default();
    if spec.role == Some(wanted) {
        return Ok(format!("Node {name} is already a {role}."));
    }
    spec.role = Some(wanted);
    client.node_update(&id, version, &spec).await?;
    Ok(match role {
        Role::Worker => format!("Manager {name} demoted in the swarm."),
        Role::Manager => format!("Node {name} promoted to a manager in the swarm."),
    })
}

/// Says what is wrong with the number of managers, if that can be told.
pub(crate) async fn warn(client: &Client) {
    let Ok(nodes) = client.nodes(&Filters::default()).await else {
        return;
    };
    let is_manager = |node: &&Node| {
        let role = node.spec.as_ref().and_then(|spec| spec.role);
        role == Some(NodeSpecRoleEnum::MANAGER)
    };
    let managers = nodes.iter().filter(is_manager).count();
    if let Some(warning) = mesh_api::even_managers(managers) {
        note!("{warning}");
    }
}
