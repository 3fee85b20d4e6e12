//! Rotation of the root CA: how one is begun, and its end, which the leader sees to once every node has a certificate of the
//! new root. Nodes are told in their sessions to have theirs renewed.

use crate::{
    ManagerError, ManagerHandle, Operation,
    core::Core,
    state::{RootChange, State},
};
use mesh_api::engine;
use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

/// Pause before something that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

impl ManagerHandle {
    /// What an update of the cluster's spec means for its root CA: a new root is made, or the given one checked, and
    /// vouched for. The root's certificate and key are taken out of the spec. Asked of a manager that leads; the update has
    /// to name the same version of the cluster.
    ///
    /// # Errors
    /// The cluster has another version by now, external CAs are asked for, the given root is not fit for one, or there are
    /// nodes that cannot follow.
    pub fn root_change(
        &self,
        version: u64,
        spec: &mut engine::SwarmSpec,
    ) -> Result<Option<RootChange>, ManagerError> {
        let (cluster, left_behind) = {
            let view = self.view();
            let nodes = view.nodes().map(|node| &node.description);
            let left_behind = nodes.filter(|told| {
                // An agent that knows of rotations tells which root it trusts.
                !told.hostname.is_empty() && told.trusted_root.is_empty()
            });
            let left_behind: Vec<_> = left_behind.map(|told| told.hostname.clone()).collect();
            (view.cluster().cloned(), left_behind)
        };
        let cluster = cluster.ok_or_else(ManagerError::no_leader)?;
        if cluster.meta.version != version {
            return Err(ManagerError::out_of_sequence());
        }
        let now = self.core.config.machine.now();
        let now = UNIX_EPOCH + Duration::from_nanos(u64::try_from(now).unwrap_or(0));
        let change = RootChange::of(&cluster, spec, now)?;
        if matches!(change, Some(RootChange::Rotate(_))) && !left_behind.is_empty() {
            return Err(ManagerError::precondition(format!(
                "the agents of these nodes are too old for another root CA; upgrade them first, or take the nodes out: {}",
                left_behind.join(", ")
            )));
        }
        Ok(change)
    }
}

/// Ends rotations until the manager stops; works only while it leads.
pub(crate) async fn run(core: Arc<Core>) {
    let work = |core: Arc<Core>| async move { reconcile(&core).await };
    core.while_leading(work).await;
}

async fn reconcile(core: &Core) {
    let mut index = core.store.index();
    loop {
        index.mark_unchanged();
        let due = due(&core.store.read());
        if let Some(end) = due {
            match core.proposer.operation(end).await {
                Ok(_) => tracing::info!("every node has a certificate of the new root CA"),
                Err(error) => {
                    tracing::warn!(%error, "the rotation of the root CA does not end yet");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
        }
        if index.changed().await.is_err() {
            return;
        }
    }
}

fn due(state: &State) -> Option<Operation> {
    let digest = state.rotation_to_end()?.digest.clone();
    Some(Operation::EndRootRotation { digest })
}

#[cfg(test)]
mod tests;
