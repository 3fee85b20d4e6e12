//! `swarm`: the cluster.

mod backup;
mod ca;
mod init;
mod join;
mod join_token;
mod leave;
mod secret_file;
mod unlock;
mod unlock_key;
mod update;

use anyhow::{Context, Result};
use clap::Subcommand;
use mesh_api::{Client, engine::SwarmSpec};

use crate::terminal;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write all of the cluster's state to a file, to go on with it elsewhere
    Backup(backup::Args),
    /// Show or rotate the root CA
    Ca(ca::Args),
    /// Start a cluster with this node as its first manager
    Init(init::Args),
    /// Join a cluster
    Join(join::Args),
    /// Show or rotate the tokens that nodes join with
    JoinToken(join_token::Args),
    /// Leave the cluster
    Leave(leave::Args),
    /// Unlock this node's manager, which was locked when it started; the key is typed, or read from standard input
    Unlock,
    /// Show or rotate the key that managers are unlocked with
    UnlockKey(unlock_key::Args),
    /// Change the cluster's settings
    Update(update::Args),
}

pub(crate) async fn run(client: &Client, command: Command) -> Result<()> {
    match command {
        Command::Backup(args) => backup::run(client, args).await,
        Command::Ca(args) => ca::run(client, args).await,
        Command::Init(args) => init::run(client, args).await,
        Command::Join(args) => join::run(client, args).await,
        Command::JoinToken(args) => join_token::run(client, args).await,
        Command::Leave(args) => leave::run(client, args).await,
        Command::Unlock => unlock::run(client).await,
        Command::UnlockKey(args) => unlock_key::run(client, args).await,
        Command::Update(args) => update::run(client, args).await,
    }
}

/// Which node a token makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// Runs tasks.
    Worker,
    /// Holds the cluster's state as well.
    Manager,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Worker => "worker",
            Self::Manager => "manager",
        })
    }
}

/// The command that joins a node, with the token and this manager's address.
async fn join_command(client: &Client, role: Role) -> Result<String> {
    let token = token(client, role).await?;
    let info = client.info().await?;
    let swarm = info.swarm.unwrap_or_default();
    let own = swarm.node_id.unwrap_or_default();
    let address = match client.node(&own).await {
        Ok(node) => node.manager_status.and_then(|status| status.addr),
        Err(_) => None,
    };
    let address = address
        .or_else(|| {
            let managers = swarm.remote_managers.unwrap_or_default();
            managers.into_iter().find_map(|manager| manager.addr)
        })
        .context("the address of this manager is not known yet: try again")?;
    Ok(format!("    mesh-ctl swarm join --token {token} {address}"))
}

/// The version and the spec of the cluster.
async fn settings(client: &Client) -> Result<(u64, SwarmSpec)> {
    let swarm = client.swarm().await?;
    let version = swarm
        .version
        .and_then(|version| version.index)
        .context("the agent gave a cluster without a version")?;
    Ok((version, swarm.spec.unwrap_or_default()))
}

/// Whether managers are locked when they start again.
fn is_autolock(spec: &SwarmSpec) -> bool {
    let encryption = spec.encryption_config.as_ref();
    encryption.and_then(|e| e.auto_lock_managers) == Some(true)
}

/// The token of a role.
async fn token(client: &Client, role: Role) -> Result<String> {
    let tokens = client.swarm().await?.join_tokens.unwrap_or_default();
    match role {
        Role::Worker => tokens.worker,
        Role::Manager => tokens.manager,
    }
    .with_context(|| format!("the agent gave no {role} token"))
}

/// The unlock key, as typed, or as the first line of standard input where that is no terminal.
fn read_unlock_key() -> Result<String> {
    let line = terminal::read_hidden("Enter unlock key: ").context("cannot read the unlock key")?;
    Ok(line.trim().to_owned())
}
