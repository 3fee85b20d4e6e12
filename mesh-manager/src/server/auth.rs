//! Who calls, and whether they may. TLS has verified the certificate; here its subject is judged.

use crate::{Shown, core::Core, raft::DISMISSED, state::Node};
use mesh_pki::{PeerIdentity, Role};
use rustls::pki_types::CertificateDer;
use std::{net::IpAddr, time::UNIX_EPOCH};
use tonic::{Request, Status, metadata::MetadataValue};

/// What one is told that may not take part in Raft.
const NOT_OF_GROUP: &str = "only managers of this swarm may call this";

/// The certificate that the caller showed.
pub(super) fn certificate<T>(request: &Request<T>) -> Result<CertificateDer<'static>, Status> {
    let shown = request.extensions().get::<Shown>();
    let certificates = request.peer_certs();
    certificates
        .as_deref()
        .and_then(|all| all.first())
        .or(shown.map(|shown| &shown.0))
        .cloned()
        .ok_or_else(|| Status::unauthenticated("a node certificate is required"))
}

/// The caller's identity, if it showed a certificate of this cluster.
pub(super) fn peer<T>(core: &Core, request: &Request<T>) -> Result<PeerIdentity, Status> {
    let leaf = certificate(request)?;
    let peer = PeerIdentity::from_certificate(&leaf)
        .map_err(|e| Status::unauthenticated(e.to_string()))?;
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

/// A manager, by its certificate and by the state.
pub(super) fn manager<T>(core: &Core, request: &Request<T>) -> Result<PeerIdentity, Status> {
    let peer = node(core, request)?;
    let state = core.store.read();
    let is_manager = |node: &Node| node.role == Role::Manager;
    if peer.role != Role::Manager || !state.node(&peer.node_id).is_some_and(is_manager) {
        return Err(Status::permission_denied("only managers may call this"));
    }
    Ok(peer)
}

/// One that may take part in Raft: a manager by its certificate, which is in the group or not known to have been taken out of
/// it since. The group and the state that are known here may be too old to have the leader in them, and get newer by its
/// messages alone.
pub(super) fn raft_peer<T>(core: &Core, request: &Request<T>) -> Result<PeerIdentity, Status> {
    let peer = peer(core, request)?;
    let issued_at = peer.issued_at.duration_since(UNIX_EPOCH);
    let issued_at = issued_at.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX));
    let is_honoured = || {
        let state = core.store.read();
        state.honours_manager(&peer.node_id, issued_at)
    };
    if peer.role != Role::Manager || !(core.consensus.is_member(&peer.node_id) || is_honoured()) {
        return Err(Status::permission_denied(NOT_OF_GROUP));
    }
    Ok(peer)
}

/// Tells a manager that another group has taken the place of its own, which is of this incarnation.
pub(super) fn dismissed(incarnation: &str) -> Status {
    let mut status = Status::permission_denied(NOT_OF_GROUP);
    if let Ok(of) = MetadataValue::try_from(incarnation) {
        status.metadata_mut().insert(DISMISSED, of);
    }
    status
}

/// Who shows a manager's certificate, whatever has become of it since.
pub(super) fn may_be_manager<T>(core: &Core, request: &Request<T>) -> Result<(), Status> {
    match peer(core, request)?.role {
        Role::Manager => Ok(()),
        Role::Worker => Err(Status::permission_denied("only managers may call this")),
    }
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
