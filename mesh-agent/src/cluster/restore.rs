//! `swarm init --restore`: the cluster of a backup goes on with this node as its only manager.

use mesh_manager::{ErrorKind, Manager, ManagerError, RestoreOptions};
use mesh_pki::UnlockKey;

use super::{
    addresses,
    disk::{self, Kept},
    found, invalid, manager_config, observe, own_manager, parse_availability, refuse_if_member,
};
use crate::node::{Node, NodeError};

/// What the user says besides the backup.
#[derive(Debug, Default)]
pub(crate) struct Request {
    /// As in `swarm init`.
    pub(crate) listen_addr: Option<String>,
    /// As in `swarm init`.
    pub(crate) advertise_addr: Option<String>,
    /// As in `swarm init`.
    pub(crate) data_path_addr: Option<String>,
    /// `active`, `pause` or `drain`.
    pub(crate) availability: Option<String>,
    /// Of a backup that is locked.
    pub(crate) unlock_key: Option<String>,
}

/// See [`Node::swarm_restore`].
pub(crate) async fn restore(
    node: &Node,
    request: Request,
    file: Vec<u8>,
) -> Result<String, NodeError> {
    let mut membership = node.inner.membership.lock().await;
    refuse_if_member(node, membership.as_ref())?;
    let config = node.config();
    let (listen, advertise, data_path) = addresses(
        &observe().await?,
        request.listen_addr.as_deref(),
        request.advertise_addr.as_deref(),
        request.data_path_addr.as_deref(),
    )?;
    let unlock_key = request.unlock_key.map(|key| key.parse::<UnlockKey>());
    let options = RestoreOptions {
        unlock_key: unlock_key.transpose().map_err(|e| invalid(e.to_string()))?,
        availability: parse_availability(request.availability.as_deref())?,
        hostname: node.hostname().to_owned(),
        data_path_address: data_path.to_string(),
    };
    let mut kept = Kept {
        manager: true,
        listen,
        advertise,
        data_path,
        data_path_port: config.vxlan_port,
        managers: vec![own_manager(listen).to_string()],
        leaving: false,
    };
    let mut is_cleared = false;
    // What an init left that was cut off before the membership was written is nobody's. Yet it may be all that is left of a
    // cluster: a file that is no backup of one does not cost it.
    let clear = || {
        is_cleared = true;
        let wiped = disk::wipe(config);
        wiped.map_err(|e| {
            ManagerError::internal("cannot make room for the backup", format!("{e:#}"))
        })
    };
    let config_of_manager = manager_config(node, &kept);
    let manager = match Manager::restore(config_of_manager, &file, options, clear).await {
        Ok(manager) => manager,
        Err(error) => {
            if is_cleared {
                disk::wipe(config)?;
            }
            return Err(match error.kind {
                ErrorKind::InvalidArgument | ErrorKind::FailedPrecondition => {
                    invalid(error.message)
                }
                ErrorKind::Unauthenticated => NodeError::WrongKey(error.message),
                _ => NodeError::Remote(error.message),
            });
        }
    };
    if let Some(cluster) = manager.view().cluster() {
        kept.data_path_port = cluster.data_path_port;
    }
    found(node, &mut membership, kept, manager).await
}
