//! `swarm join`

use anyhow::Result;
use mesh_api::{Client, engine::SwarmJoinRequest};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Token of the cluster, from `swarm join-token`
    #[arg(long)]
    token: String,
    /// A manager, as host:port
    #[arg(value_name = "HOST:PORT")]
    manager: String,
    /// Address that other nodes reach this node at
    #[arg(long, default_value = "", hide_default_value = true)]
    advertise_addr: String,
    /// Address to listen on as a manager
    #[arg(long, default_value = "0.0.0.0:2377")]
    listen_addr: String,
    /// Address of the tunnels, if another
    #[arg(long, default_value = "", hide_default_value = true)]
    data_path_addr: String,
    /// active, pause or drain
    #[arg(long, default_value = "active", value_parser = ["active", "pause", "drain"])]
    availability: String,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let request = SwarmJoinRequest {
        listen_addr: Some(args.listen_addr),
        advertise_addr: Some(args.advertise_addr),
        data_path_addr: Some(args.data_path_addr),
        remote_addrs: Some(vec![args.manager]),
        join_token: Some(args.token),
    };
    client.swarm_join(&request, &args.availability).await?;
    let info = client.info().await?;
    let manager = info
        .swarm
        .and_then(|swarm| swarm.control_available)
        .unwrap_or(false);
    let role = if manager { "manager" } else { "worker" };
    say!("This node joined a swarm as a {role}.")?;
    if manager {
        crate::cmd::node::role::warn(client).await;
    }
    Ok(())
}
