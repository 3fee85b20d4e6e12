//! The leader of three managers is killed: the time until another manager acknowledges a write.

use std::time::Instant;

use anyhow::{Result, bail};
use mesh_tests::{interrupt, rig::UP_LIMIT};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, service},
    spread::Spread,
};

/// Kills and brings back so many leaders.
pub(crate) fn run(cluster: &mut Cluster, kills: usize) -> Result<Value> {
    println!("\nleader killed, {} managers", cluster.rig.nodes.len());
    let mut took = Vec::new();
    let mut asked = 0;
    for number in 0..kills {
        interrupt::check()?;
        cluster.wait_whole()?;
        let leader = cluster.leader(asked)?;
        // The two others in turn.
        asked = (leader + 1 + number % 2) % cluster.rig.nodes.len();
        let client = Cluster::client(&cluster.rig.nodes[asked]);
        let spec = service(&format!("after{number}"), 0, None)?;
        cluster.rig.nodes[leader].kill()?;
        let killed = Instant::now();
        cluster.runtime().block_on(async {
            while let Err(error) = client.service_create(&spec, None).await {
                // A write that was cut off may have been made.
                if error.to_string().contains("already exists") {
                    break;
                }
                if killed.elapsed() > UP_LIMIT {
                    bail!("no write for {UP_LIMIT:?}: {error}");
                }
            }
            Ok(())
        })?;
        took.push(killed.elapsed());
        cluster.rig.nodes[leader].start()?;
    }
    cluster.wait_whole()?;
    let spread = Spread::of(took);
    println!("  next write                 {spread}");
    Ok(json!({ "managers": cluster.rig.nodes.len(), "next_write": spread.json() }))
}
