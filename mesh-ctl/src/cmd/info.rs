//! `info`

use anyhow::Result;
use mesh_api::Client;

use crate::{
    format::{human, template::Template},
    view::word,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Format: 'json' or a Go template
    #[arg(short, long)]
    format: Option<String>,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let info = client.info().await?;
    match args.format.as_deref() {
        Some("json") => {
            println!("{}", serde_json::to_string(&info)?);
            return Ok(());
        }
        Some(format) => {
            let value = serde_json::to_value(&info)?;
            println!("{}", Template::parse(format)?.render_object(&value)?);
            return Ok(());
        }
        None => {}
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let count = |value: Option<i64>| value.unwrap_or(0);
    println!("Containers: {}", count(info.containers));
    println!(" Running: {}", count(info.containers_running));
    println!(" Stopped: {}", count(info.containers_stopped));
    println!("Images: {}", count(info.images));
    println!("Server Version: {}", text(&info.server_version));
    let swarm = info.swarm.unwrap_or_default();
    println!("Swarm: {}", word(swarm.local_node_state));
    if let Some(error) = swarm.error.as_deref().filter(|error| !error.is_empty()) {
        println!(" Error: {error}");
    }
    if let Some(id) = swarm.node_id.as_deref().filter(|id| !id.is_empty()) {
        println!(" NodeID: {id}");
        println!(" Is Manager: {}", swarm.control_available.unwrap_or(false));
        if swarm.control_available == Some(true) {
            if let Some(cluster) = &swarm.cluster {
                println!(" ClusterID: {}", text(&cluster.id));
                let pools = cluster.default_addr_pool.clone().unwrap_or_default();
                println!(" Default Address Pool: {}", pools.join(" "));
                println!(" SubnetSize: {}", cluster.subnet_size.unwrap_or(0));
                println!(" Data Path Port: {}", cluster.data_path_port.unwrap_or(0));
            }
            println!(" Managers: {}", count(swarm.managers));
            println!(" Nodes: {}", count(swarm.nodes));
        }
        println!(" Node Address: {}", text(&swarm.node_addr));
        println!(" Manager Addresses:");
        for manager in swarm.remote_managers.unwrap_or_default() {
            println!("  {}", text(&manager.addr));
        }
    }
    println!("Kernel Version: {}", text(&info.kernel_version));
    println!("Operating System: {}", text(&info.operating_system));
    println!("OSType: {}", text(&info.os_type));
    println!("Architecture: {}", text(&info.architecture));
    println!("CPUs: {}", count(info.ncpu));
    let memory = u64::try_from(count(info.mem_total)).unwrap_or(0);
    println!("Total Memory: {}", human::binary_size(memory));
    println!("Name: {}", text(&info.name));
    println!("ID: {}", text(&info.id));
    println!("Data Root Dir: {}", text(&info.docker_root_dir));
    for warning in info.warnings.unwrap_or_default() {
        eprintln!("{warning}");
    }
    Ok(())
}
