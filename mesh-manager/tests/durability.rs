//! What was answered for survives: a manager killed at any moment, many restarts, many services.

mod common;

use common::{
    FakeNode, PATIENCE, attach, config, create, create_network, eventually, free_address, service,
};
use mesh_manager::{Command, Config, InitOptions, Manager, ManagerHandle, Timings};
use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command as Process, Stdio},
    time::{Duration, Instant},
};

/// Tells the re-executed test binary where to work.
const CHILD_DIRECTORY: &str = "MESH_TEST_CHILD_DIRECTORY";

/// Compacts the log often, so that kills also hit snapshots.
fn small_log(directory: &Path) -> Config {
    let timings = Timings {
        snapshot_entries: 20,
        ..Timings::default()
    };
    Config {
        timings,
        ..config(directory, free_address())
    }
}

async fn reopen(directory: &Path) -> ManagerHandle {
    let manager = Manager::restart(small_log(directory), Vec::new())
        .await
        .expect("the log opens");
    tokio::time::timeout(PATIENCE, manager.ready())
        .await
        .expect("a leader")
        .expect("a state");
    manager
}

/// A service with what was allocated for it.
fn described(manager: &ManagerHandle, name: &str) -> String {
    let view = manager.view();
    let service = view
        .find_service(name)
        .unwrap_or_else(|e| panic!("lost {name}: {e}"));
    let vips: Vec<_> = service.vips.iter().map(|vip| vip.address).collect();
    format!("{name} {vips:?} {}", service.ports[0].published)
}

/// The child: creates a network, and published services on it, as fast as it can; prints each service once it was
/// answered for.
async fn write_until_killed(directory: &Path) {
    let identity = mesh_pki::NodeIdentity::load(&directory.join("certificates"), None).unwrap();
    let manager = match identity {
        None => Manager::init(small_log(directory), InitOptions::default())
            .await
            .unwrap(),
        Some(_) => reopen(directory).await,
    };
    let start = manager.view().services().count();
    let networks = manager.view().networks().count();
    let network = format!("n{networks}");
    create_network(&manager, &network).await;
    for number in start.. {
        let name = format!("s{number}");
        let mut spec = service(&name, 0);
        attach(&mut spec, &network);
        common::publish(&mut spec, 0, 80);
        create(&manager, spec).await;
        println!("created {}", described(&manager, &name));
    }
}

fn spawn(directory: &Path) -> Child {
    Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_manager_loses_nothing", "--nocapture"])
        .env(CHILD_DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_manager_loses_nothing() {
    if let Some(directory) = std::env::var_os(CHILD_DIRECTORY) {
        write_until_killed(Path::new(&directory)).await;
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut answered: Vec<String> = Vec::new();
    for round in 0..4 {
        let mut child = spawn(directory.path());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let enough = 15 + round * 7;
        let mut seen = 0;
        for line in lines {
            let Ok(line) = line else { break };
            // The harness may print on the same line.
            let Some((_, told)) = line.split_once("created ") else {
                continue;
            };
            answered.push(told.to_owned());
            seen += 1;
            if seen == enough {
                // SIGKILL, in the middle of whatever it does; lines already written still count.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= enough, "the child stopped early in round {round}");
    }
    let manager = reopen(directory.path()).await;
    for told in &answered {
        let name = told.split(' ').next().unwrap();
        assert_eq!(&described(&manager, name), told);
    }
    let view = manager.view();
    let (mut vips, mut ports, mut subnets) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for service in view.services() {
        assert!(ports.insert(service.ports[0].published), "{service:?}");
        assert!(
            service
                .vips
                .iter()
                .all(|vip| vips.insert((vip.network_id.clone(), vip.address))),
            "{service:?}"
        );
    }
    assert!(
        view.networks()
            .all(|network| subnets.insert(network.subnet))
    );
    assert!(view.cluster().is_some());
    drop(view);
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_tasks_and_addresses() {
    let directory = tempfile::tempdir().unwrap();
    let manager = common::manager(directory.path()).await;
    let address = manager.managers()[0].1.clone();
    let node = FakeNode::join(&manager, "n1").await;
    create_network(&manager, "front").await;
    let mut spec = service("web", 3);
    common::publish(&mut spec, 0, 8080);
    let id = create(&manager, spec).await;
    let is_running = |manager: &ManagerHandle| {
        let view = manager.view();
        let running = view
            .tasks_of_service(&id)
            .filter(|t| t.status.state == mesh_manager::state::TaskState::Running)
            .count();
        (running == 3).then_some(())
    };
    eventually("three running", || is_running(&manager)).await;
    let picture = |manager: &ManagerHandle| {
        let view = manager.view();
        let tasks: Vec<_> = view
            .tasks_of_service(&id)
            .map(|t| (t.id.clone(), t.node_id.clone(), t.attachments.clone()))
            .collect();
        let service = view.service(&id).unwrap();
        let networks: Vec<_> = view
            .networks()
            .map(|n| (n.id.clone(), n.vni, n.subnet, n.cursor))
            .collect();
        (tasks, service.vips.clone(), service.ports.clone(), networks)
    };
    let before = picture(&manager);
    assert!((30_000..=32_767).contains(&before.2[0].published));
    node.kill();
    manager.shutdown().await;
    drop(manager);

    let config = config(directory.path(), address.parse().unwrap());
    // The old one's file lock goes with its last task.
    let deadline = Instant::now() + PATIENCE;
    let manager = loop {
        match Manager::restart(config.clone(), Vec::new()).await {
            Ok(manager) => break manager,
            Err(error) if Instant::now() > deadline => panic!("cannot restart: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    manager.ready().await.unwrap();
    assert_eq!(picture(&manager), before);
    let again = FakeNode::open(&address, node.identity.clone(), "n1").await;
    eventually("the node has its tasks again", || {
        (again.known.lock().unwrap().tasks.len() == 3).then_some(())
    })
    .await;
    assert_eq!(picture(&manager).0, before.0, "same tasks");
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_services() {
    let directory = tempfile::tempdir().unwrap();
    let manager = common::manager(directory.path()).await;
    let node = FakeNode::join(&manager, "n1").await;
    create_network(&manager, "front").await;
    let makers = (0..8).map(|maker| {
        let manager = manager.clone();
        tokio::spawn(async move {
            for number in 0..125 {
                let mut spec = service(&format!("s{maker}-{number}"), 0);
                attach(&mut spec, "front");
                create(&manager, spec).await;
            }
        })
    });
    for maker in makers.collect::<Vec<_>>() {
        maker.await.unwrap();
    }
    assert_eq!(manager.view().services().count(), 1000);
    let vips: std::collections::BTreeSet<_> = manager
        .view()
        .services()
        .flat_map(|s| s.vips.clone())
        .map(|v| v.address)
        .collect();
    assert_eq!(vips.len(), 1000);

    // 200 tasks among them.
    let id = create(&manager, service("many", 200)).await;
    eventually("200 running", || {
        let known = node.known.lock().unwrap();
        (known.reported.values().filter(|w| *w == "running").count() == 200).then_some(())
    })
    .await;
    assert_eq!(manager.view().tasks_of_service(&id).count(), 200);

    let ids: Vec<String> = manager.view().services().map(|s| s.id.clone()).collect();
    let removals = ids
        .into_iter()
        .map(|id| manager.call(Command::RemoveService { id }));
    for removed in futures::future::join_all(removals).await {
        removed.unwrap();
    }
    eventually("all gone", || {
        (manager.view().tasks().count() == 0).then_some(())
    })
    .await;
    assert_eq!(manager.view().services().count(), 0);
    manager.shutdown().await;
}
