//! Agents that die, shims that die, and what the next agent finds.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{World, cgroup_directories, config, eventually, within};
use futures::StreamExt;
use mesh_runtime::{
    ContainerEvent, ContainerSpec, ContainerState, LogOptions, Runtime, RuntimeConfig,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Not a test: what a child process of a test does when it plays the agent. It starts containers
/// and then waits to be killed.
#[tokio::test]
#[ignore = "started by the other tests"]
async fn play_the_agent() {
    let Ok(root) = std::env::var("MESH_TEST_ROOT") else {
        return;
    };
    let cgroup = std::env::var("MESH_TEST_CGROUP").unwrap();
    let runtime = Runtime::open(config(Path::new(&root), &cgroup))
        .await
        .unwrap();
    for (id, script) in [
        (
            "long",
            "echo first; while ! test -e /tmp/go; do sleep 0.05; done; echo last; : > /tmp/said; exit 9",
        ),
        (
            "short",
            "while ! test -e /tmp/go-short; do sleep 0.05; done; exit 11",
        ),
        ("waiting", "exit 12"),
    ] {
        let spec = ContainerSpec {
            id: id.to_owned(),
            rootfs: Path::new(&root).join("rootfs"),
            args: ["sh", "-c", script].map(str::to_owned).to_vec(),
            ..ContainerSpec::default()
        };
        let info = runtime.create(&spec).await.unwrap();
        if id != "waiting" {
            runtime.start(id).await.unwrap();
        }
        println!("{id} {} {}", info.pid, info.shim_pid);
    }
    println!("ready");
    std::future::pending::<()>().await;
}

fn start_agent(world: &World) -> (Child, Vec<(String, u32, u32)>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "play_the_agent", "--ignored", "--nocapture"])
        .env("MESH_TEST_ROOT", &world.root)
        .env("MESH_TEST_CGROUP", &world.cgroup)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut found = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let words: Vec<_> = line.split(' ').collect();
        if let [id, pid, shim] = words[..]
            && let (Ok(pid), Ok(shim)) = (pid.parse(), shim.parse())
        {
            found.push((id.to_owned(), pid, shim));
        }
        // The test harness has printed its own words on the same line before ours.
        if line.ends_with("ready") {
            break;
        }
    }
    (child, found)
}

#[tokio::test]
async fn a_killed_agent_loses_nothing() {
    let world = World::new("adopt").await;
    let (mut agent, _) = start_agent(&world);
    let before = world.reopen().await;
    let pids = |runtime: &Runtime| {
        let list = runtime.list().into_iter();
        list.map(|info| (info.spec.id, info.pid, info.shim_pid))
            .collect::<Vec<_>>()
    };
    let original = pids(&before);
    assert_eq!(original.len(), 3);
    drop(before);

    agent.kill().unwrap();
    agent.wait().unwrap();
    // One task ends while no agent is there.
    std::fs::write(world.rootfs().join("tmp/go-short"), "").unwrap();
    eventually("the exit status is on disk", || {
        world.root.join("state/short/exit.json").exists()
    })
    .await;

    let runtime = world.reopen().await;
    let after = pids(&runtime);
    for ((id, pid, shim), now) in original.iter().zip(&after) {
        if id == "short" {
            assert_eq!((now.1, now.2), (0, 0));
        } else {
            assert_eq!((now.1, now.2), (*pid, *shim), "{id}");
        }
    }
    let short = runtime.inspect("short").unwrap();
    assert_eq!(short.state, ContainerState::Exited);
    assert_eq!(short.exit.unwrap().code, 11);
    assert!(short.started_at.is_some());
    let ContainerEvent::Exited { id, status } = within(runtime.events().recv()).await.unwrap();
    assert_eq!((id.as_str(), status.code), ("short", 11));

    // The adopted ones can be used in every way.
    assert_eq!(
        runtime.inspect("waiting").unwrap().state,
        ContainerState::Created
    );
    runtime.start("waiting").await.unwrap();
    assert_eq!(within(runtime.wait("waiting")).await.unwrap().code, 12);
    let long = runtime.inspect("long").unwrap();
    assert_eq!(long.state, ContainerState::Running);
    let follow = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let log = runtime.logs("long", follow).await.unwrap();
    std::fs::write(world.rootfs().join("tmp/go"), "").unwrap();
    let lines: Vec<_> = within(log.map(|record| record.unwrap().line).collect::<Vec<_>>()).await;
    assert_eq!(lines.concat(), b"first\nlast\n");
    assert_eq!(within(runtime.wait("long")).await.unwrap().code, 9);
    for id in ["long", "short", "waiting"] {
        within(runtime.delete(id)).await.unwrap();
        assert!(cgroup_directories(&format!("{}/{id}", world.cgroup)).is_empty());
    }
}

