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

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A clock that is ahead by so much, or behind.
#[derive(Debug)]
struct Turned(UnixTime);

impl rustls::time_provider::TimeProvider for Turned {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

fn turned(now: SystemTime, server: &NodeIdentity) -> Arc<ServerConfig> {
    let mut config = server_config(server).unwrap().as_ref().clone();
    config.time_provider = Arc::new(Turned(unix(now)));
    Arc::new(config)
}

fn turned_client(now: SystemTime, client: &NodeIdentity) -> Arc<ClientConfig> {
    let mut config = client_config(client).unwrap().as_ref().clone();
    config.time_provider = Arc::new(Turned(unix(now)));
    Arc::new(config)
}

#[tokio::test]
async fn a_client_may_come_too_late_but_not_too_early_and_a_server_neither() {
    let root = RootCa::create().unwrap();
    let manager = NodeIdentity::first_manager(&root).unwrap();
    let worker = worker(&root, &manager.cluster_id);
    let now = SystemTime::now();
    let minute = Duration::from_secs(60);
    // The worker's lives for a day, the manager's for ninety; both begin an hour before they were signed.
    let table = [
        (now, true, true),
        (now - 59 * minute, true, true),
        (now - 61 * minute, false, false),
        (now + DAY - minute, true, true),
        (now + DAY + minute, true, true),
        (now + 89 * DAY, true, true),
        (now + 91 * DAY, true, false),
    ];
    for (at, takes_client, is_taken) in table {
        // The other end's clock is right.
        let client = client_config(&worker).unwrap();
        let shown = handshake(turned(at, &manager), client).await;
        assert_eq!(shown.is_ok_and(|shown| shown), takes_client, "{at:?}");
        let server = server_config(&manager).unwrap();
        let shown = handshake(server, turned_client(at, &worker)).await;
        assert_eq!(shown.is_ok(), is_taken, "{at:?}");
    }
    let late = now + 91 * DAY;
    let foreign = NodeIdentity::first_manager(&RootCa::create().unwrap()).unwrap();
    let client = client_config(&foreign).unwrap();
    let shown = handshake(turned(late, &manager), client).await;
    shown.expect_err("of another root, whether it has expired or not");
    let root_is_gone = now + 21 * 365 * DAY;
    let client = client_config(&worker).unwrap();
    handshake(turned(root_is_gone, &manager), client)
        .await
        .expect("it was good while it lived");
}

#[tokio::test]
async fn no_node_signs_another_ones_certificate_for_the_past() {
    let root = RootCa::create().unwrap();
    let manager = NodeIdentity::first_manager(&root).unwrap();
    let worker = worker(&root, &manager.cluster_id);
    let now = SystemTime::now();
    // As if the worker's key were a root's.
    let false_root =
        RootCa::from_pem(&worker.certificate_pem, Some(worker.key_pem.as_str())).unwrap();
    let request = worker.request().unwrap();
    let certificate = false_root.sign_during(
        &request,
        &manager.node_id,
        Role::Manager,
        &manager.cluster_id,
        now - 9 * DAY..now - DAY,
    );
    let chain = certificate.unwrap() + &worker.certificate_pem;
    let made_up = NodeIdentity::new(chain, worker.key_pem, worker.root_pem).unwrap();
    assert_eq!(made_up.node_id, manager.node_id);
    for at in [now, now - 2 * DAY] {
        let client = client_config(&made_up).unwrap();
        let shown = handshake(turned(at, &manager), client).await;
        shown.expect_err("a node's key signs no certificates");
    }
}

#[tokio::test]
async fn a_prolonged_certificate_is_the_same_with_a_later_end() {
    let root = RootCa::create().unwrap();
    let manager = NodeIdentity::first_manager(&root).unwrap();
    let other = worker(&root, &manager.cluster_id);
    let late = SystemTime::now() + 100 * DAY;
    assert!(!manager.has_expired(late - 20 * DAY).unwrap());
    assert!(manager.has_expired(late).unwrap());
    let prolonged = manager.prolonged(&root, late, late + DAY).unwrap();
    let read = |identity: &NodeIdentity| {
        let leaf = certificates(&identity.certificate_pem).unwrap().remove(0);
        PeerIdentity::from_certificate(&leaf).unwrap()
    };
    let (before, after) = (read(&manager), read(&prolonged));
    let end = after.expires_at;
    assert!(end <= late + DAY && end > late + DAY - Duration::from_secs(2));
    assert_eq!(
        after,
        PeerIdentity {
            expires_at: end,
            ..before
        },
        "its key, role and beginning are what they were"
    );
    assert!(prolonged.is_due_for_renewal(late, 0.6).unwrap());
    assert!(!prolonged.has_expired(late).unwrap());
    let shown = handshake(turned(late, &prolonged), turned_client(late, &prolonged)).await;
    assert!(shown.unwrap());
    let shown = handshake(turned(late, &prolonged), turned_client(late, &other)).await;
    assert!(shown.unwrap(), "it serves those that have expired");

    let foreign = RootCa::create().unwrap();
    let refused = manager.prolonged(&foreign, late, late + DAY);
    refused.expect_err("nobody here would take it");
    let locked = manager.without_key();
    let refused = locked.prolonged(&root, late, late + DAY);
    assert!(matches!(refused, Err(PkiError::MissingKey)));
}

#[tokio::test]
async fn one_that_begins_later_is_prolonged_to_a_whole_life() {
    let root = RootCa::create().unwrap();
    let manager = NodeIdentity::first_manager(&root).unwrap();
    let now = SystemTime::now();
    let early = now - 20 * DAY;
    assert!(manager.is_good_at(now).unwrap() && !manager.is_good_at(early).unwrap());
    assert!(!manager.is_good_at(now + 100 * DAY).unwrap());
    let hour = DAY / 24;
    let prolonged = manager.prolonged(&root, early, early + hour).unwrap();
    assert!(prolonged.is_good_at(early).unwrap());
    assert!(prolonged.is_due_for_renewal(early, 0.6).unwrap());
    let (begins, _) = prolonged.validity().unwrap();
    assert!(begins < early - 89 * DAY, "nobody is younger for it");
    let shown = handshake(turned(early, &prolonged), turned_client(early, &prolonged)).await;
    assert!(shown.unwrap());
    let before = handshake(turned(early, &manager), turned_client(early, &prolonged)).await;
    before.expect_err("it is not good yet");
}
