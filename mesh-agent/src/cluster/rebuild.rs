//! `swarm init --force-new-cluster`: a cluster that has lost the majority of its managers goes on with this one.

use std::{net::SocketAddr, time::Duration};

use mesh_api::engine::SwarmInitRequest;
use mesh_manager::{ErrorKind, Manager, ManagerError};
use tokio::time::{Instant, timeout_at};

use super::{
    FIRST_SESSION, JOIN_TIMEOUT, Membership, address, disk::Kept, go_on, invalid, manager_config,
    observe,
};
use crate::{
    links::host::HostView,
    node::{Node, NodeError, NodeState},
};

/// The log may be held for a moment by what served the manager's last connections.
const RELEASE: Duration = Duration::from_secs(5);
/// Pause before it is opened again.
const PAUSE: Duration = Duration::from_millis(50);

/// Rebuilds the cluster, and waits for a while until this manager leads it. Gives the node's id.
pub(super) async fn force_new_cluster(
    node: &Node,
    membership: &mut Option<Membership>,
    request: &SwarmInitRequest,
) -> Result<String, NodeError> {
    let kept = Kept::load(node.config())?.filter(|kept| !kept.leaving);
    let Some(kept) = kept else {
        return Err(invalid(
            "there is no swarm to rebuild: this node is not part of one. Run `swarm init` without --force-new-cluster for a \
             new one, or `swarm init --restore` with a backup",
        ));
    };
    if !kept.manager {
        return Err(NodeError::NotManager);
    }
    if matches!(node.state(), NodeState::Locked) {
        return Err(NodeError::Locked);
    }
    same_addresses(&observe().await?, request, &kept)?;
    match membership {
        Some(running) => running.rebuild_manager(node).await?,
        None => {
            rebuild_log(node, &kept).await?;
            *membership = go_on(node).await?;
        }
    }
    let deadline = Instant::now() + FIRST_SESSION;
    loop {
        if let Some(manager) = node.manager() {
            let led = timeout_at(deadline, manager.ready()).await;
            if matches!(led, Ok(Ok(()))) {
                return Ok(manager.identity().node_id.clone());
            }
        }
        if Instant::now() > deadline {
            return Err(NodeError::Remote(JOIN_TIMEOUT.to_owned()));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Makes the log that of a cluster with this manager alone; the manager does not run.
pub(super) async fn rebuild_log(node: &Node, kept: &Kept) -> Result<(), NodeError> {
    let config = manager_config(node, kept);
    let deadline = Instant::now() + RELEASE;
    loop {
        match Manager::rebuild(&config).await {
            Ok(()) => return Ok(()),
            Err(error) if error.kind == ErrorKind::Unknown && Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(refusal(error)),
        }
    }
}

fn refusal(error: ManagerError) -> NodeError {
    match error.kind {
        ErrorKind::FailedPrecondition => invalid(error.message),
        _ => NodeError::Remote(error.message),
    }
}

/// The other nodes know this one by its addresses.
fn same_addresses(
    host: &HostView,
    request: &SwarmInitRequest,
    kept: &Kept,
) -> Result<(), NodeError> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let differs = |flag: &str, is: String| {
        invalid(format!(
            "{flag} cannot be changed while a swarm is rebuilt: it is {is}"
        ))
    };
    if let Some(text) = given(&request.advertise_addr) {
        let port = kept.advertise.port();
        if address::parse(host, &text, port)? != kept.advertise {
            return Err(differs("--advertise-addr", kept.advertise.to_string()));
        }
    }
    if let Some(text) = given(&request.data_path_addr)
        && address::parse(host, &text, 0)?.ip() != kept.data_path
    {
        return Err(differs("--data-path-addr", kept.data_path.to_string()));
    }
    // Clients say the default where they were told nothing.
    let listen = address::listen(host, request.listen_addr.as_deref())?;
    let default = SocketAddr::from(([0, 0, 0, 0], mesh_manager::config::DEFAULT_PORT));
    if listen != kept.listen && listen != default {
        return Err(differs("--listen-addr", kept.listen.to_string()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stay() {
        let kept = Kept {
            manager: true,
            listen: "0.0.0.0:3377".parse().unwrap(),
            advertise: "192.0.2.1:3377".parse().unwrap(),
            data_path: "192.0.2.1".parse().unwrap(),
            data_path_port: 4789,
            managers: Vec::new(),
            leaving: false,
        };
        let table = [
            ("", "", "", None),
            ("192.0.2.1", "0.0.0.0:3377", "192.0.2.1", None),
            ("192.0.2.1:3377", "0.0.0.0:2377", "", None),
            ("192.0.2.1:2377", "", "", Some("--advertise-addr")),
            ("192.0.2.2", "", "", Some("--advertise-addr")),
            ("", "0.0.0.0:99", "", Some("--listen-addr")),
            ("", "", "192.0.2.2", Some("--data-path-addr")),
        ];
        for (advertise, listen, data_path, refused) in table {
            let request = SwarmInitRequest {
                advertise_addr: Some(advertise.to_owned()),
                listen_addr: Some(listen.to_owned()),
                data_path_addr: Some(data_path.to_owned()),
                ..Default::default()
            };
            let said = same_addresses(&HostView::default(), &request, &kept);
            match refused {
                None => said.unwrap(),
                Some(flag) => {
                    let said = said.unwrap_err().to_string();
                    assert!(said.starts_with(flag), "{said}");
                }
            }
        }
    }
}
