//! Three managers: the loss of the one that leads, of the network between them, of all at once.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use mesh_tests::{
    Node, Rig, Task, eventually, http_get,
    managers::{self, Way, leader, statuses},
    rig::{UP_LIMIT, test_name},
    scenario_on,
};

/// Writes of services go on for so many after the leader is gone.
const WRITES_AFTER: usize = 3;

fn names(by: &Node) -> Result<Vec<String>> {
    let list = by.ok(&["service", "ls", "--format", "{{.Name}}"])?;
    Ok(list.lines().map(str::to_owned).collect())
}

#[test]
fn the_leader_killed_under_writes_and_requests() {
    let builder = Rig::builder(&test_name("lead")).nodes(3).without_swarm();
    scenario_on(builder, |rig| {
        managers::form(rig)?;
        rig.create("web", &["--publish", "80:80", "--replicas", "3"])?;
        rig.wait_running("web", 3)?;
        let before = rig.running("web")?;
        // Every manager answers alike.
        let of_first = statuses(&rig.nodes[0])?;
        for node in &rig.nodes {
            eventually("all are reachable", UP_LIMIT, || {
                let said = statuses(node)?;
                let reachable = said.iter().filter(|(_, s)| s == "Reachable").count();
                ensure!(reachable == 2, "{said:?}");
                Ok(())
            })?;
            ensure!(statuses(node)?.len() == of_first.len());
        }
        let leads = leader(rig, &rig.nodes[1])?;
        let others: Vec<usize> = (0..3).filter(|n| *n != leads).collect();
        let (writer, asked) = (others[0], rig.nodes[others[1]].address);
        let stop = AtomicBool::new(false);
        let requests = AtomicUsize::new(0);
        let mut acknowledged = Vec::new();
        let took = std::thread::scope(|scope| {
            let (client, stop, requests) = (&rig.client, &stop, &requests);
            let asking = scope.spawn(move || {
                client.enter(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let number = requests.fetch_add(1, Ordering::Relaxed);
                        let reply = http_get(asked, 80, "/")
                            .map_err(|error| error.context(format!("request {number}")))?;
                        ensure!(reply.status == 200, "request {number}: {}", reply.status);
                    }
                    Ok(())
                })
            });
            let written = (|| {
                let mut write = |nodes: &[Node]| -> bool {
                    let name = format!("w{}", acknowledged.len());
                    let made = nodes[writer].ctl(&[
                        "service",
                        "create",
                        "-d",
                        "--name",
                        &name,
                        "--replicas",
                        "0",
                        "whoami",
                    ]);
                    let is_made = made.is_ok_and(|answer| {
                        // A write that was cut off may have been made.
                        answer.code == 0 || answer.err.contains("already exists")
                    });
                    if is_made {
                        acknowledged.push(name);
                    }
                    is_made
                };
                ensure!(
                    write(&rig.nodes) && write(&rig.nodes),
                    "writes before the kill"
                );
                rig.nodes[leads].kill()?;
                let killed = Instant::now();
                eventually("a write", UP_LIMIT, || {
                    ensure!(write(&rig.nodes), "not yet");
                    Ok(())
                })?;
                let took = killed.elapsed();
                for _ in 0..WRITES_AFTER {
                    eventually("another write", UP_LIMIT, || {
                        ensure!(write(&rig.nodes), "not yet");
                        Ok(())
                    })?;
                }
                Ok(took)
            })();
            stop.store(true, Ordering::Relaxed);
            match asking.join() {
                Ok(asked) => asked?,
                Err(_) => anyhow::bail!("the requests panicked"),
            }
            written
        })?;
        println!(
            "next write {} ms after the kill, {} requests",
            took.as_millis(),
            requests.load(Ordering::Relaxed)
        );
        let said = statuses(&rig.nodes[writer])?;
        ensure!(
            said.contains(&(rig.nodes[leads].name.clone(), "Unreachable".to_owned())),
            "{said:?}"
        );
        // It comes back as a follower, by itself, and answers as the others do.
        rig.nodes[leads].start()?;
        eventually("the old leader to follow", UP_LIMIT, || {
            let said = statuses(&rig.nodes[leads])?;
            ensure!(said.iter().all(|(_, s)| s != "Unreachable"), "{said:?}");
            Ok(())
        })?;
        rig.wait_ready(3)?;
        for node in &rig.nodes {
            let known = names(node)?;
            for name in &acknowledged {
                ensure!(known.contains(name), "{name} is lost: {known:?}");
            }
        }
        let kept = rig.running("web")?;
        let on_others = |t: &&Task| t.node != rig.nodes[leads].name;
        for task in before.iter().filter(on_others) {
            ensure!(
                kept.iter().any(|k| k.id == task.id),
                "task {} was replaced",
                task.id
            );
        }
        Ok(())
    });
}

