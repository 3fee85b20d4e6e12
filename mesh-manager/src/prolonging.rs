//! A manager whose own certificate has expired prolongs it itself: those that it would ask may all be in the same place. So does
//! one whose own has not begun yet, as a clock was ahead when it was signed.
//!
//! All managers have the root CA's key. What is made here says no more than what it takes the place of: the node, the key, the
//! role and, unless it is to come, the time of signing are the same, so that a manager which was
//! demoted or removed meanwhile is none for it.

use crate::{Config, Manager, ManagerError, raft};
use mesh_pki::{NodeIdentity, PkiError, Role, utc};
use std::time::{Duration, UNIX_EPOCH};

/// Life of such a certificate: it is there to be renewed, as soon as there is a leader. Where there is none for so long, it is
/// prolonged again. Those that it follows on live for an hour and more, and begin an hour before they are signed, so that it
/// is always due for renewal.
const LIFE: Duration = Duration::from_secs(3600);

impl Manager {
    /// This manager's `identity`, which is that on disk, with its certificate prolonged; `None` if it is good now, is not a
    /// manager's, or its private key is not known. It is not saved. The manager must not run.
    ///
    /// # Errors
    /// The state in the log has no cluster, or the node is no manager by it; its root CA is none that this node trusts; the
    /// log cannot be read.
    pub async fn prolonged(
        config: &Config,
        identity: &NodeIdentity,
    ) -> Result<Option<NodeIdentity>, ManagerError> {
        let failed = |e: PkiError| ManagerError::internal("cannot prolong the certificate", e);
        let nanos = u64::try_from(config.machine.now()).unwrap_or(0);
        let now = UNIX_EPOCH + Duration::from_nanos(nanos);
        let is_manager = identity.role == Role::Manager;
        if !is_manager || !identity.has_key() || identity.is_good_at(now).map_err(failed)? {
            return Ok(None);
        }
        // All of it: Raft would tell what is committed only once there is a leader.
        let state = raft::read(config).await?;
        let node = state.node(&identity.node_id);
        let Some(cluster) = state.cluster().filter(|c| c.id == identity.cluster_id) else {
            return Err(ManagerError::precondition(
                "the state here has no swarm of this node",
            ));
        };
        if node.is_none_or(|node| node.role != Role::Manager) {
            return Err(ManagerError::precondition(
                "by the state here, this node is no manager",
            ));
        }
        let signer = cluster.signer().map_err(failed)?;
        let prolonged = identity.prolonged(&signer, now, now + LIFE);
        let prolonged = prolonged.map_err(|e| {
            ManagerError::precondition(format!("the root CA in the state here does not suit: {e}"))
        })?;
        let (begins, expires) = identity.validity().map_err(failed)?;
        tracing::info!(
            begins = utc(begins),
            expires = utc(expires),
            until = utc(now + LIFE),
            "this manager's certificate is not good now; it is prolonged with the swarm's root CA until it is renewed"
        );
        Ok(Some(prolonged))
    }
}
