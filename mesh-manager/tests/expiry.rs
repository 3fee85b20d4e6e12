//! Certificates that have expired, over real TLS: what they are good for still, and what not.

mod common;

use common::{FakeNode, PATIENCE, config, eventually, free_address, group, manager_with};
use mesh_api::{
    engine,
    proto::{
        ForwardRequest, GroupRequest, JoinRequest, LogsRequest, NodeDescription, NodeMessage,
        RaftMessage, ReadIndexRequest, control_client::ControlClient,
        dispatcher_client::DispatcherClient, node_message::Message, raft_client::RaftClient,
    },
};
use mesh_manager::{Command, Config, ErrorKind, Manager, ManagerHandle, client};
use mesh_pki::{NodeIdentity, PeerIdentity, Role, RootCa, new_key_and_request, tls};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::time::{Duration, SystemTime};
use tokio_stream::StreamExt;
use tonic::{Code, Status};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn root(manager: &ManagerHandle) -> RootCa {
    let view = manager.view();
    let cluster = view.cluster().unwrap();
    RootCa::from_pem(&cluster.root_certificate_pem, Some(&cluster.root_key_pem)).unwrap()
}

/// The same node with a certificate of its key for `role`, good from so many days ago until so many days ago.
fn dated(
    identity: &NodeIdentity,
    signer: &RootCa,
    role: Role,
    [from, until]: [u32; 2],
) -> NodeIdentity {
    let now = SystemTime::now();
    let certificate = signer.sign_during(
        &identity.request().unwrap(),
        &identity.node_id,
        role,
        &identity.cluster_id,
        now - DAY * from..now - DAY * until,
    );
    let root = identity.root_pem.clone();
    NodeIdentity::new(certificate.unwrap(), identity.key_pem.clone(), root).unwrap()
}

fn expired(identity: &NodeIdentity, signer: &RootCa) -> NodeIdentity {
    dated(identity, signer, identity.role, [100, 10])
}

async fn channel(address: &str, identity: &NodeIdentity) -> tonic::transport::Channel {
    let tls = tls::client_config(identity).unwrap();
    client::connect(address, tls).await.unwrap()
}

/// What becomes of a session.
async fn session(address: &str, identity: &NodeIdentity) -> Result<(), Status> {
    let hello = NodeMessage {
        message: Some(Message::Hello(NodeDescription::default())),
    };
    let mut answer = DispatcherClient::new(channel(address, identity).await)
        .session(tokio_stream::once(hello).chain(tokio_stream::pending()))
        .await?;
    let first = answer.get_mut().next().await;
    first.expect("a word").map(drop)
}

async fn renewal_refused(address: &str, identity: &NodeIdentity) -> String {
    let refused = client::renew(address, identity).await;
    refused.expect_err("it got a certificate").to_string()
}

