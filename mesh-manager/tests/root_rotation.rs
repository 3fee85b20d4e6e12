//! The root CA is rotated while nodes have sessions, over real TLS.

mod common;

use common::{FakeNode, config, eventually, free_address, manager_with};
use mesh_api::{
    engine,
    proto::{self, node_message::Message},
};
use mesh_manager::{Command, ManagerHandle, client, state::Cluster};
use mesh_pki::{NodeIdentity, tls};
use std::time::Duration;
use tokio_stream::StreamExt;

fn cluster(manager: &ManagerHandle) -> Cluster {
    manager.view().cluster().unwrap().clone()
}

async fn rotate(manager: &ManagerHandle) {
    let version = cluster(manager).meta.version;
    let mut spec = engine::SwarmSpec {
        ca_config: Some(engine::SwarmSpecCaConfig {
            force_rotate: Some(1),
            ..Default::default()
        }),
        ..Default::default()
    };
    let root = manager.root_change(version, &mut spec).unwrap();
    assert!(root.is_some());
    let command = Command::UpdateSwarm {
        version,
        spec,
        rotate_worker_token: false,
        rotate_manager_token: false,
        rotate_unlock_key: false,
        unlock_key: None,
        root: root.map(Box::new),
    };
    manager.call(command).await.unwrap();
}

async fn welcome(node: &FakeNode, what: &str, is: impl Fn(&proto::Welcome) -> bool) {
    eventually(what, || {
        is(&node.known.lock().unwrap().welcome).then_some(())
    })
    .await;
}

/// Whether a node gets a session.
async fn is_let_in(address: &str, identity: &NodeIdentity) -> bool {
    let tls = tls::client_config(identity).unwrap();
    let Ok(channel) = client::connect(address, tls).await else {
        return false;
    };
    let hello = proto::NodeMessage {
        message: Some(Message::Hello(proto::NodeDescription::default())),
    };
    let answer = proto::dispatcher_client::DispatcherClient::new(channel)
        .session(tokio_stream::once(hello).chain(tokio_stream::pending()))
        .await;
    match answer {
        Ok(mut answer) => matches!(answer.get_mut().next().await, Some(Ok(_))),
        Err(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_told_to_renew_and_what_the_former_root_has_signed_is_worth_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), free_address());
    let manager = manager_with(config.clone()).await;
    let address = manager.managers()[0].1.clone();
    let show = |identity: &NodeIdentity| {
        identity.save(&config.identity_dir, None).unwrap();
        manager.reload_identity().unwrap();
    };
    let own = FakeNode::open(&address, manager.identity().clone(), "m").await;
    let worker = FakeNode::join(&manager, "n1").await;
    let gone = FakeNode::join(&manager, "n2").await;
    let before = cluster(&manager);
    for node in [&own, &worker] {
        welcome(node, "a welcome", |w| !w.session_id.is_empty()).await;
        let told = node.known.lock().unwrap().welcome.clone();
        assert_eq!((told.renew_within_ms, told.root_ca_pem), (0, String::new()));
    }

    rotate(&manager).await;
    let mut renewed = Vec::new();
    for node in [&own, &worker] {
        welcome(node, "a word on the certificate", |w| w.renew_within_ms > 0).await;
        let identity = client::renew(&address, &node.identity).await.unwrap();
        assert_eq!(identity.root_pem, before.root_certificate_pem);
        if node.id() == own.id() {
            show(&identity);
        }
        node.kill();
        renewed.push(FakeNode::open(&address, identity, "again").await);
    }
    for node in &renewed {
        welcome(node, "another welcome", |w| !w.session_id.is_empty()).await;
        let told = node.known.lock().unwrap().welcome.clone();
        assert_eq!((told.renew_within_ms, told.root_ca_pem), (0, String::new()));
    }
    let late = client::join(&address, &before.worker_token, "active", common::OUTSIDE).await;
    let late = late.expect("the token is good until the end").identity;
    assert!(
        cluster(&manager).root_rotation.is_some(),
        "n2 is waited for"
    );
    gone.kill();
    let remove = Command::RemoveNode {
        id: gone.id().to_owned(),
        force: true,
    };
    manager.call(remove).await.unwrap();
    let late = FakeNode::open(&address, late, "late").await;
    eventually("the end", || {
        cluster(&manager).root_rotation.is_none().then_some(())
    })
    .await;

    let after = cluster(&manager);
    assert_ne!(after.root_certificate_pem, before.root_certificate_pem);
    let mut worker_now = late.identity.clone();
    for node in renewed.iter().chain([&late]) {
        let root = &after.root_certificate_pem;
        welcome(node, "the new root", |w| w.root_ca_pem == *root).await;
        let trusting = node.identity.trusting(root).unwrap();
        if node.id() == own.id() {
            show(&trusting);
        }
        node.kill();
        worker_now.clone_from(&trusting);
        let again = FakeNode::open(&address, trusting, "once more").await;
        welcome(&again, "no objection", |w| {
            !w.session_id.is_empty() && w.root_ca_pem.is_empty() && w.renew_within_ms == 0
        })
        .await;
    }
    for token in [&before.worker_token, &before.manager_token] {
        let old = client::join(&address, token, "active", common::OUTSIDE).await;
        let said = old.unwrap_err().to_string();
        assert!(said.contains("does not match fingerprint"), "{said}");
    }
    FakeNode::join(&manager, "new").await;
    assert!(is_let_in(&address, &worker_now).await);
    // It takes the manager for its own still.
    assert!(!is_let_in(&address, &gone.identity).await);
    // What it is told may be lost with the connection, now and then.
    let until = tokio::time::Instant::now() + common::PATIENCE;
    loop {
        let tls = tls::client_config(&gone.identity).unwrap();
        if let Ok((channel, distrust)) = client::connect_watched(&address, tls).await {
            proto::dispatcher_client::DispatcherClient::new(channel)
                .session(tokio_stream::pending())
                .await
                .unwrap_err();
            if distrust.is_known() {
                break;
            }
        }
        assert!(tokio::time::Instant::now() < until, "it is not told why");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(client::renew(&address, &gone.identity).await.is_err());
    manager.shutdown().await;
}
