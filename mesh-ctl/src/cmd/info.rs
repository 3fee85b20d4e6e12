//! `info`

use std::fmt::Write;

use anyhow::Result;
use mesh_api::Client;

use crate::{
    format::{self, human, inspect},
    view::{text, word},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Format: 'json' or a Go template
    #[arg(short, long)]
    format: Option<String>,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let info = client.info().await?;
    if let Some(format) = &args.format {
        say!("{}", inspect::one(&info, format)?)?;
        return Ok(());
    }
    let mut out = String::new();
    let count = |value: Option<i64>| value.unwrap_or(0);
    writeln!(out, "Containers: {}", count(info.containers))?;
    writeln!(out, " Running: {}", count(info.containers_running))?;
    writeln!(out, " Stopped: {}", count(info.containers_stopped))?;
    writeln!(out, "Images: {}", count(info.images))?;
    writeln!(out, "Server Version: {}", text(&info.server_version))?;
    let swarm = info.swarm.unwrap_or_default();
    writeln!(out, "Swarm: {}", word(swarm.local_node_state))?;
    if let Some(error) = swarm.error.as_deref().filter(|error| !error.is_empty()) {
        writeln!(out, " Error: {error}")?;
    }
    if let Some(id) = swarm.node_id.as_deref().filter(|id| !id.is_empty()) {
        writeln!(out, " NodeID: {id}")?;
        writeln!(
            out,
            " Is Manager: {}",
            swarm.control_available.unwrap_or(false)
        )?;
        if swarm.control_available == Some(true) {
            if let Some(cluster) = &swarm.cluster {
                writeln!(out, " ClusterID: {}", text(&cluster.id))?;
                let pools = cluster.default_addr_pool.clone().unwrap_or_default();
                writeln!(out, " Default Address Pool: {}", pools.join(" "))?;
                writeln!(out, " SubnetSize: {}", cluster.subnet_size.unwrap_or(0))?;
                writeln!(
                    out,
                    " Data Path Port: {}",
                    cluster.data_path_port.unwrap_or(0)
                )?;
                writeln!(
                    out,
                    " Root Rotation In Progress: {}",
                    cluster.root_rotation_in_progress.unwrap_or(false)
                )?;
            }
            writeln!(out, " Managers: {}", count(swarm.managers))?;
            writeln!(out, " Nodes: {}", count(swarm.nodes))?;
        }
        writeln!(out, " Node Address: {}", text(&swarm.node_addr))?;
        writeln!(out, " Manager Addresses:")?;
        for manager in swarm.remote_managers.unwrap_or_default() {
            writeln!(out, "  {}", text(&manager.addr))?;
        }
    }
    writeln!(out, "Kernel Version: {}", text(&info.kernel_version))?;
    writeln!(out, "Operating System: {}", text(&info.operating_system))?;
    writeln!(out, "OSType: {}", text(&info.os_type))?;
    writeln!(out, "Architecture: {}", text(&info.architecture))?;
    writeln!(out, "CPUs: {}", count(info.ncpu))?;
    let memory = u64::try_from(count(info.mem_total)).unwrap_or(0);
    writeln!(out, "Total Memory: {}", human::binary_size(memory))?;
    writeln!(out, "Name: {}", text(&info.name))?;
    writeln!(out, "ID: {}", text(&info.id))?;
    writeln!(out, "Data Root Dir: {}", text(&info.docker_root_dir))?;
    format::write(&out)?;
    for warning in info.warnings.unwrap_or_default() {
        note!("{warning}");
    }
    Ok(())
}
