//! Handshakes in memory: who may talk to whom.

use super::*;
use crate::{Role, RootCa, new_id, new_key_and_request};
use std::time::Duration;
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn worker(root: &RootCa, cluster_id: &str) -> NodeIdentity {
    let pair = new_key_and_request().unwrap();
    let day = Duration::from_secs(24 * 3600);
    let certificate = root
        .sign(&pair.request_pem, &new_id(), Role::Worker, cluster_id, day)
        .unwrap();
    NodeIdentity::new(certificate, pair.key_pem, root.certificate_pem().to_owned()).unwrap()
}

/// Whether both ends finish the handshake, and whether the client showed a certificate.
pub(crate) async fn handshake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
) -> Result<bool, String> {
    let (near, far) = tokio::io::duplex(16 * 1024);
    let name = ServerName::try_from(MANAGER_NAME).unwrap();
    let connector = TlsConnector::from(client);
    let acceptor = TlsAcceptor::from(server);
    let (accepted, connected) = tokio::join!(acceptor.accept(far), connector.connect(name, near));
    connected.map_err(|e| e.to_string())?;
    let accepted = accepted.map_err(|e| e.to_string())?;
    Ok(accepted.get_ref().1.peer_certificates().is_some())
}

#[tokio::test]
async fn nodes_and_managers_of_one_cluster_agree() {
    let root = RootCa::create().unwrap();
    let manager = NodeIdentity::first_manager(&root).unwrap();
    let worker = worker(&root, &manager.cluster_id);
    assert_eq!(worker.role, Role::Worker);
    let server = server_config(&manager).unwrap();
    for client in [&manager, &worker] {
        assert!(
            handshake(server.clone(), client_config(client).unwrap())
                .await
                .unwrap()
        );
    }
}

#[tokio::test]
async fn a_worker_cannot_pose_as_a_manager() {
    let root = RootCa::create().unwrap();
    let manager = NodeIdentity::first_manager(&root).unwrap();
    let worker = worker(&root, &manager.cluster_id);
    let server = server_config(&worker).unwrap();
    assert!(
        handshake(server.clone(), client_config(&manager).unwrap())
            .await
            .is_err()
    );
    assert!(
        handshake(server, pinned_client_config(&root.digest()).unwrap())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_pinned_client_takes_only_its_root() {
    let root = RootCa::create().unwrap();
    let server = server_config(&NodeIdentity::first_manager(&root).unwrap()).unwrap();
    let pinned = pinned_client_config(&root.digest()).unwrap();
    assert!(!handshake(server.clone(), pinned).await.unwrap());
    let other = pinned_client_config(&RootCa::create().unwrap().digest()).unwrap();
    let error = handshake(server, other).await.unwrap_err();
    assert!(
        error.contains("remote CA does not match fingerprint"),
        "{error}"
    );
}

#[tokio::test]
async fn clusters_do_not_mix() {
    let ours = NodeIdentity::first_manager(&RootCa::create().unwrap()).unwrap();
    let theirs = NodeIdentity::first_manager(&RootCa::create().unwrap()).unwrap();
    let server = server_config(&ours).unwrap();
    assert!(
        handshake(server, client_config(&theirs).unwrap())
            .await
            .is_err()
    );
}
