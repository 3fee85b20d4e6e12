//! Who calls, and whether they may. TLS has verified the certificate, but for its end; here that and its subject are judged.

use super::connection::OtherEnd;
use crate::{Shown, core::Core, raft::DISMISSED, state::Node};
use mesh_pki::{PeerIdentity, Role, utc};
use rustls::pki_types::CertificateDer;
use std::{net::IpAddr, time::UNIX_EPOCH};
use tonic::{Request, Status, metadata::MetadataValue};

/// What one is told that may not take part in Raft.
const NOT_OF_GROUP: &str = "only managers of this swarm may call this";

/// What a node is told that was removed, or never was one.
pub(super) fn not_of_swarm(node_id: &str) -> Status {
    Status::permission_denied(format!(
        "node {node_id} is not part of this swarm (any more)"
    ))
}

fn other_end<T>(request: &Request<T>) -> Option<&OtherEnd> {
    request.extensions().get()
}

/// The certificate that the caller showed.
pub(super) fn certificate<T>(request: &Request<T>) -> Result<CertificateDer<'static>, Status> {
    let shown = request.extensions().get::<Shown>();
    let verified = other_end(request).and_then(|other| other.certificate.as_deref());
    verified
        .or(shown.map(|shown| &shown.0))
        .cloned()
        .ok_or_else(|| Status::unauthenticated("a node certificate is required"))
}

/// Who showed a certificate of this cluster, and whether it had expired.
struct Caller {
    peer: PeerIdentity,
    has_expired: bool,
}

impl Caller {
    fn of<T>(core: &Core, request: &Request<T>) -> Result<Self, Status> {
        let leaf = certificate(request)?;
        let peer = PeerIdentity::from_certificate(&leaf)
            .map_err(|e| Status::unauthenticated(e.to_string()))?;
        if peer.cluster_id != core.identity.cluster_id {
            return Err(Status::permission_denied(
                "the certificate belongs to another cluster",
            ));
        }
        let since = other_end(request).map(|other| other.since);
        Ok(Self {
            has_expired: since.is_some_and(|since| peer.expires_at < since),
            peer,
        })
    }

    /// The caller, for all that takes a certificate which is still good.
    fn current(self) -> Result<PeerIdentity, Status> {
        match self.has_expired {
            false => Ok(self.peer),
            true => Err(Status::unauthenticated(format!(
                "the certificate of node {} expired on {}: it is good for having it renewed and for nothing else",
                self.peer.node_id,
                utc(self.peer.expires_at)
            ))),
        }
    }

    /// Whether it may have its certificate renewed: its node is part of the cluster still, and where the certificate has
    /// expired, its key is the one that the node showed last. Those of former certificates are worth nothing.
    fn check_renewal(&self, core: &Core) -> Result<(), Status> {
        let peer = &self.peer;
        let state = core.store.read();
        let Some(node) = state.node(&peer.node_id) else {
            return Err(not_of_swarm(&peer.node_id));
        };
        if self.has_expired && node.description.key != peer.key_digest {
            return Err(Status::permission_denied(format!(
                "the certificate of node {} expired on {}, and its key is not the one that the swarm knows",
                peer.node_id,
                utc(peer.expires_at)
            )));
        }
        Ok(())
    }
}

/// The caller's identity, if it showed a certificate of this cluster that is still good.
pub(super) fn peer<T>(core: &Core, request: &Request<T>) -> Result<PeerIdentity, Status> {
    Caller::of(core, request)?.current()
}

/// A node that is part of the cluster still.
pub(super) fn node<T>(core: &Core, request: &Request<T>) -> Result<PeerIdentity, Status> {
    let caller = Caller::of(core, request)?;
    caller.check_renewal(core)?;
    caller.current()
}

/// Whether a node may have its certificate renewed, by what is known here.
///
/// # Errors
/// The caller showed no certificate of this cluster.
pub(super) fn may_renew<T>(core: &Core, request: &Request<T>) -> Result<bool, Status> {
    Ok(Caller::of(core, request)?.check_renewal(core).is_ok())
}

/// A node that is to have its certificate renewed, which may have expired.
pub(super) fn renewing<T>(core: &Core, request: &Request<T>) -> Result<PeerIdentity, Status> {
    let caller = Caller::of(core, request)?;
    caller.check_renewal(core)?;
    if caller.has_expired {
        tracing::info!(
            node = caller.peer.node_id,
            expired = utc(caller.peer.expires_at),
            "the expired certificate of a node is renewed: its key is known"
        );
    }
    Ok(caller.peer)
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
    other_end(request)?.address
}
