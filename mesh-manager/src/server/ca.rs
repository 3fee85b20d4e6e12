//! `NodeCA`: signs certificates for those who hold a token or a certificate.

use super::{auth, to_its_end};
use crate::{
    AddNode, ErrorKind, ManagerError, Operation, core::Core, leader::RETRY, state::Cluster,
};
use mesh_api::{
    engine::NodeSpecAvailabilityEnum as Availability,
    proto::{
        IssueNodeCertificateRequest, IssueNodeCertificateResponse, WithdrawRequest,
        WithdrawResponse, node_ca_server::NodeCa,
    },
};
use mesh_pki::{PeerIdentity, PkiError, Role, new_id};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tokio::time::{Instant, sleep};
use tonic::{Request, Response, Status};

pub(super) struct Service(pub(super) Arc<Core>);

/// Compares secrets by their digests, so that the time taken tells nothing of them.
fn is_same_secret(a: &str, b: &str) -> bool {
    Sha256::digest(a.as_bytes()) == Sha256::digest(b.as_bytes())
}

impl Service {
    fn cluster(&self) -> Result<Cluster, Status> {
        let state = self.0.store.read();
        state
            .cluster()
            .cloned()
            .ok_or_else(|| Status::unavailable("the swarm has no leader yet"))
    }

    /// Id and role of the caller's new certificate; a node that is new is added, and known by its key from then on.
    async fn admit(
        &self,
        cluster: &Cluster,
        request: &Request<IssueNodeCertificateRequest>,
        key: String,
    ) -> Result<(String, Role), Status> {
        let asked = request.get_ref();
        if asked.token.is_empty() {
            // A renewal, with the role that the node has by now.
            let peer = auth::renewing(&self.0, request)?;
            let state = self.0.store.read();
            let Some(node) = state.node(&peer.node_id) else {
                return Err(auth::not_of_swarm(&peer.node_id));
            };
            // Whoever is on the way out gets nothing that would make it a manager once it is out.
            if node.role == Role::Manager && node.desired_role() == Role::Worker {
                return Err(Status::unavailable(
                    "the node's role is being changed; try again",
                ));
            }
            return Ok((peer.node_id, node.role));
        }
        let role = role_of(cluster, &asked.token)?;
        let availability = match asked.availability.as_str() {
            "" | "active" => Availability::ACTIVE,
            "pause" => Availability::PAUSE,
            "drain" => Availability::DRAIN,
            other => {
                return Err(Status::invalid_argument(format!(
                    "invalid availability {other:?}: expected active, pause or drain"
                )));
            }
        };
        let add = AddNode {
            id: new_id(),
            role,
            availability,
            hostname: String::new(),
            manager_addr: None,
            data_path_address: asked.data_path_address.clone(),
            key,
        };
        Ok((self.add(add).await.map_err(status)?, role))
    }

    /// The node that was made for somebody who has not heard of it, by the token and the key that it asked with.
    async fn unanswered(&self, asked: &WithdrawRequest) -> Result<Option<String>, Status> {
        self.0.catch_up().await.map_err(status)?;
        let cluster = self.cluster()?;
        role_of(&cluster, &asked.token)?;
        let key = std::str::from_utf8(&asked.csr_pem)
            .map_err(|e| Status::invalid_argument(e.to_string()))
            .and_then(|csr| {
                key_of(&cluster, csr).map_err(|e| Status::invalid_argument(e.to_string()))
            })?;
        let state = self.0.store.read();
        Ok(state.joined_as(&key).map(str::to_owned))
    }

    /// Adds a node, and gives its id. Without a leader, or one that answers, it is tried again for a while: what was lost may have
    /// been done, and is then done over, under the same id.
    async fn add(&self, node: AddNode) -> Result<String, ManagerError> {
        let deadline = Core::patience();
        loop {
            match self.0.change(Operation::AddNode(node.clone())).await {
                Err(error)
                    if error.kind == ErrorKind::Unavailable
                        && Instant::now() + RETRY <= deadline =>
                {
                    tracing::debug!(%error, "a node that joins is not added yet");
                    sleep(RETRY).await;
                }
                Ok(crate::Response::Created { id, .. }) => return Ok(id),
                done => return done.map(|_| node.id),
            }
        }
    }
}

