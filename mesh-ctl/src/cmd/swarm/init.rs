//! `swarm init`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mesh_api::{
    Client, backup,
    engine::{
        SwarmInitRequest, SwarmSpec, SwarmSpecCaConfig, SwarmSpecEncryptionConfig,
        SwarmSpecOrchestration,
    },
};

use super::{Role, unlock_key};
use crate::flags::quantity;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address that other nodes reach this node at (address, interface, either with :port)
    #[arg(long, default_value = "", hide_default_value = true)]
    advertise_addr: String,
    /// Address the manager listens on
    #[arg(long, default_value = "0.0.0.0:2377")]
    listen_addr: String,
    /// Address of the tunnels, if another
    #[arg(long, default_value = "", hide_default_value = true)]
    data_path_addr: String,
    /// UDP port of the tunnels (1024-49151); 0 is the agent's, 4789 where it was not told another
    #[arg(long, default_value_t = 0)]
    data_path_port: u32,
    /// Pools that networks are cut from, as address/length
    #[arg(long, value_name = "CIDR")]
    default_addr_pool: Vec<String>,
    /// Prefix length of the networks cut from the pools; 0 is the agent's own choice
    #[arg(long, default_value_t = 0)]
    default_addr_pool_mask_length: u32,
    /// active, pause or drain
    #[arg(long, default_value = "active", value_parser = ["active", "pause", "drain"])]
    availability: String,
    /// Lock managers when they start again, until they are given the unlock key
    #[arg(long)]
    autolock: bool,
    /// How long node certificates live
    #[arg(long, value_parser = quantity::duration, value_name = "DURATION")]
    cert_expiry: Option<i64>,
    /// Ended tasks kept per slot
    #[arg(long)]
    task_history_limit: Option<i64>,
    /// Go on with this manager alone, with all of the cluster's state: for when a majority of the managers is lost
    #[arg(long, conflicts_with_all = [
        "data_path_port", "default_addr_pool", "default_addr_pool_mask_length", "availability", "autolock", "cert_expiry",
        "task_history_limit",
    ])]
    force_new_cluster: bool,
    /// Go on with the cluster of this backup, see `swarm backup`, with this node as its only manager
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "data_path_port", "default_addr_pool", "default_addr_pool_mask_length", "autolock", "cert_expiry",
        "task_history_limit", "force_new_cluster",
    ])]
    restore: Option<PathBuf>,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let spec = SwarmSpec {
        ca_config: args.cert_expiry.map(|expiry| SwarmSpecCaConfig {
            node_cert_expiry: Some(expiry),
            ..Default::default()
        }),
        orchestration: args.task_history_limit.map(|limit| SwarmSpecOrchestration {
            task_history_retention_limit: Some(limit),
        }),
        encryption_config: Some(SwarmSpecEncryptionConfig {
            auto_lock_managers: Some(args.autolock),
        }),
        ..Default::default()
    };
    let request = SwarmInitRequest {
        listen_addr: Some(args.listen_addr),
        advertise_addr: Some(args.advertise_addr),
        data_path_addr: Some(args.data_path_addr),
        data_path_port: Some(args.data_path_port),
        default_addr_pool: Some(args.default_addr_pool),
        force_new_cluster: Some(args.force_new_cluster),
        subnet_size: Some(args.default_addr_pool_mask_length),
        spec: Some(spec),
    };
    let id = match args.restore {
        Some(file) => restore(client, &file, &request, args.availability).await?,
        None => client.swarm_init(&request, &args.availability).await?,
    };
    let join = super::join_command(client, Role::Worker).await?;
    say!(
        "Swarm initialized: current node ({id}) is now a manager.\n\n\
         To add a worker to this swarm, run the following command:\n\n{join}\n\n\
         To add a manager to this swarm, run 'mesh-ctl swarm join-token manager' and follow the instructions.\n"
    )?;
    if args.autolock {
        unlock_key::tell(&client.swarm_unlock_key().await?)?;
    }
    Ok(())
}

/// Has the agent go on with the cluster of a backup.
async fn restore(
    client: &Client,
    file: &Path,
    request: &SwarmInitRequest,
    availability: String,
) -> Result<String> {
    let backup = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let key = match backup::is_locked(&backup) {
        true => Some(super::read_unlock_key()?),
        false => None,
    };
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let query = [
        ("listenAddr", text(&request.listen_addr)),
        ("advertiseAddr", text(&request.advertise_addr)),
        ("dataPathAddr", text(&request.data_path_addr)),
        ("availability", availability),
    ];
    let restored = client.swarm_restore(backup, &query, key.as_deref());
    Ok(restored.await?)
}