#[test]
fn a_leader_cut_off_leads_no_more() {
    let builder = Rig::builder(&test_name("cut")).nodes(3).without_swarm();
    scenario_on(builder, |rig| {
        managers::form(rig)?;
        let leads = leader(rig, rig.first())?;
        let other = &rig.nodes[(leads + 1) % 3];
        let cut = &rig.nodes[leads];
        let others: Vec<_> = (1..3).map(|n| rig.nodes[(leads + n) % 3].address).collect();
        managers::cut(cut, &others, Way::Both)?;
        let begun = Instant::now();
        eventually("the others to elect", UP_LIMIT, || {
            let made = other.ctl(&[
                "service",
                "create",
                "-d",
                "--name",
                "other",
                "--replicas",
                "0",
                "whoami",
            ])?;
            ensure!(
                made.code == 0 || made.err.contains("already exists"),
                "{}",
                made.err
            );
            Ok(())
        })?;
        println!(
            "next write {} ms after the cut",
            begun.elapsed().as_millis()
        );
        let write = [
            "service",
            "create",
            "-d",
            "--name",
            "x",
            "--replicas",
            "0",
            "whoami",
        ];
        let begun = Instant::now();
        let refused = cut.ctl(&write)?;
        ensure!(
            refused.code != 0 && refused.err.contains("The swarm does not have a leader."),
            "{}",
            refused.err
        );
        // What it knows is from before, and it says so.
        let known = cut.ctl(&["service", "ls", "-q"])?;
        ensure!(
            known.code == 0 && known.out.trim().is_empty(),
            "{}",
            known.out
        );
        ensure!(
            known.err.contains("does not have a leader"),
            "{}",
            known.err
        );
        ensure!(begun.elapsed() < Duration::from_secs(30), "it hung");
        managers::mend(cut)?;
        eventually("the old leader to follow", UP_LIMIT, || {
            let known = names(cut)?;
            ensure!(known == ["other"], "{known:?}");
            Ok(())
        })?;
        rig.wait_ready(3)
    });
}

#[test]
fn all_managers_restarted_at_once() {
    let builder = Rig::builder(&test_name("all")).nodes(3).without_swarm();
    scenario_on(builder, |rig| {
        managers::form(rig)?;
        rig.create("web", &["--publish", "80:80", "--replicas", "3"])?;
        rig.wait_running("web", 3)?;
        let before = rig.running("web")?;
        for node in &mut rig.nodes {
            node.kill()?;
        }
        for node in &rig.nodes {
            let asked = node.address;
            let reply = rig.client.enter(|| http_get(asked, 80, "/"))?;
            ensure!(reply.status == 200, "{}: {}", node.name, reply.status);
        }
        for node in &mut rig.nodes {
            node.start()?;
        }
        rig.wait_ready(3)?;
        for node in &rig.nodes {
            eventually("each to answer", UP_LIMIT, || {
                let names = names(node)?;
                ensure!(names == ["web"], "{}: {names:?}", node.name);
                Ok(())
            })?;
        }
        let after = rig.running("web")?;
        let ids = |tasks: &[Task]| {
            let mut ids: Vec<String> = tasks.iter().map(|t| t.id.clone()).collect();
            ids.sort();
            ids
        };
        ensure!(
            ids(&after) == ids(&before),
            "before {before:?}, after {after:?}"
        );

        // One that hears from nobody says so in the end.
        for node in &mut rig.nodes {
            node.kill()?;
        }
        rig.nodes[0].start()?;
        for ask in [&["service", "ls"][..], &["network", "create", "other"]] {
            let said = rig.nodes[0].ctl(ask)?;
            let text = "Manager is being prepared or has trouble connecting to the cluster.";
            ensure!(said.code == 1 && said.err.contains(text), "{}", said.err);
        }
        for node in &mut rig.nodes[1..] {
            node.start()?;
        }
        rig.wait_ready(3)
    });
}