/// Whether the manager has noted that the node has this key.
fn knows(manager: &ManagerHandle, identity: &NodeIdentity) -> bool {
    let leaf = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap();
    let key = PeerIdentity::from_certificate(&leaf).unwrap().key_digest;
    let view = manager.view();
    let node = view.node(&identity.node_id);
    node.is_some_and(|node| node.description.key == key)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_has_its_expired_certificate_renewed_by_the_key_that_it_showed_last() {
    let directory = tempfile::tempdir().unwrap();
    let manager = manager_with(config(directory.path(), free_address())).await;
    let address = manager.managers()[0].1.clone();
    let root = root(&manager);
    let node = FakeNode::join(&manager, "n").await;
    eventually("its key", || knows(&manager, &node.identity).then_some(())).await;
    node.kill();
    let late = expired(&node.identity, &root);
    let said = session(&address, &late).await.unwrap_err();
    assert_eq!(said.code(), Code::Unauthenticated, "{said}");
    assert!(
        said.message().contains("good for having it renewed"),
        "{said}"
    );

    // Whatever else it says, the state says what it gets.
    let raised = dated(&node.identity, &root, Role::Manager, [100, 10]);
    let renewed = client::renew(&address, &raised).await.unwrap();
    assert_eq!(renewed.role, Role::Worker);
    let renewed = client::renew(&address, &late).await.unwrap();
    assert_eq!(
        (renewed.role, &renewed.node_id),
        (Role::Worker, &late.node_id)
    );
    assert!(!renewed.has_expired(SystemTime::now()).unwrap());
    assert_eq!(renewed.root_pem, root.certificate_pem());

    // An answer that was lost costs nothing; what was taken up counts.
    client::renew(&address, &late).await.unwrap();
    let again = FakeNode::open(&address, renewed, "n").await;
    eventually("its new key", || {
        knows(&manager, &again.identity).then_some(())
    })
    .await;
    let said = renewal_refused(&address, &late).await;
    assert!(
        said.contains("its key is not the one that the swarm knows"),
        "{said}"
    );
    let said = session(&address, &late).await.unwrap_err();
    assert_eq!(said.code(), Code::PermissionDenied, "{said}");
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_known_by_its_key_gets_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let manager = manager_with(config(directory.path(), free_address())).await;
    let address = manager.managers()[0].1.clone();
    let root = root(&manager);
    let node = FakeNode::join(&manager, "n").await;
    eventually("its key", || knows(&manager, &node.identity).then_some(())).await;
    node.kill();

    let pair = new_key_and_request().unwrap();
    let another = NodeIdentity {
        key_pem: pair.key_pem,
        ..node.identity.clone()
    };
    let said = renewal_refused(&address, &expired(&another, &root)).await;
    assert!(said.contains("its key is not the one"), "{said}");
    let unknown = NodeIdentity {
        node_id: "nobody".to_owned(),
        ..node.identity.clone()
    };
    let said = renewal_refused(&address, &expired(&unknown, &root)).await;
    assert!(said.contains("not part of this swarm"), "{said}");

    let foreign = RootCa::create().unwrap();
    let early = dated(&node.identity, &root, Role::Worker, [0, 0]);
    let early = NodeIdentity {
        certificate_pem: root
            .sign_during(
                &early.request().unwrap(),
                &early.node_id,
                Role::Worker,
                &early.cluster_id,
                SystemTime::now() + DAY..SystemTime::now() + DAY * 2,
            )
            .unwrap(),
        ..early
    };
    for refused in [expired(&node.identity, &foreign), early] {
        // TLS ends before anything is asked.
        renewal_refused(&address, &refused).await;
        let said = session(&address, &refused).await.unwrap_err();
        assert!(
            !["good for having it renewed", "its key"]
                .iter()
                .any(|words| said.message().contains(words)),
            "{said}"
        );
    }

    let remove = Command::RemoveNode {
        id: node.id().to_owned(),
        force: true,
    };
    manager.call(remove).await.unwrap();
    let late = expired(&node.identity, &root);
    let said = renewal_refused(&address, &late).await;
    assert!(said.contains("not part of this swarm"), "{said}");
    let said = session(&address, &late).await.unwrap_err();
    assert_eq!(said.code(), Code::PermissionDenied, "{said}");
    assert!(said.message().contains("not part of this swarm"), "{said}");
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_is_good_for_no_other_call() {
    let directory = tempfile::tempdir().unwrap();
    let manager = manager_with(config(directory.path(), free_address())).await;
    let address = manager.managers()[0].1.clone();
    // The leader's own, with all that it may.
    let own = manager.identity().clone();
    let session = FakeNode::open(&address, own.clone(), "m").await;
    eventually("its key", || knows(&manager, &own).then_some(())).await;
    let mut refused = Vec::new();
    for (identity, is_good) in [(own.clone(), true), (expired(&own, &root(&manager)), false)] {
        let channel = channel(&address, &identity).await;
        let mut control = ControlClient::new(channel.clone());
        let mut raft = RaftClient::new(channel.clone());
        let mut dispatcher = DispatcherClient::new(channel.clone());
        let message = RaftMessage::default;
        let said = [
            control.group(GroupRequest {}).await.map(drop),
            control.join(JoinRequest::default()).await.map(drop),
            control.forward(ForwardRequest::default()).await.map(drop),
            control.read_index(ReadIndexRequest {}).await.map(drop),
            control.logs(LogsRequest::default()).await.map(drop),
            raft.vote(message()).await.map(drop),
            raft.pre_vote(message()).await.map(drop),
            raft.append_entries(message()).await.map(drop),
            raft.install_snapshot(message()).await.map(drop),
            dispatcher
                .publish_logs(tokio_stream::empty())
                .await
                .map(drop),
        ];
        let is_expired = |said: &Result<(), Status>| {
            let code = said.as_ref().err().map(Status::code);
            code == Some(Code::Unauthenticated)
        };
        for (number, said) in said.iter().enumerate() {
            assert_eq!(is_expired(said), !is_good, "{number}: {said:?}");
        }
        refused.push(client::renew(&address, &identity).await.is_err());
    }
    assert_eq!(refused, [false, false], "that it may");
    session.kill();
    manager.shutdown().await;
}

/// Puts an expired certificate in the place of the one on disk; gives what is there.
fn expire(config: &Config, signer: &RootCa) -> NodeIdentity {
    let identity = Manager::identity(config).unwrap().unwrap();
    let expired = expired(&identity, signer);
    let lock = Manager::node_lock(config).unwrap();
    expired.save(&config.identity_dir, lock.as_ref()).unwrap();
    expired
}

/// Prolongs a manager that was shut down: what served its last connections may hold the log for a moment.
async fn prolong(config: &Config, identity: &NodeIdentity) -> Option<NodeIdentity> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match Manager::prolonged(config, identity).await {
            Ok(prolonged) => return prolonged,
            Err(error)
                if error.kind == ErrorKind::FailedPrecondition
                    || tokio::time::Instant::now() > deadline =>
            {
                panic!("{error}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn managers_that_all_come_back_too_late_elect_a_leader_and_renew() {
    let directory = tempfile::tempdir().unwrap();
    let first_config = config(directory.path(), free_address());
    let first = manager_with(first_config.clone()).await;
    let second = group::member(&first).await;
    let third = group::member(&first).await;
    let signer = root(&first);
    let configs = [first_config, second.config.clone(), third.config.clone()];
    for manager in [&first, &second.handle, &third.handle] {
        manager.shutdown().await;
    }
    drop((first, second.handle, third.handle));
    for config in &configs {
        let late = expire(config, &signer);
        // Not one that is good, nor a worker's, nor one whose key is locked.
        let good = dated(&late, &signer, Role::Manager, [1, 0]);
        let good = NodeIdentity {
            certificate_pem: signer
                .sign(
                    &good.request().unwrap(),
                    &good.node_id,
                    Role::Manager,
                    &good.cluster_id,
                    DAY,
                )
                .unwrap(),
            ..good
        };
        let worker = dated(&late, &signer, Role::Worker, [100, 10]);
        for other in [good, worker, late.clone().without_key()] {
            assert!(prolong(config, &other).await.is_none());
        }
        let foreign = NodeIdentity {
            root_pem: RootCa::create().unwrap().certificate_pem().to_owned(),
            ..late.clone()
        };
        let refused = Manager::prolonged(config, &foreign).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::FailedPrecondition, "{refused}");

        // Signed by a clock that was ahead.
        let later = SystemTime::now() + DAY * 50;
        let early = NodeIdentity {
            certificate_pem: signer
                .sign_during(
                    &late.request().unwrap(),
                    &late.node_id,
                    Role::Manager,
                    &late.cluster_id,
                    later..later + DAY * 90,
                )
                .unwrap(),
            ..late.clone()
        };
        let prolonged = prolong(config, &early).await.expect("it begins later");
        assert!(prolonged.is_good_at(SystemTime::now()).unwrap());
        let prolonged = prolong(config, &late).await.expect("it has expired");
        assert!(!prolonged.has_expired(SystemTime::now()).unwrap());
        prolonged.save(&config.identity_dir, None).unwrap();
    }
    let mut managers = Vec::new();
    for config in &configs {
        managers.push(group::restart(config.clone(), Vec::new()).await);
    }
    for manager in &managers {
        let ready = tokio::time::timeout(PATIENCE, manager.ready()).await;
        ready.expect("a leader").unwrap();
    }
    for (manager, config) in managers.iter().zip(&configs) {
        let own = Manager::identity(config).unwrap().unwrap();
        let renewed = client::renew(&group::address(manager), &own).await.unwrap();
        assert_eq!(renewed.role, Role::Manager);
    }
    for manager in &managers {
        manager.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_demoted_meanwhile_is_no_manager_for_a_later_end() {
    let directory = tempfile::tempdir().unwrap();
    let first = manager_with(config(directory.path(), free_address())).await;
    let second = group::member(&first).await;
    let third = group::member(&first).await;
    let signer = root(&first);
    let remote = group::address(&first);
    second.handle.shutdown().await;
    let late = expire(&second.config, &signer);
    let (version, spec) = {
        let view = first.view();
        let node = view.node(&late.node_id).unwrap();
        (node.meta.version, node.spec.clone())
    };
    let demote = Command::UpdateNode {
        id: late.node_id.clone(),
        version,
        spec: engine::NodeSpec {
            role: Some(engine::NodeSpecRoleEnum::WORKER),
            ..spec
        },
    };
    first.call(demote).await.unwrap();
    eventually("two managers", || {
        (first.managers().len() == 2).then_some(())
    })
    .await;

    // Those who lag may honour a certificate that was signed after that: a prolonged one is not.
    let vote = async |identity: &NodeIdentity| {
        let message = RaftMessage {
            to: first.identity().node_id.clone(),
            ..RaftMessage::default()
        };
        let channel = channel(&remote, identity).await;
        let said = RaftClient::new(channel).vote(message).await;
        said.expect_err("it is no vote").code()
    };
    // Signed a few seconds later, since its time has no parts of one: certificates begin an hour before.
    let begins = SystemTime::now() - Duration::from_secs(3595);
    let fresh = signer.sign_during(
        &late.request().unwrap(),
        &late.node_id,
        Role::Manager,
        &late.cluster_id,
        begins..begins + DAY,
    );
    let fresh = NodeIdentity {
        certificate_pem: fresh.unwrap(),
        ..late.clone()
    };
    assert_ne!(vote(&fresh).await, Code::PermissionDenied);
    let prolonged = prolong(&second.config, &late).await.expect("it is made");
    assert_eq!(prolonged.role, Role::Manager);
    assert_eq!(vote(&prolonged).await, Code::PermissionDenied);
    let channel = channel(&remote, &prolonged).await;
    let said = ControlClient::new(channel).group(GroupRequest {}).await;
    assert_eq!(said.unwrap_err().code(), Code::PermissionDenied);
    let renewed = client::renew(&remote, &prolonged).await.unwrap();
    assert_eq!(renewed.role, Role::Worker, "it is told");
    for manager in [&first, &third.handle] {
        manager.shutdown().await;
    }
}
