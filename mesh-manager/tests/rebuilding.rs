//! A cluster that has lost the majority of its managers goes on with one of them, and the others cannot undo it.

mod common;

use common::{
    FakeNode, config, create, eventually, free_address,
    group::{Member, address, restart, three},
    service,
};
use mesh_api::{engine, proto};
use mesh_manager::{
    Command, ErrorKind, InitOptions, Manager, ManagerHandle, RestoreOptions, client,
    state::TaskState,
};
use mesh_pki::Role;
use std::time::Duration;
use tokio::time::Instant;

fn services(manager: &ManagerHandle) -> Vec<String> {
    let view = manager.view();
    let mut names: Vec<String> = view.services().map(|s| s.name().to_owned()).collect();
    names.sort();
    names
}

/// Rebuilds the cluster of a manager that was shut down: what served its last connections may hold the log for a moment.
async fn rebuild(config: &mesh_manager::Config) {
    let deadline = Instant::now() + common::PATIENCE;
    while let Err(error) = Manager::rebuild(config).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_manager_goes_on_and_the_others_cannot_undo_it() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second, third) = three(directory.path()).await;
    let node = FakeNode::join(&first, "n1").await;
    let id = create(&first, service("before", 2)).await;
    let running = |manager: &ManagerHandle| {
        let view = manager.view();
        let tasks = view.tasks_of_service(&id);
        let running = tasks.filter(|t| t.status.state == TaskState::Running);
        let mut ids: Vec<String> = running.map(|t| t.id.clone()).collect();
        ids.sort();
        ids
    };
    eventually("two tasks on every manager", || {
        (running(&second.handle).len() == 2).then_some(())
    })
    .await;
    let before = running(&second.handle);
    let tokens = |manager: &ManagerHandle| {
        let view = manager.view();
        let cluster = view.cluster().unwrap();
        (cluster.worker_token.clone(), cluster.root_key_pem.clone())
    };
    let kept = tokens(&first);
    for manager in [&first, &second.handle, &third.handle] {
        manager.shutdown().await;
    }
    node.kill();
    let Member {
        config,
        directory: _second,
        handle: old,
    } = second;
    let (id_of_third, own) = (
        third.handle.identity().node_id.clone(),
        old.identity().node_id.clone(),
    );
    rebuild(&config).await;
    let alone = restart(config.clone(), Vec::new()).await;
    alone.ready().await.unwrap();
    assert_eq!(alone.group().voters.iter().collect::<Vec<_>>(), [&own]);
    assert_eq!(services(&alone), ["before"]);
    assert_eq!(tokens(&alone), kept);
    {
        let view = alone.view();
        let managers = view.nodes().filter(|n| n.role == Role::Manager);
        assert_eq!(managers.map(|n| &n.id).collect::<Vec<_>>(), [&own]);
    }
    // The worker comes back, and its tasks are what they were.
    let again = FakeNode::open(&address(&alone), node.identity.clone(), "n1").await;
    eventually("the node has its tasks", || {
        (again.known.lock().unwrap().tasks.len() == 2).then_some(())
    })
    .await;
    assert_eq!(running(&alone), before);
    create(&alone, service("after", 0)).await;

    // Both of the others are a majority of the group that was: they elect, but take nothing of this one back, and stop
    // once they are told.
    let first_config = mesh_manager::Config {
        listen: address(&first).parse().unwrap(),
        ..common::config(directory.path(), address(&first).parse().unwrap())
    };
    let first = restart(first_config, Vec::new()).await;
    let third_again = restart(third.config.clone(), Vec::new()).await;
    for manager in [&first, &third_again] {
        let deadline = Instant::now() + common::PATIENCE;
        loop {
            let told = manager.lead(Instant::now() + Duration::from_secs(1)).await;
            match told {
                Err(error) if error.message.contains("have gone on without it") => break,
                _ => assert!(Instant::now() < deadline, "it was never told"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert!(alone.is_leader());
    assert_eq!(services(&alone), ["after", "before"]);
    // Its node gets a worker's certificate, as after any demotion.
    let renewed = mesh_manager::client::renew(&address(&alone), third_again.identity()).await;
    assert_eq!(renewed.unwrap().role, Role::Worker);
    assert_eq!(alone.view().node(&id_of_third).unwrap().role, Role::Worker);

    // The group grows again.
    let new = common::group::member(&alone).await;
    create(&new.handle, service("grown", 0)).await;
    assert_eq!(services(&alone), ["after", "before", "grown"]);
    alone.shutdown().await;
    let alone = restart(config, Vec::new()).await;
    eventually("a leader of the two", || {
        (alone.is_leader() || new.handle.is_leader()).then_some(())
    })
    .await;
    for manager in [alone, first, third_again, new.handle] {
        manager.shutdown().await;
    }
}

/// What a manager answers to a message of Raft of another group, which makes no sense besides.
async fn refusal(
    to: &str,
    identity: &mesh_pki::NodeIdentity,
    named: &str,
    group: (&str, &[&str]),
) -> tonic::Status {
    let tls = mesh_pki::tls::client_config(identity).unwrap();
    let channel = client::connect(to, tls).await.unwrap();
    let message = proto::RaftMessage {
        payload: b"nonsense".to_vec(),
        to: named.to_owned(),
        incarnation: group.0.to_owned(),
        past: group.1.iter().map(|&past| past.to_owned()).collect(),
        ..Default::default()
    };
    let mut raft = proto::raft_client::RaftClient::new(channel);
    raft.vote(message).await.unwrap_err()
}

/// What the refusal says of the sender's group.
fn dismissed(refusal: &tonic::Status) -> Option<&str> {
    let of = refusal.metadata().get("mesh-dismissed")?;
    Some(of.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_group_of_the_past_is_dismissed() {
    let directory = tempfile::tempdir().unwrap();
    let first = common::manager(directory.path()).await;
    let Member {
        handle: second,
        directory: _second,
        config,
    } = common::group::member(&first).await;
    let peer = first.identity().clone();
    first.shutdown().await;
    second.shutdown().await;
    rebuild(&config).await;
    rebuild(&config).await;
    let alone = restart(config, Vec::new()).await;
    alone.ready().await.unwrap();
    let (to, own) = (address(&alone), alone.identity().node_id.clone());

    // Also one that asks for somebody else who had this address.
    for named in [own.as_str(), "lost"] {
        let told = refusal(&to, &peer, named, ("", &[])).await;
        assert_eq!(dismissed(&told), Some(""), "{told}");
    }
    // Of another fork, of one that took its own way from the same group, and one that may not speak at all.
    for group in [("fork", &[][..]), ("fork", &["elsewhere"])] {
        let told = refusal(&to, alone.identity(), &own, group).await;
        assert_eq!(told.code(), tonic::Code::FailedPrecondition, "{told}");
        assert_eq!(dismissed(&told), None, "{told}");
        let told = refusal(&to, &peer, &own, group).await;
        assert_eq!(told.code(), tonic::Code::PermissionDenied, "{told}");
        assert_eq!(dismissed(&told), None, "{told}");
    }
    assert!(!alone.dismissal().is_cancelled());
    create(&alone, service("still", 0)).await;

    // A manager that is to come in listens to nobody until it knows to whom.
    let home = tempfile::tempdir().unwrap();
    let config = common::config(home.path(), free_address());
    let token = alone.view().cluster().unwrap().manager_token.clone();
    let joined = client::join(&to, &token, "active", common::OUTSIDE).await;
    let new = joined.unwrap().identity;
    new.save(&config.identity_dir, None).unwrap();
    Manager::prepare(&config).unwrap();
    let waits = Manager::restart(config.clone(), Vec::new()).await.unwrap();
    let at = config.listen.to_string();
    for group in [("", &[][..]), ("any", &["", "other"])] {
        let told = refusal(&at, alone.identity(), &new.node_id, group).await;
        assert_eq!(told.code(), tonic::Code::Unavailable, "{told}");
    }
    waits.shutdown().await;
    let comes = restart(config, vec![to]).await;
    eventually("it is let in", || {
        (services(&comes) == ["still"]).then_some(())
    })
    .await;
    // It knows the group's past as well.
    let told = refusal(&at, &peer, &new.node_id, ("", &[])).await;
    assert_eq!(dismissed(&told), Some(""), "{told}");
    for manager in [alone, comes] {
        manager.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_of_the_past_comes_in_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second, third) = three(directory.path()).await;
    for manager in [&first, &second.handle, &third.handle] {
        manager.shutdown().await;
    }
    rebuild(&second.config).await;
    let alone = restart(second.config.clone(), Vec::new()).await;
    alone.ready().await.unwrap();
    let id = third.handle.identity().node_id.clone();
    loop {
        let (version, spec) = {
            let view = alone.view();
            let node = view.node(&id).unwrap();
            (node.meta.version, node.spec.clone())
        };
        let spec = mesh_api::engine::NodeSpec {
            role: Some(mesh_api::engine::NodeSpecRoleEnum::MANAGER),
            ..spec
        };
        let id = id.clone();
        match alone.call(Command::UpdateNode { id, version, spec }).await {
            Err(error) if error.message.contains("out of sequence") => {}
            done => break drop(done.unwrap()),
        }
    }
    eventually("it is to be a manager", || {
        (alone.view().node(&id)?.role == Role::Manager).then_some(())
    })
    .await;
    // It comes back with the old group's log, and is told by a message of the new group, or when it asks for a vote.
    let zombie = restart(third.config.clone(), vec![address(&alone)]).await;
    let told = refusal(
        &third.config.listen.to_string(),
        alone.identity(),
        &id,
        ("new", &[]),
    )
    .await;
    assert_ne!(told.code(), tonic::Code::Ok);
    let dismissal = zombie.dismissal();
    tokio::time::timeout(common::PATIENCE, dismissal.cancelled())
        .await
        .expect("it is dismissed");
    zombie.shutdown().await;
    Manager::prepare(&third.config).unwrap();
    let again = Manager::join(third.config.clone(), vec![address(&alone)])
        .await
        .unwrap();
    assert!(again.group().voters.contains(&id));
    create(&again, service("both", 0)).await;
    assert_eq!(services(&alone), ["both"]);
    for manager in [alone, again] {
        manager.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_without_state_or_certificate_rebuilds_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let config = common::config(directory.path(), free_address());
    let refused = Manager::rebuild(&config).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NotFound, "{refused}");

    // One that was never let in has an empty log.
    let (_keep, manager) = {
        let directory = tempfile::tempdir().unwrap();
        let manager = common::manager(directory.path()).await;
        (directory, manager)
    };
    let token = manager.view().cluster().unwrap().manager_token.clone();
    let joined =
        mesh_manager::client::join(&address(&manager), &token, "active", common::OUTSIDE).await;
    joined
        .unwrap()
        .identity
        .save(&config.identity_dir, None)
        .unwrap();
    Manager::prepare(&config).unwrap();
    let refused = Manager::rebuild(&config).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::FailedPrecondition, "{refused}");
    assert!(
        refused.message.contains("no state of the swarm"),
        "{refused}"
    );

    let worker = manager.view().cluster().unwrap().worker_token.clone();
    let joined =
        mesh_manager::client::join(&address(&manager), &worker, "active", common::OUTSIDE).await;
    joined
        .unwrap()
        .identity
        .save(&config.identity_dir, None)
        .unwrap();
    let refused = Manager::rebuild(&config).await.unwrap_err();
    assert!(refused.message.contains("is a worker"), "{refused}");
    manager.shutdown().await;
}

#[tokio::test]
async fn a_new_managers_certificate_lives_as_long_as_the_cluster_says() {
    const HOUR: Duration = Duration::from_secs(3600);
    let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [founding, restoring] = directories
        .each_ref()
        .map(|directory| config(directory.path(), free_address()));
    let spec = engine::SwarmSpec {
        ca_config: Some(engine::SwarmSpecCaConfig {
            node_cert_expiry: i64::try_from((5 * HOUR).as_nanos()).ok(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let options = InitOptions {
        spec,
        ..InitOptions::default()
    };
    let life = |manager: &ManagerHandle| {
        let (from, until) = manager.identity().validity().unwrap();
        until.duration_since(from).unwrap()
    };
    let founder = Manager::init(founding, options).await.unwrap();
    // It begins an hour ago, for clocks that are behind.
    assert_eq!(life(&founder), 6 * HOUR);
    let backup = founder.backup().unwrap();
    founder.shutdown().await;
    let options = RestoreOptions {
        unlock_key: None,
        availability: engine::NodeSpecAvailabilityEnum::ACTIVE,
        hostname: String::new(),
        data_path_address: common::OUTSIDE.to_string(),
    };
    let restored = Manager::restore(restoring, &backup, options, || Ok(()))
        .await
        .unwrap();
    assert_eq!(life(&restored), 6 * HOUR);
    restored.shutdown().await;
}