/// The role that a token gives.
fn role_of(cluster: &Cluster, token: &str) -> Result<Role, Status> {
    if is_same_secret(token, &cluster.worker_token) {
        Ok(Role::Worker)
    } else if is_same_secret(token, &cluster.manager_token) {
        Ok(Role::Manager)
    } else {
        Err(Status::invalid_argument(
            "A valid join token is necessary to join this cluster",
        ))
    }
}

/// Digest of the key that a request is to have signed, whose owner has made it. A throw-away is signed to find out.
fn key_of(cluster: &Cluster, csr: &str) -> Result<String, PkiError> {
    let signed = sign(cluster, csr, "check", Role::Worker)?;
    let signed = CertificateDer::from_pem_slice(signed.as_bytes());
    let signed = signed.map_err(|e| PkiError::InvalidCertificate {
        reason: e.to_string(),
    })?;
    Ok(PeerIdentity::from_certificate(&signed)?.key_digest)
}

/// A certificate, and those that it has to be shown with, PEM.
fn sign(cluster: &Cluster, csr: &str, node_id: &str, role: Role) -> Result<String, PkiError> {
    let validity = cluster.certificate_validity();
    let signer = cluster.signer()?;
    signer.sign(csr, node_id, role, &cluster.id, validity)
}

/// A refusal as gRPC has it.
pub(crate) fn status(error: ManagerError) -> Status {
    let code = match error.kind {
        ErrorKind::InvalidArgument => tonic::Code::InvalidArgument,
        ErrorKind::FailedPrecondition => tonic::Code::FailedPrecondition,
        ErrorKind::Unauthenticated => tonic::Code::Unauthenticated,
        ErrorKind::PermissionDenied => tonic::Code::PermissionDenied,
        ErrorKind::NotFound => tonic::Code::NotFound,
        ErrorKind::AlreadyExists => tonic::Code::AlreadyExists,
        ErrorKind::Unknown => tonic::Code::Unknown,
        ErrorKind::Unimplemented => tonic::Code::Unimplemented,
        ErrorKind::Unavailable => tonic::Code::Unavailable,
    };
    Status::new(code, error.message)
}

#[tonic::async_trait]
impl NodeCa for Service {
    async fn issue_node_certificate(
        &self,
        request: Request<IssueNodeCertificateRequest>,
    ) -> Result<Response<IssueNodeCertificateResponse>, Status> {
        // A token that was rotated, a node that was removed, or a key that another one followed on is worth nothing from that
        // moment on. The only manager knows once it leads, which takes no room on its disk.
        let is_renewal = request.get_ref().token.is_empty();
        self.0.catch_up().await.map_err(status)?;
        let cluster = self.cluster()?;
        let csr = std::str::from_utf8(&request.get_ref().csr_pem)
            .map_err(|_| Status::invalid_argument("the signing request is not PEM"))?
            .to_owned();
        let internal = |e: PkiError| Status::invalid_argument(e.to_string());
        // A bad request must not leave a node behind.
        let key = key_of(&cluster, &csr).map_err(internal)?;
        let (node_id, role) = self.admit(&cluster, &request, key).await?;
        let cluster = match is_renewal {
            true => cluster,
            // A rotation of the root that begins or ends from here on knows the node; one that did before is known here.
            false => {
                self.0.catch_up().await.map_err(status)?;
                self.cluster()?
            }
        };
        let certificate = sign(&cluster, &csr, &node_id, role).map_err(internal)?;
        Ok(Response::new(IssueNodeCertificateResponse {
            node_id,
            certificate_pem: certificate.into_bytes(),
            root_ca_pem: cluster.root_certificate_pem.into_bytes(),
            cluster_id: cluster.id,
            data_path_port: cluster.data_path_port.into(),
        }))
    }

    async fn withdraw(
        &self,
        request: Request<WithdrawRequest>,
    ) -> Result<Response<WithdrawResponse>, Status> {
        let node_id = match request.get_ref().token.is_empty() {
            true => {
                auth::peer(&self.0, &request)?;
                self.0.catch_up().await.map_err(status)?;
                auth::node(&self.0, &request)?.node_id
            }
            false => match self.unanswered(request.get_ref()).await? {
                Some(node_id) => node_id,
                None => return Ok(Response::new(WithdrawResponse {})),
            },
        };
        let core = self.0.clone();
        to_its_end(async move { core.withdraw(&node_id).await })
            .await?
            .map_err(status)?;
        Ok(Response::new(WithdrawResponse {}))
    }
}
