//! `swarm unlock`

use anyhow::{Result, bail};
use mesh_api::{Client, engine::LocalNodeState};

pub(crate) async fn run(client: &Client) -> Result<()> {
    // Nobody is asked for a key that is of no use.
    let swarm = client.info().await?.swarm.unwrap_or_default();
    match swarm.local_node_state {
        Some(LocalNodeState::LOCKED) => {}
        Some(LocalNodeState::INACTIVE) => bail!("this node is not part of a swarm"),
        _ => bail!("swarm is not locked"),
    }
    client.swarm_unlock(super::read_unlock_key()?).await?;
    Ok(())
}
