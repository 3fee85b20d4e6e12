//! Who may make which call of the managers' port: each call, by everyone whose certificate or token is not good for it.

mod common;

use axum::{Router, http};
use common::{FakeNode, OUTSIDE, config, eventually, free_address, group, manager_with};
use mesh_api::{
    engine,
    proto::{
        ForwardRequest, GroupRequest, IssueNodeCertificateRequest, JoinRequest, LogsRequest,
        NodeDescription, NodeMessage, RaftMessage, ReadIndexRequest, WithdrawRequest,
        control_client::ControlClient, dispatcher_client::DispatcherClient,
        node_ca_client::NodeCaClient, node_message::Message, raft_client::RaftClient,
    },
};
use mesh_manager::{Command, ManagerHandle, client};
use mesh_pki::{JoinToken, NodeIdentity, Role, new_key_and_request, tls};
use std::collections::BTreeSet;
use tokio_stream::StreamExt;
use tonic::{Code, Status, transport::Channel};
use tower::ServiceExt;

/// Calls that a node may make, those of renewal among them.
const NODES: [&str; 4] = ["session", "publish logs", "renew", "withdraw"];
/// Calls that managers make.
const MANAGERS: [&str; 11] = [
    "group",
    "join",
    "forward",
    "read index",
    "logs",
    "append entries",
    "vote",
    "pre-vote",
    "install snapshot",
    "GET /engine",
    "POST /engine",
];

/// A manager whose Engine API answers everything.
async fn manager() -> (tempfile::TempDir, ManagerHandle) {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path(), free_address());
    config.engine_api = Router::new().fallback(async || "all secrets");
    let manager = manager_with(config).await;
    (directory, manager)
}

fn token(manager: &ManagerHandle, role: Role) -> String {
    let view = manager.view();
    let cluster = view.cluster().unwrap();
    match role {
        Role::Manager => cluster.manager_token.clone(),
        Role::Worker => cluster.worker_token.clone(),
    }
}

/// A node that came in by a token and was given a certificate, and nothing since.
async fn newcomer(manager: &ManagerHandle, role: Role) -> NodeIdentity {
    let token = token(manager, role);
    let joined = client::join(&group::address(manager), &token, "active", OUTSIDE).await;
    joined.expect("the token is good").identity
}

async fn remove(manager: &ManagerHandle, identity: &NodeIdentity) {
    let remove = Command::RemoveNode {
        id: identity.node_id.clone(),
        force: true,
    };
    manager.call(remove).await.expect("it may be removed");
}

/// Makes a worker of a manager, which keeps its certificate.
async fn demote(manager: &ManagerHandle, identity: &NodeIdentity) {
    let id = identity.node_id.clone();
    let (version, spec) = {
        let view = manager.view();
        let node = view.node(&id).expect("it is a node");
        (node.meta.version, node.spec.clone())
    };
    let spec = engine::NodeSpec {
        role: Some(engine::NodeSpecRoleEnum::WORKER),
        ..spec
    };
    let update = Command::UpdateNode {
        id: id.clone(),
        version,
        spec,
    };
    manager.call(update).await.expect("it may be demoted");
    eventually("it is a worker", || {
        (manager.view().node(&id)?.role == Role::Worker).then_some(())
    })
    .await;
}

/// Asks the Engine API that the leader serves for other managers.
async fn engine(channel: &Channel, method: http::Method, path: &str) -> Result<(), Status> {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .body(tonic::body::Body::empty())
        .unwrap();
    let answer = channel.clone().oneshot(request).await;
    let status = answer.expect("an answer").status();
    match status {
        http::StatusCode::OK => Ok(()),
        http::StatusCode::FORBIDDEN => Err(Status::permission_denied("403")),
        other => panic!("{other}"),
    }
}

