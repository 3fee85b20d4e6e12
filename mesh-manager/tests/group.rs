//! Several managers in one process over real loopback gRPC: joining, forwarding, the loss of the leader.

mod common;

use common::{
    FakeNode, config, create, eventually, free_address,
    group::{Member, address, join, member, restart, three},
    manager, manager_with, service,
};
use mesh_api::{engine, proto};
use mesh_manager::{
    Command, Config, Lead, ManagerError, ManagerHandle, Timings, client,
    state::{NodeState, service_status},
};
use mesh_pki::{JoinToken, NodeIdentity, Role};
use proto::node_ca_client::NodeCaClient;
use std::{pin::pin, time::Duration};
use tokio::time::Instant;

async fn new_leader<'a>(members: &'a [&'a ManagerHandle]) -> &'a ManagerHandle {
    eventually("another leader", || {
        members.iter().copied().find(|m| m.is_leader())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn managers_come_in_and_agree() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second, third) = three(directory.path()).await;
    for manager in [&first, &second.handle, &third.handle] {
        eventually("everybody knows three managers", || {
            (manager.group().voters.len() == 3).then_some(())
        })
        .await;
    }
    eventually("all of them are reachable", || {
        (first.group().reachable.len() == 3).then_some(())
    })
    .await;
    // What a follower is asked to change is changed, and known to all.
    let id = create(&third.handle, service("web", 0)).await;
    for manager in [&first, &second.handle, &third.handle] {
        eventually("the service is everywhere", || {
            manager.view().service(&id).map(drop)
        })
        .await;
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut here = 0;
    for manager in [&first, &second.handle, &third.handle] {
        here += u32::from(matches!(manager.lead(deadline).await.unwrap(), Lead::Here));
    }
    assert_eq!(here, 1, "one manager leads");
    for manager in [third.handle, second.handle, first] {
        manager.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leaders_end_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second, third) = three(directory.path()).await;
    let node = FakeNode::join(&first, "n1").await;
    let id = create(&first, service("web", 3)).await;
    let running = |manager: &ManagerHandle| {
        let view = manager.view();
        let service = view.service(&id)?;
        (service_status(&view, service).running_tasks == Some(3)).then_some(())
    };
    eventually("three tasks", || running(&first)).await;
    first.shutdown().await;

    let rest = [&second.handle, &third.handle];
    let leader = new_leader(&rest).await;
    let follower = if leader.identity().node_id == second.handle.identity().node_id {
        &third.handle
    } else {
        &second.handle
    };
    // It leads a moment before it has applied all that was committed.
    eventually("nothing acknowledged is lost", || running(leader)).await;
    let other = create(follower, service("more", 0)).await;
    eventually("the change is at the leader", || {
        leader.view().service(&other).map(drop)
    })
    .await;

    // A follower names the leader in the place of a session.
    let tls = mesh_pki::tls::client_config(&node.identity).unwrap();
    let channel = client::connect(&address(follower), tls).await.unwrap();
    let refused = proto::dispatcher_client::DispatcherClient::new(channel)
        .session(futures::stream::pending())
        .await
        .unwrap_err();
    let named = refused.metadata().get(client::LEADER_ADDRESS).unwrap();
    assert_eq!(named.to_str().unwrap(), address(leader));

    // The node finds it in time, and is told of nothing but what it has.
    let again = FakeNode::open(&address(leader), node.identity.clone(), "n1").await;
    eventually("the node has its tasks", || {
        (again.known.lock().unwrap().tasks.len() == 3).then_some(())
    })
    .await;
    assert_eq!(
        leader.view().node(node.id()).unwrap().state,
        NodeState::Ready
    );
    eventually("the first one is missed", || {
        (leader.group().reachable.len() == 2).then_some(())
    })
    .await;

    // Back again, it follows.
    let config = config(directory.path(), address(&first).parse().unwrap());
    let first = restart(config, vec![address(leader)]).await;
    eventually("it catches up", || first.view().service(&other).map(drop)).await;
    for manager in [first, second.handle, third.handle] {
        manager.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_hangs() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second, third) = three(directory.path()).await;
    second.handle.shutdown().await;
    third.handle.shutdown().await;
    eventually("the leader knows that it is alone", || {
        (!first.is_leader()).then_some(())
    })
    .await;
    let text = "The swarm does not have a leader.";
    let deadline = Instant::now() + Duration::from_millis(500);
    let Err(error) = first.lead(deadline).await else {
        panic!("there is no leader");
    };
    assert!(error.message.contains(text), "{error}");
    assert_eq!(first.view().nodes().count(), 3, "what it knows stays");

    let second = restart(second.config.clone(), Vec::new()).await;
    let both = [&first, &second];
    new_leader(&both).await;
    create(&first, service("web", 0)).await;
    drop(third.directory);
    for manager in [first, second] {
        manager.shutdown().await;
    }
}

/// What `node promote` and `node demote` ask for.
async fn want_role(
    by: &ManagerHandle,
    node: &str,
    role: engine::NodeSpecRoleEnum,
) -> Result<(), ManagerError> {
    loop {
        let (version, spec) = {
            let view = by.view();
            let node = view.node(node).expect("it is a node");
            (node.meta.version, node.spec.clone())
        };
        let spec = engine::NodeSpec {
            role: Some(role),
            ..spec
        };
        let id = node.to_owned();
        let update = Command::UpdateNode { id, version, spec };
        match by.call(update).await {
            // The node has changed meanwhile, by itself: asked again, as a user would.
            Err(error) if error.message.contains("out of sequence") => {}
            told => return told.map(drop),
        }
    }
}

/// What a manager answers to a message of Raft that makes no sense, to whom it listens.
async fn raft_message(to: &ManagerHandle, identity: &NodeIdentity, named: &str) -> tonic::Status {
    let tls = mesh_pki::tls::client_config(identity).unwrap();
    let channel = client::connect(&address(to), tls).await.unwrap();
    let message = proto::RaftMessage {
        payload: b"nonsense".to_vec(),
        to: named.to_owned(),
        ..Default::default()
    };
    let mut raft = proto::raft_client::RaftClient::new(channel);
    raft.vote(message).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_manager_has_no_say() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second, third) = three(directory.path()).await;
    let identity = second.handle.identity().clone();
    let (id, first_id) = (identity.node_id.clone(), first.identity().node_id.clone());
    eventually("all of them are reachable", || {
        (first.group().reachable.len() == 3).then_some(())
    })
    .await;
    let listened = raft_message(&first, &identity, &first_id).await;
    assert_eq!(listened.code(), tonic::Code::InvalidArgument, "{listened}");
    let other = raft_message(&first, &identity, &id).await;
    assert_eq!(other.code(), tonic::Code::FailedPrecondition, "{other}");
    let remove = || Command::RemoveNode {
        id: id.clone(),
        force: true,
    };
    let error = first.call(remove()).await.unwrap_err();
    assert!(error.message.contains("must be demoted"), "{error}");

    let worker = engine::NodeSpecRoleEnum::WORKER;
    want_role(&first, &id, worker).await.unwrap();
    let is_worker = |id: &str| (first.view().node(id)?.role == Role::Worker).then_some(());
    eventually("it is a worker", || is_worker(&id)).await;
    assert_eq!(first.group().voters.len(), 2);
    let refused = raft_message(&first, &identity, &first_id).await;
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
    // Its node gets a certificate that says so.
    let renewed = client::renew(&address(&first), &identity).await.unwrap();
    assert_eq!(renewed.role, Role::Worker);

    first.call(remove()).await.unwrap();
    let refused = raft_message(&first, &identity, &first_id).await;
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
    create(&third.handle, service("web", 0)).await;
    for manager in [second.handle, third.handle, first] {
        manager.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_demoted_while_it_was_off_signs_and_serves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second, third) = three(directory.path()).await;
    let identity = second.handle.identity().clone();
    let id = identity.node_id.clone();
    let at = second.config.advertise.to_string();
    let [token, _] = tokens(&first);
    second.handle.shutdown().await;
    want_role(&first, &id, engine::NodeSpecRoleEnum::WORKER)
        .await
        .unwrap();
    eventually("it is a worker", || {
        (first.view().node(&id)?.role == Role::Worker).then_some(())
    })
    .await;

    // Nobody has told it, and its own log has it as a manager.
    let back = restart(second.config.clone(), vec![address(&first)]).await;
    eventually("it takes itself for a manager", || {
        let is_own = |(known, _): &(String, String)| *known == id;
        back.managers().iter().any(is_own).then_some(())
    })
    .await;
    let nodes = first.view().nodes().count();
    let (joined, renewed, prolonged, waited) = tokio::join!(
        client::join(&at, &token, "active", common::OUTSIDE),
        client::renew(&at, third.handle.identity()),
        client::renew(&at, &identity),
        back.catch_up(Instant::now() + Duration::from_secs(5)),
    );
    assert!(joined.is_err(), "by a token that is good");
    assert!(renewed.is_err() && prolonged.is_err());
    assert!(waited.is_err(), "what it knows is not up to date");
    assert_eq!(first.view().nodes().count(), nodes);
    let refused = raft_message(&first, &identity, &first.identity().node_id).await;
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
    assert!(!back.is_leader());
    let worker = client::renew(&address(&first), &identity).await.unwrap();
    assert_eq!(worker.role, Role::Worker);
    for manager in [back, third.handle, first] {
        manager.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_demoted() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second, third) = three(directory.path()).await;
    let id = first.identity().node_id.clone();
    eventually("all of them are reachable", || {
        (first.group().reachable.len() == 3).then_some(())
    })
    .await;
    want_role(&first, &id, engine::NodeSpecRoleEnum::WORKER)
        .await
        .unwrap();
    let rest = [&second.handle, &third.handle];
    let leader = new_leader(&rest).await;
    eventually("the new leader gives it its role", || {
        (leader.view().node(&id)?.role == Role::Worker).then_some(())
    })
    .await;
    assert_eq!(leader.group().voters.len(), 2);
    assert!(!first.is_leader());
    create(leader, service("web", 0)).await;
    for manager in [first, second.handle, third.handle] {
        manager.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_is_needed_stays() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second, third) = three(directory.path()).await;
    let second_id = second.handle.identity().node_id.clone();
    let third_id = third.handle.identity().node_id.clone();
    third.handle.shutdown().await;
    eventually("the third is missed", || {
        (first.group().reachable.len() == 2).then_some(())
    })
    .await;
    let worker = engine::NodeSpecRoleEnum::WORKER;
    let error = want_role(&first, &second_id, worker).await.unwrap_err();
    assert!(error.message.contains("a loss of quorum"), "{error}");
    let first_id = first.identity().node_id.clone();
    let error = want_role(&first, &first_id, worker).await.unwrap_err();
    assert!(error.message.contains("a loss of quorum"), "{error}");
    // The one that is lost can go, and then its neighbour.
    want_role(&first, &third_id, worker).await.unwrap();
    want_role(&first, &second_id, worker).await.unwrap();
    eventually("it is alone", || {
        (first.group().voters.len() == 1).then_some(())
    })
    .await;
    let error = want_role(&first, &first_id, worker).await.unwrap_err();
    assert!(error.message.contains("the last manager"), "{error}");
    create(&first, service("web", 0)).await;
    for manager in [second.handle, first] {
        manager.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_one_with_a_vote_stays() {
    let directory = tempfile::tempdir().unwrap();
    let first = manager(directory.path()).await;
    let first_id = first.identity().node_id.clone();
    let node = FakeNode::join(&first, "n1").await;
    let id = node.identity.node_id.clone();
    let has_role = |role| first.view().node(&id).is_some_and(|n| n.role == role);
    let (to_manager, to_worker) = (
        engine::NodeSpecRoleEnum::MANAGER,
        engine::NodeSpecRoleEnum::WORKER,
    );
    // It has the role at once; it starts no manager, so it gets no vote.
    want_role(&first, &id, to_manager).await.unwrap();
    eventually("its role", || has_role(Role::Manager).then_some(())).await;
    let error = want_role(&first, &first_id, to_worker).await.unwrap_err();
    assert!(error.message.contains("a loss of quorum"), "{error}");
    want_role(&first, &id, to_worker).await.unwrap();
    eventually("its role", || has_role(Role::Worker).then_some(())).await;
    create(&first, service("web", 0)).await;
    first.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_comes_at_a_dead_managers_address_is_another() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second, third) = three(directory.path()).await;
    let dead = third.handle.identity().node_id.clone();
    let config = third.config.clone();
    third.handle.shutdown().await;
    drop(third.directory);
    let wiped = tempfile::tempdir().unwrap();
    let config = Config {
        data_dir: wiped.path().join("raft"),
        identity_dir: wiped.path().join("certificates"),
        ..config
    };
    let again = join(&first, config).await;
    eventually("the dead one is missed", || {
        let group = first.group();
        let is_missed = group.voters.len() == 4 && group.reachable.len() == 3;
        (is_missed && !group.reachable.contains(&dead)).then_some(())
    })
    .await;
    let worker = engine::NodeSpecRoleEnum::WORKER;
    want_role(&first, &dead, worker).await.unwrap();
    eventually("it is a worker", || {
        (first.view().node(&dead)?.role == Role::Worker).then_some(())
    })
    .await;
    let remove = Command::RemoveNode {
        id: dead,
        force: true,
    };
    first.call(remove).await.unwrap();
    assert_eq!(first.group().voters.len(), 3);
    create(&again, service("web", 0)).await;
    for manager in [again, second.handle, first] {
        manager.shutdown().await;
    }
}

/// A log that was compacted: who joins gets the state as a snapshot in pieces.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_state_reaches_a_new_manager() {
    let directory = tempfile::tempdir().unwrap();
    let timings = Timings {
        snapshot_entries: 10,
        kept_entries: 5,
        ..Timings::default()
    };
    let first = manager_with(Config {
        timings,
        ..config(directory.path(), free_address())
    })
    .await;
    // Larger than a piece of a snapshot, and than a message of gRPC by default.
    let count = 18;
    for number in 0..count {
        let mut spec = service(&format!("s{number}"), 0);
        let labels = [("filler".to_owned(), "x".repeat(256 << 10))];
        spec.labels = Some(labels.into());
        create(&first, spec).await;
    }
    let second = member(&first).await;
    let known = second.handle.view().services().count();
    assert_eq!(known, count, "it has all before it has a vote");
    for manager in [second.handle, first] {
        manager.shutdown().await;
    }
}

fn tokens(manager: &ManagerHandle) -> [String; 2] {
    let view = manager.view();
    let cluster = view.cluster().unwrap();
    [cluster.worker_token.clone(), cluster.manager_token.clone()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_while_the_majority_is_late() {
    let directory = tempfile::tempdir().unwrap();
    let first = manager(directory.path()).await;
    let second = member(&first).await;
    let [token, _] = tokens(&first);
    let at = address(&first);
    second.handle.shutdown().await;
    // Nobody can say now that the leader still is one.
    let digest = token.parse::<JoinToken>().unwrap().digest;
    let tls = mesh_pki::tls::pinned_client_config(&digest).unwrap();
    let channel = client::connect(&at, tls).await.unwrap();
    let [mut joins, mut withdraws] = [(); 2].map(|()| NodeCaClient::new(channel.clone()));
    let request = proto::IssueNodeCertificateRequest {
        token,
        data_path_address: common::OUTSIDE.to_string(),
        csr_pem: mesh_pki::new_key_and_request().unwrap().request_pem.into(),
        ..Default::default()
    };
    let mut joining = pin!(joins.issue_node_certificate(request));
    // What came later by the same connection is answered: the manager has the request.
    let answered = tokio::select! {
        biased;
        joined = joining.as_mut() => panic!("without a majority: {joined:?}"),
        answered = withdraws.withdraw(proto::WithdrawRequest::default()) => answered,
    };
    assert_eq!(answered.unwrap_err().code(), tonic::Code::Unauthenticated);
    let second = Member {
        handle: restart(second.config.clone(), vec![at]).await,
        ..second
    };
    let joined = joining.await.expect("it waits for the majority");
    let id = joined.into_inner().node_id;
    for manager in [&first, &second.handle] {
        eventually("the node is known once", || {
            let view = manager.view();
            let is_known = view.node(&id).is_some();
            (is_known && view.nodes().count() == 3).then_some(())
        })
        .await;
    }
    for manager in [second.handle, first] {
        manager.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_whose_answer_was_lost_leaves_one_node_or_none() {
    let directory = tempfile::tempdir().unwrap();
    let first = manager(directory.path()).await;
    let second = member(&first).await;
    let both = [address(&first), address(&second.handle)];
    for token in tokens(&first) {
        let before = first.view().nodes().count();
        let key = mesh_pki::new_key_and_request().unwrap();
        let join = async |at: &str| {
            let joined = client::join_by(&key, at, &token, "active", common::OUTSIDE).await;
            joined.unwrap().identity.node_id
        };
        // Whoever is asked again.
        let id = join(&both[0]).await;
        assert_eq!(join(&both[1]).await, id);
        assert_eq!(join(&both[0]).await, id);
        assert_eq!(first.view().nodes().count(), before + 1);
        // Without the certificate, by the key and the token alone.
        let other = mesh_pki::new_key_and_request().unwrap();
        for key in [&other, &key, &key] {
            client::withdraw_unanswered(key, &both[1], &token)
                .await
                .unwrap();
        }
        assert!(first.view().node(&id).is_none());
        assert_eq!(first.view().nodes().count(), before);
        let stolen =
            client::withdraw_unanswered(&key, &both[0], &with_another_secret(&token)).await;
        assert!(stolen.is_err());
        // It is another node then.
        assert_ne!(join(&both[0]).await, id);
        client::withdraw_unanswered(&key, &both[0], &token)
            .await
            .unwrap();
    }
    for manager in [second.handle, first] {
        manager.shutdown().await;
    }
}

/// A token of the same root with another secret.
fn with_another_secret(token: &str) -> String {
    let mut token: JoinToken = token.parse().unwrap();
    token.secret = mesh_pki::new_id();
    token.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_come_in_goes_by_its_own_word() {
    let directory = tempfile::tempdir().unwrap();
    let first = manager(directory.path()).await;
    let second = member(&first).await;
    // A follower passes it on.
    for at in [address(&first), address(&second.handle)] {
        for token in tokens(&first) {
            let joined = client::join(&at, &token, "active", common::OUTSIDE)
                .await
                .unwrap();
            let id = &joined.identity.node_id;
            eventually("the node is known", || first.view().node(id).map(drop)).await;
            client::withdraw(&at, &joined.identity).await.unwrap();
            for manager in [&first, &second.handle] {
                eventually("the node is gone", || {
                    manager.view().node(id).is_none().then_some(())
                })
                .await;
            }
            let again = client::withdraw(&at, &joined.identity).await.unwrap_err();
            assert!(again.to_string().contains("not part of this"), "{again}");
        }
    }
    assert_eq!(first.group().voters.len(), 2);
    // One that has come in cannot.
    let [token, _] = tokens(&first);
    let at = address(&first);
    let joined = client::join(&at, &token, "active", common::OUTSIDE)
        .await
        .unwrap();
    let node = FakeNode::open(&at, joined.identity.clone(), "n1").await;
    for manager in [&first, &second.handle] {
        eventually("the node is ready", || {
            let view = manager.view();
            (view.node(node.id())?.state == NodeState::Ready).then_some(())
        })
        .await;
    }
    for manager in [address(&second.handle), at] {
        let refused = client::withdraw(&manager, &joined.identity)
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("it can leave"), "{refused}");
    }
    assert!(first.view().node(node.id()).is_some());
    for manager in [second.handle, first] {
        manager.shutdown().await;
    }
}

/// Ends the leader and so many others at once; those that were ended.
async fn end(members: &mut Vec<Member>, count: usize) -> Vec<Member> {
    let leads = eventually("a leader", || {
        members.iter().position(|member| member.handle.is_leader())
    })
    .await;
    members.swap(0, leads);
    let ended: Vec<Member> = members.drain(..count).collect();
    let stops = ended.iter().map(|member| member.handle.shutdown());
    futures::future::join_all(stops).await;
    ended
}

/// Starts those that were ended.
async fn back(members: &mut Vec<Member>, ended: Vec<Member>) {
    for member in ended {
        let Member {
            handle,
            directory,
            config,
        } = member;
        drop(handle);
        let handle = restart(config.clone(), Vec::new()).await;
        members.push(Member {
            handle,
            directory,
            config,
        });
    }
}

/// A change that one of them is asked for is made, and comes to all.
async fn agree(members: &[Member], name: &str) {
    let handles: Vec<&ManagerHandle> = members.iter().map(|member| &member.handle).collect();
    new_leader(&handles).await;
    let id = create(handles[handles.len() - 1], service(name, 0)).await;
    for handle in handles {
        eventually("the service is everywhere", || {
            handle.view().service(&id).map(drop)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_do_without_two_and_seven_without_three() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), free_address());
    let handle = manager_with(config.clone()).await;
    let mut members = vec![Member {
        handle,
        directory,
        config,
    }];
    for (size, lost) in [(5, 2), (7, 3)] {
        while members.len() < size {
            let next = member(&members[0].handle).await;
            members.push(next);
        }
        let whole = |member: &Member| member.handle.group().voters.len() == size;
        eventually("all have a vote", || {
            members.iter().all(whole).then_some(())
        })
        .await;
        agree(&members, &format!("of-{size}")).await;
        let mut ended = end(&mut members, lost).await;
        agree(&members, &format!("of-{size}-without-{lost}")).await;

        // One more is one too many.
        ended.extend(end(&mut members, 1).await);
        // Who followed the one that ended takes a moment to miss it.
        let nobody_leads = async {
            let soon = || Instant::now() + Duration::from_millis(500);
            while members[0].handle.lead(soon()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(common::PATIENCE, nobody_leads).await;
        waited.expect("nobody can lead");
        back(&mut members, ended).await;
        agree(&members, &format!("of-{size}-again")).await;
    }
    for member in members {
        member.handle.shutdown().await;
        let names: Vec<_> = {
            let view = member.handle.view();
            let names = view.services().map(|service| service.name().to_owned());
            names.collect()
        };
        assert_eq!(names.len(), 6, "{names:?}");
    }
}
