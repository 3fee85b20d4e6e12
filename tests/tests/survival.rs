//! `kill -9` of an agent: packets, open connections and tasks go on, and the next agent takes over what it finds.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    KeptConnection, Node, Rig, client::is_reset, eventually, http_get, image, lan, rig::UP_LIMIT,
    scenario,
};
use serde_json::{Value, json};

/// Requests that run while the agent is killed.
const REQUESTS: usize = 1000;
/// Of these, how many must have been answered before it is started again.
const WITHOUT_AGENT: usize = 200;

fn web(rig: &Rig) -> Result<()> {
    rig.create("web", &["--publish", "80:80", "--replicas", "4"])?;
    rig.wait_running("web", 4).map(drop)
}

/// Task ids and the processes behind them.
fn alive(rig: &Rig) -> Result<Vec<(String, u32)>> {
    let tasks = rig.running("web")?;
    tasks
        .iter()
        .map(|task| Ok((task.id.clone(), rig.task_pid(task)?)))
        .collect()
}

#[test]
fn no_request_fails_while_the_asked_agent_is_killed() {
    scenario("kill", 2, |rig| {
        web(rig)?;
        let before = alive(rig)?;
        let asked = rig.nodes[1].address;
        ensure!(rig.running("web")?.iter().any(|task| task.node == "n2"));
        let mut open = [IpAddr::from(asked), lan::v6(asked).into()]
            .map(|address| KeptConnection::new(address, 80));
        for one in &mut open {
            ensure!(rig.client.enter(|| one.get("/"))? == 200);
        }
        let done = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let client = &rig.client;
            let done = &done;
            let requests = scope.spawn(move || {
                client.enter(|| {
                    for number in 0..REQUESTS {
                        let reply = http_get(asked, 80, "/")
                            .map_err(|error| error.context(format!("request {number}")))?;
                        ensure!(reply.status == 200, "request {number}: {}", reply.status);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            });
            eventually("requests to run", UP_LIMIT, || {
                ensure!(done.load(Ordering::Relaxed) > REQUESTS / 10);
                Ok(())
            })?;
            rig.nodes[1].kill()?;
            go_on(rig, &mut open).context("the agent away")?;
            let killed_at = done.load(Ordering::Relaxed);
            ensure!(
                killed_at < REQUESTS - WITHOUT_AGENT,
                "all requests were over before the kill"
            );
            // No longer than that: the managers replace the tasks of a node they do not hear from.
            eventually("requests to run without the agent", UP_LIMIT, || {
                ensure!(done.load(Ordering::Relaxed) > killed_at + WITHOUT_AGENT);
                Ok(())
            })?;
            rig.nodes[1].start()?;
            match requests.join() {
                Ok(result) => result,
                Err(_) => anyhow::bail!("the requests panicked"),
            }
        })?;
        rig.wait_ready(2)?;
        eventually("the same tasks", UP_LIMIT, || {
            let after = alive(rig)?;
            ensure!(after == before, "before {before:?}, after {after:?}");
            Ok(())
        })?;
        let reply = rig.client.enter(|| http_get(asked, 80, "/"))?;
        ensure!(reply.status == 200);
        go_on(rig, &mut open).context("the agent back")
    });
}

/// The next request on each open connection, which must not have to be made anew for it.
fn go_on(rig: &Rig, open: &mut [KeptConnection]) -> Result<()> {
    for one in open {
        let begun = one.connected();
        let status = rig.client.enter(|| one.get("/"))?;
        ensure!(status == 200 && one.connected() == begun, "{one:?}");
    }
    Ok(())
}

#[test]
fn others_answer_throughout_while_agent_and_shims_of_a_node_are_killed() {
    scenario("shims", 3, |rig| {
        rig.create("web", &["--publish", "80:80", "--replicas", "6"])?;
        rig.wait_running("web", 6)?;
        let before = rig.running("web")?;
        let lost: Vec<_> = before.iter().filter(|task| task.node == "n3").collect();
        let lost = lost
            .into_iter()
            .map(|task| rig.task_pid(task))
            .collect::<Result<Vec<_>>>()?;
        ensure!(!lost.is_empty(), "none on n3: {before:?}");
        let others = [rig.nodes[0].address, rig.nodes[1].address];
        let mut node = rig.nodes.pop().context("no node")?;
        let (done, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let given_up = AtomicBool::new(false);
        let survived = std::thread::scope(|scope| {
            let (client, done, asked_to_stop) = (&rig.client, &done, &stop);
            let given_up = &given_up;
            let requests = scope.spawn(move || {
                client.enter(|| {
                    let mut reset = [0; 2];
                    while !asked_to_stop.load(Ordering::Relaxed) {
                        let number = done.fetch_add(1, Ordering::Relaxed);
                        let asked = number % others.len();
                        match http_get(others[asked], 80, "/") {
                            Ok(reply) => ensure!(reply.status == 200, "{}", reply.status),
                            Err(error) if given_up.load(Ordering::Relaxed) && is_reset(&error) => {
                                reset[asked] += 1;
                            }
                            Err(error) => return Err(error.context(format!("request {number}"))),
                        }
                    }
                    // The one that a task of the node has when the managers give the node up may be reset, through
                    // each of the others as it hears of that.
                    ensure!(
                        reset.iter().all(|&reset| reset <= 1),
                        "{reset:?} were reset"
                    );
                    Ok(())
                })
            });
            let story = lose_and_find_again(rig, &mut node, done, given_up, &lost);
            stop.store(true, Ordering::Relaxed);
            match requests.join() {
                Ok(result) => result.and(story),
                Err(_) => anyhow::bail!("the requests panicked"),
            }
        });
        rig.nodes.push(node);
        survived
    });
}

/// Kills agent and shims of a node, waits for its tasks' replacements, and starts it again. `done` counts requests,
/// `given_up` holds while the managers may be giving the node up, `lost` are its tasks' processes.
fn lose_and_find_again(
    rig: &Rig,
    node: &mut Node,
    done: &AtomicUsize,
    given_up: &AtomicBool,
    lost: &[u32],
) -> Result<()> {
    let more = |what: &str| {
        let before = done.load(Ordering::Relaxed);
        eventually(what, UP_LIMIT, || {
            ensure!(done.load(Ordering::Relaxed) > before + WITHOUT_AGENT);
            Ok(())
        })
    };
    more("requests to run")?;
    given_up.store(true, Ordering::Relaxed);
    node.kill()?;
    rig.kill_shims(node)?;
    eventually("the lost tasks to be replaced", UP_LIMIT, || {
        let running = rig.running("web")?;
        let here = running.iter().filter(|task| task.node != "n3").count();
        ensure!(here == 6, "{here} of 6 run on the others");
        Ok(())
    })?;
    given_up.store(false, Ordering::Relaxed);
    more("requests to run without the node")?;
    node.start()?;
    rig.wait_ready(3)?;
    eventually("what the node had left to be ended", UP_LIMIT, || {
        let mut left = lost.iter().map(|pid| format!("/proc/{pid}/exe"));
        ensure!(left.all(|exe| std::fs::read_link(exe).is_err()));
        Ok(())
    })?;
    more("requests to run with the node")
}

#[test]
fn the_state_survives_the_death_of_the_managers_agent() {
    scenario("state", 2, |rig| {
        web(rig)?;
        let before = alive(rig)?;
        for round in 0..3 {
            let name = format!("extra{round}");
            rig.create(&name, &["-d", "--replicas", "0"])?;
            // What was answered must be there, however soon the power goes.
            rig.nodes[0].kill()?;
            rig.nodes[0].start()?;
            rig.wait_ready(2)?;
            let list = rig
                .first()
                .ok(&["service", "ls", "--format", "{{.Name}}"])?;
            ensure!(
                list.lines().any(|line| line == name),
                "{name} is lost: {list}"
            );
        }
        eventually("the same tasks", UP_LIMIT, || {
            let after = alive(rig)?;
            ensure!(after == before, "before {before:?}, after {after:?}");
            Ok(())
        })
    });
}

#[test]
fn tasks_go_on_under_an_agent_in_another_mount_namespace() {
    scenario("mounts", 2, |rig| {
        let here = ["--constraint", "node.hostname==n2"];
        let again = |node: &mut Node| {
            node.own_mounts = true;
            node.kill()?;
            node.start()
        };
        // However slow the machine is, the node is not given up meanwhile.
        rig.first()
            .ok(&["swarm", "update", "--dispatcher-heartbeat", "30s"])?;
        again(&mut rig.nodes[1])?;
        rig.network("front")?;
        let network = ["--network", "front"];
        let web = [&here[..], &network, &["--publish", "80:80"]].concat();
        rig.create("web", &[&web[..], &["--replicas", "2"]].concat())?;
        rig.sleepers("shell", &[&here[..], &network].concat())?;
        rig.wait_running("web", 2)?;
        let shell = rig.task("shell")?;
        let (before, pid) = (alive(rig)?, rig.task_pid(&shell)?);
        let rootfs = format!("containers/{}/rootfs", shell.id);
        let is_seen = |node: &Node| -> Result<bool> {
            let pid = node.pid().context("the agent does not run")?;
            Ok(std::fs::read_to_string(format!("/proc/{pid}/mountinfo"))?.contains(&rootfs))
        };
        ensure!(is_seen(&rig.nodes[1])?, "the one that mounted it");
        again(&mut rig.nodes[1])?;
        ensure!(!is_seen(&rig.nodes[1])?, "the next one");

        // By the time that it runs a further one, it has looked at them all.
        rig.sleepers("more", &here)?;
        let after = (alive(rig)?, rig.task_pid(&shell)?);
        ensure!(
            after == (before, pid) && rig.task("shell")?.id == shell.id,
            "{after:?}"
        );
        let node = &rig.nodes[1];
        let user = ["exec", "-u", "nobody", &shell.container, "id", "-u"];
        ensure!(node.ok(&user)?.trim() == "65534", "a name of the image's");
        eventually("a name", UP_LIMIT, || {
            rig.exec(&shell, &["curl", "http://web/"]).map(drop)
        })?;
        eventually("the published port", UP_LIMIT, || {
            let reply = rig.client.enter(|| http_get(node.address, 80, "/"))?;
            ensure!(reply.status == 200);
            Ok(())
        })?;

        rig.first().ok(&["service", "rm", "web", "shell", "more"])?;
        let left = [
            node.data_dir().join("images/containers"),
            node.run_dir().join("netns"),
        ];
        eventually("all of it to be gone", UP_LIMIT, || {
            for dir in &left {
                let names: Vec<_> = std::fs::read_dir(dir)?.flatten().collect();
                ensure!(names.is_empty(), "{names:?}");
            }
            Ok(())
        })
    });
}

#[test]
fn who_has_not_applied_a_change_is_told_and_waited_for_while_it_is_up() {
    scenario("applied", 2, |rig| {
        let (first, second) = (rig.first(), &rig.nodes[1]);
        let version = || -> Result<u64> {
            let shown = first.ok(&["service", "inspect", "web"])?;
            let service: Value = serde_json::from_str(&shown)?;
            service[0]["Version"]["Index"].as_u64().context("a version")
        };
        let applied = |index: u64, seconds: u64| -> Result<Value> {
            let path = format!("/mesh/applied?index={index}&timeout={seconds}");
            let answer = first.engine().get(&path)?;
            ensure!(answer.is_success(), "{}", answer.status);
            answer.json()
        };
        let everywhere = |index| {
            eventually("all nodes to have applied it", UP_LIMIT, || {
                let told = applied(index, 1)?;
                ensure!(
                    told["IsApplied"] == true && told["Behind"] == json!([]),
                    "{told}"
                );
                Ok(())
            })
        };
        let wait = ["--wait-applied=2m"];
        let create = ["service", "create", "--name", "web", "--publish", "80:80"];
        let told = first.ok(&[&create[..], &wait, &[image::WHOAMI]].concat())?;
        ensure!(told.ends_with("applied on all nodes\n"), "{told}");
        everywhere(version()?)?;

        second.pause()?;
        let update = ["service", "update", "-d", "--publish-add", "81:80", "web"];
        first.ok(&update)?;
        let changed = version()?;
        let told = applied(changed, 0)?;
        let behind = told["Behind"].as_array().context("who is behind")?;
        ensure!(behind.iter().any(|node| node["Hostname"] == "n2"), "{told}");
        // Nobody waits for one that is down.
        let update = ["service", "update", "-d", "--label-add", "a=b", "web"];
        let told = first.ctl(&[&update[..], &wait].concat())?;
        ensure!(
            told.code == 0 && told.err.contains("will be on n2 (down) once back"),
            "{told:?}"
        );
        second.resume()?;
        everywhere(changed)?;

        for (query, words) in [
            ("", "index is missing"),
            ("index=x", "x"),
            (
                "index=1&timeout=61",
                "invalid timeout 61: at most 60 seconds",
            ),
        ] {
            let refused = first.engine().get(&format!("/mesh/applied?{query}"))?;
            let told = refused.refused("400")?;
            ensure!(told.contains(words), "{query}: {told}");
        }
        // What nobody can have: the answer comes when it was asked for.
        let told = applied(u64::MAX, 0)?;
        ensure!(told["IsApplied"] == false, "{told}");
        Ok(())
    });
}
