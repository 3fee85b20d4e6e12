//! One manager and simulated nodes over real loopback gRPC: the life of services and tasks.

mod common;

use common::{
    FakeNode, PATIENCE, attach, create, create_network, edit, eventually, manager, publish, scale,
    send, service, status,
};
use futures::StreamExt;
use mesh_api::{engine, proto};
use mesh_manager::{
    Command, ErrorKind, LogItem, LogLine, LogSelector, LogTarget, ManagerHandle, client,
    state::{NodeState, Task, TaskState, service_status},
};
use std::{collections::BTreeSet, time::Duration};

fn running(manager: &ManagerHandle, id: &str) -> u64 {
    let view = manager.view();
    view.service(id)
        .map_or(0, |s| service_status(&view, s).running_tasks.unwrap_or(0))
}

fn tasks(manager: &ManagerHandle, id: &str) -> Vec<Task> {
    manager.view().tasks_of_service(id).cloned().collect()
}

async fn all_running(manager: &ManagerHandle, id: &str, count: u64) {
    eventually(&format!("{count} running tasks"), || {
        (running(manager, id) == count
            && tasks(manager, id).iter().filter(|t| t.is_wanted()).count() as u64 == count)
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_spreads_scales_and_goes() {
    let directory = tempfile::tempdir().unwrap();
    let manager = manager(directory.path()).await;
    let nodes = [
        FakeNode::join(&manager, "n1").await,
        FakeNode::join(&manager, "n2").await,
        FakeNode::join(&manager, "n3").await,
    ];
    let network = create_network(&manager, "front").await;
    let mut spec = service("web", 6);
    publish(&mut spec, 80, 8080);
    attach(&mut spec, "front");
    let id = create(&manager, spec).await;
    all_running(&manager, &id, 6).await;

    for node in &nodes {
        let own = tasks(&manager, &id)
            .iter()
            .filter(|t| t.node_id.as_deref() == Some(node.id()))
            .count();
        assert_eq!(own, 2, "spread evenly");
        // Everybody learns of every endpoint, service, network and peer.
        eventually("six active endpoints", || {
            let known = node.known.lock().unwrap();
            let active = known
                .endpoints
                .values()
                .filter(|e| e.state() == proto::EndpointState::Active);
            (active.count() == 6).then_some(())
        })
        .await;
        let known = node.known.lock().unwrap();
        assert_eq!(known.peers.len(), 3);
        assert!(known.networks.contains_key(&network));
        assert!(known.networks.values().any(|n| n.ingress));
        let service = &known.services[&id];
        assert_eq!(service.vips.len(), 2, "ingress and front");
        assert_eq!(service.ports[0].published, 80);
        assert_eq!(known.tasks.len(), 2);
        for task in known.tasks.values() {
            assert_eq!(task.attachments.len(), 2);
            let spec: engine::TaskSpec = serde_json::from_slice(&task.spec_json).unwrap();
            assert_eq!(
                spec.container_spec.unwrap().image.as_deref(),
                Some("whoami:latest")
            );
        }
    }
    let vips = manager.view().service(&id).unwrap().vips.clone();
    let addresses: BTreeSet<_> = tasks(&manager, &id)
        .iter()
        .flat_map(|t| t.attachments.clone())
        .map(|a| a.address)
        .collect();
    assert_eq!(addresses.len(), 12, "no address twice");

    scale(&manager, &id, 1).await;
    all_running(&manager, &id, 1).await;
    eventually("the others are forgotten", || {
        (tasks(&manager, &id).len() == 1).then_some(())
    })
    .await;
    // Each stopped task was out of load balancing before its node was told to stop it.
    for node in &nodes {
        for (task, state) in &node.known.lock().unwrap().state_at_stop {
            assert_eq!(*state, proto::EndpointState::Draining as i32, "{task}");
        }
    }
    scale(&manager, &id, 8).await;
    all_running(&manager, &id, 8).await;
    assert_eq!(manager.view().service(&id).unwrap().vips, vips, "VIPs stay");

    manager
        .call(Command::RemoveService {
            id: "web".to_owned(),
        })
        .await
        .unwrap();
    eventually("all tasks are gone", || {
        tasks(&manager, &id).is_empty().then_some(())
    })
    .await;
    manager
        .call(Command::RemoveNetwork {
            id: "front".to_owned(),
        })
        .await
        .unwrap();
    for node in &nodes {
        eventually("the node forgets", || {
            let known = node.known.lock().unwrap();
            (known.services.is_empty() && known.tasks.is_empty() && known.endpoints.is_empty())
                .then_some(())
        })
        .await;
    }
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_task_is_replaced_with_history() {
    let directory = tempfile::tempdir().unwrap();
    let manager = manager(directory.path()).await;
    let node = FakeNode::join(&manager, "n1").await;
    let id = create(&manager, service("web", 1)).await;
    for round in 0..7 {
        all_running(&manager, &id, 1).await;
        let task = tasks(&manager, &id)
            .into_iter()
            .find(Task::is_wanted)
            .unwrap();
        let mut failed = status(&task.id, "failed");
        failed.error = format!("task: non-zero exit (1), round {round}");
        failed.exit_code = Some(1);
        node.report(failed).await;
        eventually("a replacement", || {
            tasks(&manager, &id)
                .into_iter()
                .find(|t| t.is_wanted() && t.id != task.id)
        })
        .await;
    }
    all_running(&manager, &id, 1).await;
    let tasks = eventually("history is cut", || {
        Some(tasks(&manager, &id)).filter(|t| t.len() == 5)
    })
    .await;
    assert!(tasks.iter().all(|t| t.slot == 1));
    assert_eq!(
        tasks
            .iter()
            .filter(|t| t.status.state == TaskState::Failed)
            .count(),
        4
    );
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_nodes_tasks_move() {
    let directory = tempfile::tempdir().unwrap();
    let manager = manager(directory.path()).await;
    let (a, b) = (
        FakeNode::join(&manager, "a").await,
        FakeNode::join(&manager, "b").await,
    );
    let id = create(&manager, service("web", 4)).await;
    all_running(&manager, &id, 4).await;
    a.kill();
    eventually("a is down", || {
        (manager.view().node(a.id()).unwrap().state == NodeState::Down).then_some(())
    })
    .await;
    all_running(&manager, &id, 4).await;
    let wanted: Vec<_> = tasks(&manager, &id)
        .into_iter()
        .filter(Task::is_wanted)
        .collect();
    assert!(wanted.iter().all(|t| t.node_id.as_deref() == Some(b.id())));
    // The dead node's endpoints are nobody's business any more.
    eventually("b sees its own endpoints only", || {
        let known = b.known.lock().unwrap();
        known
            .endpoints
            .values()
            .all(|e| e.node_id == b.id())
            .then_some(())
    })
    .await;

    // Back again, it is told to stop what it still runs.
    let again = FakeNode::open(&manager.managers()[0].1, a.identity.clone(), "a").await;
    eventually("the old tasks are shut down", || {
        let known = again.known.lock().unwrap();
        (known.reported.len() == 2 && known.reported.values().all(|w| w == "shutdown"))
            .then_some(())
    })
    .await;

    // A node that is down can be removed; its certificate is worth nothing then.
    again.kill();
    eventually("a is down again", || {
        (manager.view().node(a.id()).unwrap().state == NodeState::Down).then_some(())
    })
    .await;
    manager
        .call(Command::RemoveNode {
            id: a.id().to_owned(),
            force: false,
        })
        .await
        .unwrap();
    let tls = mesh_pki::tls::client_config(&a.identity).unwrap();
    let channel = client::connect(&manager.managers()[0].1, tls)
        .await
        .unwrap();
    let refused = proto::dispatcher_client::DispatcherClient::new(channel)
        .session(futures::stream::pending())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_gets_no_session_is_down_however_often_it_asks() {
    let directory = tempfile::tempdir().unwrap();
    let manager = manager(directory.path()).await;
    let node = FakeNode::join(&manager, "a").await;
    let state = || manager.view().node(node.id()).unwrap().state;
    eventually("it is up", || (state() == NodeState::Ready).then_some(())).await;
    node.kill();
    let subnet = manager.view().networks().next().unwrap().subnet;
    let inside = proto::NodeDescription {
        data_path_address: subnet.nth(9).unwrap().to_string(),
        ..Default::default()
    };
    let tls = mesh_pki::tls::client_config(&node.identity).unwrap();
    let channel = client::connect(&manager.managers()[0].1, tls)
        .await
        .unwrap();
    let mut dispatcher = proto::dispatcher_client::DispatcherClient::new(channel);
    let asks = async {
        while state() == NodeState::Ready {
            let hello = proto::node_message::Message::Hello(inside.clone());
            let hello = futures::stream::iter([send(hello)]);
            let session = dispatcher.session(hello.chain(futures::stream::pending()));
            let refused = session.await.unwrap().into_inner().message().await;
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
        }
    };
    let asked = tokio::time::timeout(PATIENCE, asks).await;
    assert!(asked.is_ok(), "it is still up");
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_update_replaces_every_task() {
    let directory = tempfile::tempdir().unwrap();
    let manager = manager(directory.path()).await;
    let _nodes = [
        FakeNode::join(&manager, "a").await,
        FakeNode::join(&manager, "b").await,
    ];
    let mut spec = service("web", 4);
    spec.update_config = Some(engine::ServiceSpecUpdateConfig {
        parallelism: Some(2),
        monitor: Some(50_000_000),
        order: Some(engine::ServiceSpecUpdateConfigOrderEnum::START_FIRST),
        ..Default::default()
    });
    let id = create(&manager, spec).await;
    all_running(&manager, &id, 4).await;
    for order in [
        engine::ServiceSpecUpdateConfigOrderEnum::START_FIRST,
        engine::ServiceSpecUpdateConfigOrderEnum::STOP_FIRST,
    ] {
        edit(&manager, &id, |spec| {
            spec.update_config.as_mut().unwrap().order = Some(order);
            let template = spec.task_template.as_mut().unwrap();
            template.force_update = Some(template.force_update.unwrap_or(0) + 1);
        })
        .await;
        eventually("the update completes", || {
            let view = manager.view();
            let update = view.service(&id)?.update.clone()?;
            (update.state == engine::ServiceUpdateStatusStateEnum::COMPLETED).then_some(())
        })
        .await;
        all_running(&manager, &id, 4).await;
        let version = manager.view().service(&id).unwrap().spec_version;
        assert!(
            tasks(&manager, &id)
                .iter()
                .filter(|t| t.is_wanted())
                .all(|t| t.spec_version == version)
        );
    }
    manager.shutdown().await;
}

/// A service's log as it is: its lines, and why some are missing.
async fn read_logs(manager: &ManagerHandle, service: &str) -> (Vec<LogLine>, Vec<String>) {
    let selector = LogSelector {
        target: LogTarget::Service(service.to_owned()),
        follow: false,
        tail: None,
        since: 0,
        stdout: true,
        stderr: true,
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let items = manager.logs(selector, deadline).await.unwrap();
    let items = items.map(Result::unwrap).collect::<Vec<_>>();
    let items = tokio::time::timeout(common::PATIENCE, items).await;
    let (mut lines, mut missing) = (Vec::new(), Vec::new());
    for item in items.expect("the stream ends") {
        match item {
            LogItem::Line(line) => lines.push(line),
            LogItem::Incomplete(reasons) => missing.extend(reasons),
        }
    }
    (lines, missing)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_come_from_every_node() {
    let directory = tempfile::tempdir().unwrap();
    let manager = manager(directory.path()).await;
    let nodes = [
        FakeNode::join(&manager, "a").await,
        FakeNode::join(&manager, "b").await,
    ];
    let id = create(&manager, service("web", 4)).await;
    all_running(&manager, &id, 4).await;
    let (lines, missing) = read_logs(&manager, "web").await;
    assert_eq!(missing, Vec::<String>::new());
    assert_eq!(lines.len(), 8);
    assert!(lines.iter().all(|l| l.service_id == id));
    let from: BTreeSet<_> = lines.iter().map(|l| l.node_id.clone()).collect();
    assert_eq!(from.len(), 2);

    // Of a node that is gone there is a word in the place of its lines.
    nodes[1].kill();
    eventually("b is down", || {
        let view = manager.view();
        (view.node(nodes[1].id()).unwrap().state == NodeState::Down).then_some(())
    })
    .await;
    all_running(&manager, &id, 4).await;
    let (lines, missing) = read_logs(&manager, "web").await;
    let lost = format!("node {} is not available", nodes[1].id());
    assert_eq!(missing, [lost]);
    assert_eq!(lines.len(), 8, "of what runs");
    assert!(lines.iter().all(|l| l.node_id == nodes[0].id()));

    // So there is of a task that no node is fit for.
    edit(&manager, &id, |spec| {
        let constraints = serde_json::json!({"Constraints": ["node.labels.none == such"]});
        let template = spec.task_template.as_mut().unwrap();
        template.placement = serde_json::from_value(constraints).unwrap();
        spec.mode = service("", 1).mode;
        spec.name = Some("web".to_owned());
    })
    .await;
    let waiting = eventually("a task that waits", || {
        tasks(&manager, &id)
            .into_iter()
            .find(|t| t.node_id.is_none())
    })
    .await;
    let (_, missing) = read_logs(&manager, "web").await;
    let reason = format!("task {} has not been scheduled", waiting.id);
    assert!(missing.contains(&reason), "{missing:?}");
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_not_given_the_key_of_another() {
    let directory = tempfile::tempdir().unwrap();
    let manager = manager(directory.path()).await;
    let [victim, thief] = [
        FakeNode::join(&manager, "victim").await,
        FakeNode::join(&manager, "thief").await,
    ];
    let key = |letter: &str| format!("{}=", letter.repeat(43));
    let description = |address: &str, letter: &str, hostname: &str| proto::NodeDescription {
        hostname: hostname.to_owned(),
        data_path_address: address.to_owned(),
        cipher: Some(proto::Cipher {
            key: key(letter),
            port: 51820,
            epoch: Some(0),
            ..Default::default()
        }),
        ..Default::default()
    };
    // What the managers know of a node by these names.
    let known = |node: &FakeNode| {
        let view = manager.view();
        let described = &view.node(node.id()).unwrap().description;
        let cipher = described.cipher.as_ref();
        (
            described.hostname.clone(),
            cipher.map(|cipher| cipher.key.clone()),
        )
    };
    for (node, address, tells, hostname, has) in [
        (&victim, "127.0.0.2", "a", "v1", "a"),
        (&thief, "127.0.0.3", "b", "t1", "b"),
        (&thief, "127.0.0.3", "a", "t2", "b"),
        (&victim, "127.0.0.2", "c", "v2", "c"),
        (&thief, "127.0.0.3", "a", "t3", "b"),
        (&thief, "127.0.0.3", "c", "t4", "b"),
        (&thief, "127.0.0.3", "d", "t5", "d"),
    ] {
        node.describe(description(address, tells, hostname)).await;
        eventually(&format!("{hostname} to be known"), || {
            (known(node).0 == hostname).then_some(())
        })
        .await;
        assert_eq!(known(node).1, Some(key(has)), "{hostname}");
    }
    assert_eq!(known(&victim).1, Some(key("c")));
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let manager = manager(directory.path()).await;
    let address = manager.managers()[0].1.clone();
    let worker = FakeNode::join(&manager, "w").await;

    // A worker's certificate is no manager's.
    let tls = mesh_pki::tls::client_config(&worker.identity).unwrap();
    let channel = client::connect(&address, tls).await.unwrap();
    let forward = proto::ForwardRequest {
        command_json: Vec::new(),
    };
    let refused = proto::control_client::ControlClient::new(channel.clone())
        .forward(forward)
        .await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::PermissionDenied);
    let vote = proto::raft_client::RaftClient::new(channel)
        .vote(proto::RaftMessage::default())
        .await;
    assert_eq!(vote.unwrap_err().code(), tonic::Code::PermissionDenied);

    // Renewal keeps the id.
    let renewed = client::renew(&address, &worker.identity).await.unwrap();
    assert_eq!(renewed.node_id, worker.identity.node_id);
    assert_ne!(renewed.key_pem, worker.identity.key_pem);

    // Without a certificate nothing but NodeCA answers.
    let token: mesh_pki::JoinToken = manager
        .view()
        .cluster()
        .unwrap()
        .worker_token
        .parse()
        .unwrap();
    let pinned = mesh_pki::tls::pinned_client_config(&token.digest).unwrap();
    let channel = client::connect(&address, pinned).await.unwrap();
    let refused = proto::dispatcher_client::DispatcherClient::new(channel)
        .session(futures::stream::pending())
        .await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::Unauthenticated);

    // A wrong secret, another cluster's token, nonsense, nobody there.
    let wrong = mesh_pki::JoinToken::generate(&token.digest).to_string();
    let error = client::join(&address, &wrong, "active", common::OUTSIDE)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("A valid join token is necessary"),
        "{error}"
    );
    let other = mesh_pki::JoinToken::generate(&"0".repeat(50)).to_string();
    let error = client::join(&address, &other, "active", common::OUTSIDE)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("remote CA does not match fingerprint"),
        "{error}"
    );
    assert!(
        client::join(&address, "nonsense", "active", common::OUTSIDE)
            .await
            .is_err()
    );
    let nobody = common::free_address().to_string();
    let error = client::join(&nobody, &wrong, "active", common::OUTSIDE)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("cannot reach a manager"),
        "{error}"
    );
    assert_eq!(manager.view().nodes().count(), 2, "nothing was added");

    // Nor is a node added whose address belongs to a network.
    let subnet = manager.view().ingress_network().unwrap().subnet;
    let inside = subnet.nth(9).unwrap().into();
    let good = manager.view().cluster().unwrap().worker_token.clone();
    let error = client::join(&address, &good, "active", inside)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("of network ingress"), "{error}");
    assert_eq!(manager.view().nodes().count(), 2);

    // A manager cannot be removed.
    let own = manager.identity().node_id.clone();
    let error = manager
        .call(Command::RemoveNode {
            id: own,
            force: true,
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition);
    manager.shutdown().await;
}
