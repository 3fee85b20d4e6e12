//! Who calls, and whether they may. TLS has verified the certificate; here its subject is judged.

use crate::core::Core;
use mesh_pki::{PeerIdentity, Role};
use std::net::IpAddr;
use tonic::{Request, Status};

/// The caller's identity, if it showed a certificate of this cluster.
pub(super) fn peer<T>(core: &Core, request: &Request<T>) -> Result<PeerIdentity, Status> {
    let certificates = request.peer_certs();
    let leaf = certificates
        .as_deref()
        .and_then(|all| all.first())
        .ok_or_else(|| Status::unauthenticated("a node certificate is required"))?;
    let peer =
        PeerIdentity::from_certificate(leaf).map_err(|e| Status::unauthenticated(e.to_string()))?;
    if peer.cluster_id != core.identity.cluster_id {
        return Err(Status::permission_denied(
            "the certificate belongs to another cluster",
        ));
    }
    Ok(peer)
}

/// A node that is part of the cluster still.
pub(super) fn node<T>(core: &Core, request: &Request<T>) -> Result<PeerIdentity, Status> {
    let peer = peer(core, request)?;
    if core.store.read().node(&peer.node_id).is_none() {
        return Err(Status::permission_denied(format!(
            "node {} is not part of this swarm (any more)",
            peer.node_id
        )));
    }
    Ok(peer)
}

/// A manager.
pub(super) fn manager<T>(core: &Core, request: &Request<T>) -> Result<PeerIdentity, Status> {
    let peer = peer(core, request)?;
    if peer.role != Role::Manager {
        return Err(Status::permission_denied("only managers may call this"));
    }
    // A manager that joins has its certificate before the others have its node.
    let state = core.store.read();
    if state.cluster().is_some()
        && state.node(&peer.node_id).is_none()
        && peer.node_id != core.identity.node_id
    {
        return Err(Status::permission_denied(format!(
            "node {} is not part of this swarm (any more)",
            peer.node_id
        )));
    }
    Ok(peer)
}

/// The caller's address.
pub(super) fn remote_ip<T>(request: &Request<T>) -> Option<IpAddr> {
    type Info = tonic::transport::server::TlsConnectInfo<tonic::transport::server::TcpConnectInfo>;
    request
        .extensions()
        .get::<Info>()?
        .get_ref()
        .remote_addr()
        .map(|a| a.ip())
}
