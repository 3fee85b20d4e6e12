//! The majority of the managers is lost: the cluster goes on with the one that is left, and with its tasks.

use std::{
    io::Write,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Node, Rig, Task, eventually, http_get, managers,
    rig::{UP_LIMIT, test_name},
    scenario_on,
};

/// A command that has to fail with these words.
fn refused(by: &Node, args: &[&str], words: &str) -> Result<()> {
    let answer = by.ctl(args)?;
    ensure!(answer.code != 0, "{args:?}: {}", answer.out);
    ensure!(answer.err.contains(words), "{args:?}: {}", answer.err);
    Ok(())
}

/// Ids of the tasks on these nodes.
fn on(tasks: &[Task], names: &[&str]) -> Vec<String> {
    let here = tasks.iter().filter(|t| names.contains(&t.node.as_str()));
    let mut ids: Vec<String> = here.map(|task| task.id.clone()).collect();
    ids.sort();
    ids
}

/// Makes a secret of this name.
fn secret(by: &Node, name: &str) -> Result<()> {
    let mut command = by.ctl_command()?;
    command.args(["secret", "create", name, "-"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    child
        .stdin
        .take()
        .context("piped")?
        .write_all(b"open sesame")?;
    ensure!(child.wait()?.success(), "the secret was not made");
    Ok(())
}

#[test]
fn one_manager_is_left() {
    let builder = Rig::builder(&test_name("force")).nodes(4).without_swarm();
    scenario_on(builder, |rig| {
        let force = ["swarm", "init", "--force-new-cluster"];
        refused(&rig.nodes[3], &force, "there is no swarm to rebuild")?;
        managers::form_of(rig, 3)?;
        let [first, _, _, worker] = &rig.nodes[..] else {
            anyhow::bail!("four nodes");
        };
        let token = first.ok(&["swarm", "join-token", "-q", "worker"])?;
        let (own, remote) = (
            worker.address.to_string(),
            format!("{}:2377", first.address),
        );
        let join = ["swarm", "join", "--advertise-addr", &own, "--token"];
        worker.ok(&[&join[..], &[token.trim(), &remote]].concat())?;
        refused(worker, &force, "Worker nodes can't be used")?;
        rig.wait_ready(4)?;
        secret(first, "word")?;
        first.ok(&["network", "create", "-d", "overlay", "front"])?;
        let options = [
            "--publish",
            "80:80",
            "--replicas",
            "4",
            "--network",
            "front",
            "--secret",
            "word",
        ];
        rig.create("web", &options)?;
        rig.wait_running("web", 4)?;
        let before = rig.running("web")?;

        rig.nodes[0].kill()?;
        rig.nodes[2].kill()?;
        let [_, left, _, worker] = &rig.nodes[..] else {
            anyhow::bail!("four nodes");
        };
        let write = |by: &Node, name: &str| {
            let create = ["service", "create", "-d", "--name", name, "--replicas", "0"];
            by.ctl(&[&create[..], &["whoami"]].concat())
        };
        eventually("changes are refused", UP_LIMIT, || {
            let answer = write(left, "x")?;
            ensure!(
                answer.err.contains("does not have a leader"),
                "{}",
                answer.err
            );
            Ok(())
        })?;
        let stop = AtomicBool::new(false);
        let address = left.address.to_string();
        let (said, requests) = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                rig.client.enter(|| {
                    let mut requests = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let reply = http_get(left.address, 80, "/")?;
                        ensure!(reply.status == 200, "request {requests}: {}", reply.status);
                        requests += 1;
                    }
                    Ok(requests)
                })
            });
            let made = (|| {
                let other = ["--advertise-addr", "192.0.2.9"];
                refused(
                    left,
                    &[&force[..], &other].concat(),
                    "--advertise-addr cannot be changed",
                )?;
                let said = left.ok(&[&force[..], &["--advertise-addr", &address]].concat())?;
                eventually("a change", UP_LIMIT, || {
                    let answer = write(left, "after")?;
                    ensure!(answer.code == 0, "{}", answer.err);
                    Ok(())
                })?;
                managers::wait_until_ready(left, worker)?;
                Ok::<_, anyhow::Error>(said)
            })();
            stop.store(true, Ordering::Relaxed);
            let asked = asking
                .join()
                .map_err(|_| anyhow::anyhow!("the requests panicked"))?;
            Ok::<_, anyhow::Error>((made?, asked?))
        })?;
        ensure!(
            said.contains("is now a manager") && said.contains("SWMTKN-1-"),
            "{said}"
        );
        println!("{requests} requests meanwhile");
        for (noun, name) in [("secret", "word"), ("network", "front"), ("service", "web")] {
            let list = left.ok(&[noun, "ls", "--format", "{{.Name}}"])?;
            ensure!(list.lines().any(|line| line == name), "{noun}: {list}");
        }
        let kept = left.ok(&["swarm", "join-token", "-q", "worker"])?;
        ensure!(kept == token, "another token");
        let here = on(&before, &[left.name.as_str(), worker.name.as_str()]);
        let running = |by: &Node| -> Result<Vec<String>> {
            let list = [
                "service",
                "ps",
                "-q",
                "--no-trunc",
                "--filter",
                "desired-state=running",
                "web",
            ];
            Ok(by.ok(&list)?.lines().map(str::to_owned).collect())
        };
        let now = running(left)?;
        for id in &here {
            ensure!(now.contains(id), "task {id} was replaced: {now:?}");
        }

        // The others come back, a majority of what was: they are workers of what is, but for one that was promoted meanwhile.
        left.ok(&["node", "promote", &rig.nodes[2].name])?;
        rig.nodes[0].start()?;
        rig.nodes[2].start()?;
        let left = &rig.nodes[1];
        managers::wait_for(rig, left, &[1, 2])?;
        let lost = &rig.nodes[0];
        let log = lost.data_dir().join("swarm/manager");
        eventually("it knows that it is a worker", UP_LIMIT, || {
            ensure!(!log.exists(), "it has its log still");
            refused(lost, &["node", "ls"], "Worker nodes can't be used")
        })?;
        eventually("all to be ready", UP_LIMIT, || {
            let list = left.ok(&["node", "ls", "--format", "{{.Status}}"])?;
            ensure!(
                list.lines().filter(|l| l.trim() == "Ready").count() == 4,
                "{list}"
            );
            Ok(())
        })?;
        let names = left.ok(&["service", "ls", "--format", "{{.Name}}"])?;
        ensure!(names.contains("after"), "{names}");
        eventually("four tasks", UP_LIMIT, || {
            ensure!(running(left)?.len() == 4);
            Ok(())
        })?;
        for id in &here {
            ensure!(running(left)?.contains(id), "task {id} was replaced");
        }
        // They can be managers again.
        left.ok(&["node", "promote", &rig.nodes[0].name])?;
        managers::wait_for(rig, left, &[0, 1, 2])
    });
}