#[tokio::test]
async fn a_container_whose_shim_is_killed_is_ended() {
    let world = World::new("shimdead").await;
    world.run(&world.spec("a", "sleep 1000 & sleep 1000")).await;
    eventually("both run", || world.runtime.pids("a").unwrap().len() >= 2).await;
    let pids = world.runtime.pids("a").unwrap();
    let shim = world.runtime.inspect("a").unwrap().shim_pid;
    kill(Pid::from_raw(shim as i32), Signal::SIGKILL).unwrap();
    let status = world.wait("a").await;
    assert_eq!(status.code, 137);
    assert!(status.error.unwrap().contains("shim"));
    eventually("no process is left", || {
        world.runtime.pids("a").unwrap().is_empty()
    })
    .await;
    for pid in pids {
        eventually("processes are dead", || {
            std::fs::read_link(format!("/proc/{pid}/ns/pid")).is_err()
        })
        .await;
    }
    within(world.runtime.delete("a")).await.unwrap();
}

#[tokio::test]
async fn a_shim_of_another_version_makes_no_container() {
    let world = World::new("version").await;
    let ours = config(&world.root, &world.cgroup);
    // It ends well, and answers something else.
    let other = world.root.join("echo");
    std::fs::copy(world.rootfs().join("bin/busybox"), &other).unwrap();
    for (program, words) in [
        (other.clone(), "not a shim of version"),
        (world.root.join("nothing"), "not found"),
    ] {
        let alone = RuntimeConfig {
            shim_exe: program.clone(),
            ..ours.clone()
        };
        let refusal = Runtime::open(alone.clone()).await.unwrap_err().to_string();
        assert!(refusal.contains(words), "{refusal}");
        let replaced = RuntimeConfig {
            agent_exe: Some(ours.shim_exe.clone()),
            ..alone
        };
        let runtime = Runtime::open(replaced).await.unwrap();
        runtime.create(&world.spec("a", "exit 5")).await.unwrap();
        runtime.start("a").await.unwrap();
        assert_eq!(within(runtime.wait("a")).await.unwrap().code, 5);
        within(runtime.delete("a")).await.unwrap();
    }
}

#[tokio::test]
async fn containers_outlive_agent_and_shims_until_the_next_agent() {
    let world = World::new("alldead").await;
    let (mut agent, containers) = start_agent(&world);
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(containers.len() >= 2, "{containers:?}");
    for (_, _, shim) in &containers {
        kill(Pid::from_raw(*shim as i32), Signal::SIGKILL).unwrap();
    }
    for (_, _, shim) in &containers {
        eventually("shims are dead", || {
            std::fs::read_link(format!("/proc/{shim}/exe")).is_err()
        })
        .await;
    }
    for (id, pid, _) in &containers {
        assert!(
            std::fs::read_link(format!("/proc/{pid}/exe")).is_ok(),
            "{id} ended"
        );
    }
    // Not even what they say ends them.
    std::fs::write(world.rootfs().join("tmp/go"), "").unwrap();
    eventually("the command gets past its last words", || {
        world.rootfs().join("tmp/said").exists()
    })
    .await;
    let runtime = world.reopen().await;
    for (id, _, _) in &containers {
        let info = runtime.inspect(id).unwrap();
        assert_eq!(info.state, ContainerState::Exited, "{id}");
        assert_eq!(info.exit.unwrap().code, 255);
        assert!(runtime.pids(id).unwrap().is_empty());
    }
}

#[tokio::test]
async fn two_hundred_containers_at_once() {
    let world = World::new("many").await;
    let begin = std::time::Instant::now();
    let starts = (0..200).map(|number| {
        let spec = world.spec(&format!("c{number}"), "echo up; sleep 1000");
        let world = &world;
        async move { world.run(&spec).await }
    });
    futures::future::join_all(starts).await;
    println!("200 containers started in {:?}", begin.elapsed());
    let list = world.runtime.list();
    assert_eq!(list.len(), 200);
    assert!(
        list.iter()
            .all(|info| info.state == ContainerState::Running)
    );
    let resident: u64 = list.iter().map(|info| resident_kib(info.shim_pid)).sum();
    println!(
        "mean shim memory: {} KiB private of a debug build",
        resident / 200
    );
    world.wait_for_line("c199", "up").await;
    let begin = std::time::Instant::now();
    let deletes = list.iter().map(|info| world.runtime.delete(&info.spec.id));
    for result in futures::future::join_all(deletes).await {
        result.unwrap();
    }
    println!("deleted in {:?}", begin.elapsed());
}

/// Memory that only this process uses, in KiB.
fn resident_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    text.lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}
