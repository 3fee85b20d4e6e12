//! `swarm unlock`: a manager that was locked when its agent started goes on.

use mesh_manager::{Manager, ManagerError};
use mesh_pki::UnlockKey;

use super::{disk::Kept, invalid, manager_config};
use crate::node::{Node, NodeError, NodeState};

/// What Docker says of a key that does not fit.
const WRONG_KEY: &str = "swarm could not be unlocked: invalid key provided";

fn failed(error: ManagerError) -> NodeError {
    NodeError::Internal(anyhow::anyhow!(
        "swarm component could not be started: {error}"
    ))
}

/// See [`Node::swarm_unlock`].
pub(crate) async fn unlock(node: &Node, key: &str) -> Result<(), NodeError> {
    let membership = node.inner.membership.lock().await;
    let kept = Kept::load(node.config())?;
    let (Some(running), Some(kept)) = (&*membership, kept) else {
        return Err(NodeError::NotLocked);
    };
    // Of two that come at a time, the second finds it unlocked.
    if !matches!(node.state(), NodeState::Locked) {
        return Err(NodeError::NotLocked);
    }
    let key: UnlockKey = (key.parse()).map_err(|e: mesh_pki::PkiError| invalid(e.to_string()))?;
    let config = manager_config(node, &kept);
    if !Manager::unlock(&config, key).map_err(failed)? {
        return Err(NodeError::WrongKey(WRONG_KEY.to_owned()));
    }
    let identity = Manager::identity(&config).map_err(failed)?;
    let Some(identity) = identity.filter(|identity| identity.has_key()) else {
        return Err(failed(ManagerError::precondition(
            "the node's private key is missing",
        )));
    };
    let lock = Manager::node_lock(&config).map_err(failed)?;
    running.unlock(node, identity, lock).await
}