/// The calls of which the manager says that they are not for who makes them.
async fn refused(manager: &ManagerHandle, channel: Channel) -> BTreeSet<&'static str> {
    let mut control = ControlClient::new(channel.clone());
    let mut raft = RaftClient::new(channel.clone());
    let mut dispatcher = DispatcherClient::new(channel.clone());
    let mut authority = NodeCaClient::new(channel.clone());
    let message = || RaftMessage {
        payload: b"nonsense".to_vec(),
        to: manager.identity().node_id.clone(),
        ..RaftMessage::default()
    };
    let hello = NodeMessage {
        message: Some(Message::Hello(NodeDescription::default())),
    };
    let hello = tokio_stream::once(hello).chain(tokio_stream::pending());
    let renewal = IssueNodeCertificateRequest {
        csr_pem: new_key_and_request().unwrap().request_pem.into_bytes(),
        ..Default::default()
    };
    let backup = "/engine/mesh/swarm/backup";
    let said = [
        ("group", control.group(GroupRequest {}).await.map(drop)),
        ("join", control.join(JoinRequest::default()).await.map(drop)),
        (
            "forward",
            control.forward(ForwardRequest::default()).await.map(drop),
        ),
        (
            "read index",
            control.read_index(ReadIndexRequest {}).await.map(drop),
        ),
        ("logs", control.logs(LogsRequest::default()).await.map(drop)),
        (
            "append entries",
            raft.append_entries(message()).await.map(drop),
        ),
        ("vote", raft.vote(message()).await.map(drop)),
        ("pre-vote", raft.pre_vote(message()).await.map(drop)),
        (
            "install snapshot",
            raft.install_snapshot(message()).await.map(drop),
        ),
        (
            "GET /engine",
            engine(&channel, http::Method::GET, backup).await,
        ),
        (
            "POST /engine",
            engine(&channel, http::Method::POST, "/engine/services/create").await,
        ),
        ("session", dispatcher.session(hello).await.map(drop)),
        (
            "publish logs",
            dispatcher
                .publish_logs(tokio_stream::empty())
                .await
                .map(drop),
        ),
        (
            "renew",
            authority.issue_node_certificate(renewal).await.map(drop),
        ),
        // The last of all: who never had a session goes by it.
        (
            "withdraw",
            authority
                .withdraw(WithdrawRequest::default())
                .await
                .map(drop),
        ),
    ];
    assert_eq!(said.len(), NODES.len() + MANAGERS.len());
    let is_refusal = |status: &Status| {
        matches!(
            status.code(),
            Code::PermissionDenied | Code::Unauthenticated
        )
    };
    said.into_iter()
        .filter(|(_, said)| said.as_ref().is_err_and(is_refusal))
        .map(|(call, _)| call)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_takes_the_certificates_that_it_is_for() {
    let (_directory, manager) = manager().await;
    let address = group::address(&manager);
    let own = manager.identity().clone();
    let worker = FakeNode::join(&manager, "w").await;
    let removed = newcomer(&manager, Role::Worker).await;
    remove(&manager, &removed).await;
    // Their certificates say that they are managers, and are good for another three months.
    let demoted = newcomer(&manager, Role::Manager).await;
    demote(&manager, &demoted).await;
    let removed_manager = newcomer(&manager, Role::Manager).await;
    demote(&manager, &removed_manager).await;
    remove(&manager, &removed_manager).await;

    let managers = BTreeSet::from(MANAGERS);
    let all: BTreeSet<_> = managers.iter().copied().chain(NODES).collect();
    for (who, identity, expected) in [
        ("the leader itself", &own, BTreeSet::new()),
        ("a worker", &worker.identity, managers.clone()),
        ("a demoted manager", &demoted, managers),
        ("a removed worker", &removed, all.clone()),
        ("a removed manager", &removed_manager, all.clone()),
    ] {
        let tls = tls::client_config(identity).unwrap();
        let channel = client::connect(&address, tls).await.unwrap();
        assert_eq!(refused(&manager, channel).await, expected, "{who}");
    }
    let digest = token(&manager, Role::Worker)
        .parse::<JoinToken>()
        .unwrap()
        .digest;
    let pinned = tls::pinned_client_config(&digest).unwrap();
    let channel = client::connect(&address, pinned).await.unwrap();
    assert_eq!(refused(&manager, channel).await, all, "no certificate");
    worker.kill();
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_worth_nothing_once_it_was_rotated() {
    let (_directory, manager) = manager().await;
    let follower = group::member(&manager).await;
    let roles = [Role::Worker, Role::Manager];
    let stolen = roles.map(|role| token(&manager, role));
    let (version, spec) = {
        let view = manager.view();
        let cluster = view.cluster().unwrap();
        (cluster.meta.version, cluster.spec.clone())
    };
    let rotate = Command::UpdateSwarm {
        version,
        spec,
        rotate_worker_token: true,
        rotate_manager_token: true,
        rotate_unlock_key: false,
        unlock_key: None,
        root: None,
    };
    manager.call(rotate).await.unwrap();
    let nodes = manager.view().nodes().count();
    eventually("the follower knows the new ones", || {
        let known = token(&follower.handle, Role::Worker) == token(&manager, Role::Worker);
        known.then_some(())
    })
    .await;
    for member in [&manager, &follower.handle] {
        let address = group::address(member);
        for old in &stolen {
            let refused = client::join(&address, old, "active", OUTSIDE).await;
            let said = refused.expect_err("it is an old one").to_string();
            assert!(
                said.contains("A valid join token is necessary to join this cluster"),
                "{said}"
            );
        }
    }
    assert_eq!(manager.view().nodes().count(), nodes, "nobody came in");
    for (role, old) in roles.into_iter().zip(&stolen) {
        assert_ne!(*old, token(&manager, role));
        assert_eq!(newcomer(&manager, role).await.role, role);
    }
    follower.handle.shutdown().await;
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_is_looked_at_before_the_request() {
    let (_directory, manager) = manager().await;
    let good = token(&manager, Role::Worker);
    let parsed = good.parse::<JoinToken>().unwrap();
    let forged = JoinToken::generate(&parsed.digest).to_string();
    let pinned = tls::pinned_client_config(&parsed.digest).unwrap();
    let channel = client::connect(&group::address(&manager), pinned).await;
    let mut authority = NodeCaClient::new(channel.unwrap());
    let nodes = manager.view().nodes().count();
    let refusal = "A valid join token is necessary to join this cluster";
    for (token, is_refused) in [(good, false), (forged, true)] {
        let request = IssueNodeCertificateRequest {
            csr_pem: b"nonsense".to_vec(),
            token,
            ..Default::default()
        };
        let said = authority.issue_node_certificate(request).await.unwrap_err();
        assert_eq!(said.code(), Code::InvalidArgument);
        assert_eq!(said.message() == refusal, is_refused, "{said}");
    }
    assert_eq!(manager.view().nodes().count(), nodes, "nobody came in");
    manager.shutdown().await;
}
