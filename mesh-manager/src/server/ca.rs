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
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};
use tonic::{Request, Response, Status};

pub(super) struct Service {
    core: Arc<Core>,
    strangers: Latest,
}

/// The latest state for those whose token or certificate is not good by what is known here: it may have been made good a
/// moment ago, where another manager leads. All who wait share a look, so that no number of them costs more than one at a
/// time.
#[derive(Default)]
struct Latest(Mutex<Option<Look>>);

/// When it began, and what came of it.
struct Look(Instant, Result<(), ManagerError>);

impl Latest {
    /// Waits until somebody has looked who began after this call.
    async fn reach(
        &self,
        look: impl Future<Output = Result<(), ManagerError>>,
    ) -> Result<(), ManagerError> {
        let came = Instant::now();
        let mut last = self.0.lock().await;
        if let Some(Look(begun, found)) = &*last
            && *begun > came
        {
            return found.clone();
        }
        let begun = Instant::now();
        let found = look.await;
        *last = Some(Look(begun, found.clone()));
        found
    }
}

/// Compares secrets by their digests, so that the time taken tells nothing of them.
fn is_same_secret(a: &str, b: &str) -> bool {
    Sha256::digest(a.as_bytes()) == Sha256::digest(b.as_bytes())
}

impl Service {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            strangers: Latest::default(),
        }
    }

    /// Waits until the state here is the latest, for somebody who is known here or not.
    async fn catch_up(&self, is_known: bool) -> Result<(), Status> {
        let look = async { self.core.catch_up().await.map(drop) };
        let reached = match is_known {
            true => look.await,
            false => self.strangers.reach(look).await,
        };
        reached.map_err(status)
    }

    /// Whether a token is good by what is known here.
    fn knows(&self, token: &str) -> bool {
        let state = self.core.store.read();
        let cluster = state.cluster();
        cluster.is_some_and(|cluster| role_of(cluster, token).is_ok())
    }

    fn cluster(&self) -> Result<Cluster, Status> {
        let state = self.core.store.read();
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
        csr: &str,
    ) -> Result<(String, Role), Status> {
        let asked = request.get_ref();
        if asked.token.is_empty() {
            // A renewal, with the role that the node has by now.
            let peer = auth::renewing(&self.core, request)?;
            let state = self.core.store.read();
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
        // A bad request must not leave a node behind.
        let key = key_of(cluster, csr).map_err(bad_request)?;
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
        self.catch_up(self.knows(&asked.token)).await?;
        let cluster = self.cluster()?;
        role_of(&cluster, &asked.token)?;
        let key = std::str::from_utf8(&asked.csr_pem)
            .map_err(|e| Status::invalid_argument(e.to_string()))
            .and_then(|csr| key_of(&cluster, csr).map_err(bad_request))?;
        let state = self.core.store.read();
        Ok(state.joined_as(&key).map(str::to_owned))
    }

    /// Adds a node, and gives its id. Without a leader, or one that answers, it is tried again for a while: what was lost may have
    /// been done, and is then done over, under the same id.
    async fn add(&self, node: AddNode) -> Result<String, ManagerError> {
        let deadline = Core::patience();
        loop {
            match self.core.change(Operation::AddNode(node.clone())).await {
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

/// What cannot be signed.
fn bad_request(error: PkiError) -> Status {
    Status::invalid_argument(error.to_string())
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
        let token = &request.get_ref().token;
        let is_renewal = token.is_empty();
        let is_known = match is_renewal {
            true => auth::may_renew(&self.core, &request)?,
            false => self.knows(token),
        };
        self.catch_up(is_known).await?;
        let cluster = self.cluster()?;
        let csr = std::str::from_utf8(&request.get_ref().csr_pem)
            .map_err(|_| Status::invalid_argument("the signing request is not PEM"))?
            .to_owned();
        let (node_id, role) = self.admit(&cluster, &request, &csr).await?;
        let cluster = match is_renewal {
            true => cluster,
            // A rotation of the root that begins or ends from here on knows the node; one that did before is known here.
            false => {
                self.core.catch_up().await.map_err(status)?;
                self.cluster()?
            }
        };
        let certificate = sign(&cluster, &csr, &node_id, role).map_err(bad_request)?;
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
                auth::peer(&self.core, &request)?;
                self.core.catch_up().await.map_err(status)?;
                auth::node(&self.core, &request)?.node_id
            }
            false => match self.unanswered(request.get_ref()).await? {
                Some(node_id) => node_id,
                None => return Ok(Response::new(WithdrawResponse {})),
            },
        };
        let core = self.core.clone();
        to_its_end(async move { core.withdraw(&node_id).await })
            .await?
            .map_err(status)?;
        Ok(Response::new(WithdrawResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn strangers_share_a_look() {
        let (latest, looks, answer) = (Latest::default(), AtomicU32::new(0), Notify::new());
        let look = async || {
            looks.fetch_add(1, Ordering::Relaxed);
            answer.notified().await;
            Err(ManagerError::no_leader())
        };
        let strangers = (0..30).map(|_| latest.reach(look()));
        let answers = async {
            // The first one's look, and one that began after all the others had come.
            for _ in 0..2 {
                answer.notify_one();
                tokio::task::yield_now().await;
            }
        };
        let (found, ()) = tokio::join!(join_all(strangers), answers);
        assert_eq!(found, vec![Err(ManagerError::no_leader()); 30]);
        assert_eq!(looks.load(Ordering::Relaxed), 2);
        // Who comes later goes by no look of before.
        answer.notify_one();
        latest.reach(look()).await.unwrap_err();
        assert_eq!(looks.load(Ordering::Relaxed), 3);
    }
}
