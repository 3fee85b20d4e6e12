//! Services change size, tasks die, nodes are lost: the wanted number runs again.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use mesh_tests::{Rig, eventually, http_get, image, netns::run, rig::UP_LIMIT, scenario};

fn web(rig: &Rig, replicas: &str) -> Result<()> {
    rig.create("web", &["--publish", "80:80", "--replicas", replicas])
}

#[test]
fn a_service_is_scaled_to_twenty_and_back() {
    scenario("scale", 3, |rig| {
        web(rig, "1")?;
        rig.first().ok(&["service", "scale", "web=20"])?;
        let tasks = rig.wait_running("web", 20)?;
        for node in &rig.nodes {
            let here = tasks.iter().filter(|task| task.node == node.name).count();
            ensure!((6..=7).contains(&here), "{here} of 20 on {}", node.name);
        }
        rig.first().ok(&["service", "scale", "web=1"])?;
        rig.wait_running("web", 1)?;
        eventually("only one shim to be left", UP_LIMIT, || {
            let shims = rig.shims();
            ensure!(shims.len() == 1, "{shims:?}");
            let line = std::fs::read_to_string(format!("/proc/{}/cmdline", shims[0]))?;
            ensure!(line.starts_with("mesh-shim\0"), "{line:?}");
            Ok(())
        })
    });
}

#[test]
fn a_killed_process_is_replaced_and_remembered() {
    scenario("death", 2, |rig| {
        web(rig, "2")?;
        let before = rig.wait_running("web", 2)?;
        let victim = &before[0];
        let pid = rig.task_pid(victim)?.to_string();
        run("kill", &["-9", &pid])?;
        let history = eventually("a replacement", UP_LIMIT, || {
            let history = rig.history("web")?;
            let running = history
                .iter()
                .filter(|task| task.state == "Running")
                .count();
            let replaced = history.iter().any(|task| {
                task.name == victim.name && task.id != victim.id && task.state == "Running"
            });
            ensure!(running == 2 && replaced, "{history:?}");
            Ok(history)
        })?;
        let old = history.iter().find(|task| task.id == victim.id);
        ensure!(
            old.is_some_and(|task| task.state == "Failed"),
            "history: {history:?}"
        );
        let told = rig.first().ok(&["service", "ps", "--no-trunc", "web"])?;
        ensure!(told.contains("task: non-zero exit (137)"), "{told}");
        let other = history.iter().find(|task| task.id == before[1].id);
        ensure!(
            other.is_some_and(|task| task.state == "Running"),
            "history: {history:?}"
        );
        Ok(())
    });
}

#[test]
fn the_tasks_of_a_lost_node_run_on_the_others() {
    scenario("loss", 3, |rig| {
        web(rig, "6")?;
        let before = rig.wait_running("web", 6)?;
        ensure!(before.iter().any(|task| task.node == "n3"), "{before:?}");
        let mut lost = rig.nodes.pop().expect("three nodes");
        rig.cut_power(&mut lost)?;
        after_loss(rig)?;
        // It comes back, and clears up what it finds of its former life.
        rig.lan.plug(&lost.port, true)?;
        lost.start()?;
        rig.nodes.push(lost);
        rig.wait_ready(3)?;
        rig.wait_running("web", 6).map(drop)
    });
}

fn after_loss(rig: &Rig) -> Result<()> {
    let limit = Duration::from_secs(60);
    eventually("the lost tasks to be replaced", limit, || {
        let running = rig.running("web")?;
        let here = running.iter().filter(|task| task.node != "n3").count();
        if here < 6 {
            bail!("{here} of 6 run on the others");
        }
        Ok(())
    })?;
    let counted = ["vip", "ls", "--format", "{{.Service}} {{.Active}}"];
    let vips = rig.first().ok(&counted)?;
    ensure!(
        vips.trim() == "web 6",
        "tasks of the lost node still count: {vips}"
    );
    rig.client.enter(|| {
        for number in 0..60 {
            let node = &rig.nodes[number % rig.nodes.len()];
            ensure!(http_get(node.address, 80, "/")?.status == 200);
        }
        Ok(())
    })
}

#[test]
fn tasks_whose_node_no_longer_fits_are_rejected_and_run_elsewhere() {
    scenario("fits", 2, |rig| {
        let first = rig.first();
        let label = |verb, label, node| first.ok(&["node", "update", verb, label, node]);
        label("--label-add", "disk=ssd", "n2")?;
        let args = ["--replicas", "2", "--publish", "80:80"];
        rig.create(
            "web",
            &[&args[..], &["--constraint", "node.labels.disk==ssd"]].concat(),
        )?;
        let before = rig.wait_running("web", 2)?;
        ensure!(before.iter().all(|task| task.node == "n2"), "{before:?}");
        let pids = [rig.task_pid(&before[0])?, rig.task_pid(&before[1])?];
        label("--label-rm", "disk", "n2")?;
        eventually("the tasks to be rejected", UP_LIMIT, || {
            let told = first.ok(&[
                "service",
                "ps",
                "--no-trunc",
                "--filter",
                "desired-state=shutdown",
                "--format",
                "{{.DesiredState}} {{.CurrentState}} {{.Error}}",
                "web",
            ])?;
            let is_rejected = |line: &&str| {
                line.starts_with("Shutdown Rejected ")
                    && line.ends_with("\"assigned node no longer meets constraints\"")
            };
            ensure!(told.lines().filter(is_rejected).count() == 2, "{told}");
            Ok(())
        })?;
        for pid in pids {
            ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        }
        let told = first.ok(&["service", "ps", "--no-trunc", "web"])?;
        let reason = "no suitable node (scheduling constraints not satisfied on 2 nodes)";
        ensure!(told.matches(reason).count() == 2, "{told}");
        label("--label-add", "disk=ssd", "n1")?;
        let after = rig.wait_running("web", 2)?;
        ensure!(after.iter().all(|task| task.node == "n1"), "{after:?}");
        let asked = rig.nodes[1].address;
        eventually("the moved tasks to answer", UP_LIMIT, || {
            let reply = rig.client.enter(|| http_get(asked, 80, "/"))?;
            ensure!(reply.status == 200);
            Ok(())
        })
    });
}

#[test]
fn what_makes_no_progress_is_given_up_with_the_cause() {
    scenario("stall", 2, |rig| {
        let first = rig.first();
        let label = ["--label", "mesh.progress-deadline=3s"];
        let greedy = ["--reserve-cpu", "1000"];
        let cause = "is pending: no suitable node (insufficient resources on 2 nodes)";
        // A new service has nothing to go back to: who waits for it is told.
        let create = ["service", "create", "-q", "--name", "never"];
        let args = [&create[..], &label, &greedy, &[image::WHOAMI]].concat();
        let told = first.ctl(&args)?.refused()?;
        let expected = format!(
            "service does not converge: no task has become running for 3s: never.1 {cause}"
        );
        ensure!(told.contains(&expected), "{told}");

        // Its tasks are to have the time that they need on a machine that does much else.
        let label = ["--label", "mesh.progress-deadline=15s"];
        rig.create("web", &[&label[..], &["--replicas", "2"]].concat())?;
        rig.wait_running("web", 2)?;
        let update = ["service", "update", "-q", "--update-order", "start-first"];
        let stall = |action, words: &str| -> Result<()> {
            let action = ["--update-failure-action", action, "web"];
            let told = first
                .ctl(&[&update[..], &greedy, &action].concat())?
                .refused()?;
            ensure!(told.contains(words) && told.contains(cause), "{told}");
            Ok(())
        };
        stall(
            "rollback",
            "service rolled back: update rolled back due to lack of progress",
        )?;
        let before = rig.wait_running("web", 2)?;
        let message = [
            "service",
            "inspect",
            "--format",
            "{{.UpdateStatus.Message}}",
            "web",
        ];
        for (action, words) in [
            ("pause", "update paused due to lack of progress"),
            ("continue", "update goes on despite lack of progress"),
        ] {
            stall(
                action,
                if action == "pause" {
                    words
                } else {
                    "service does not converge"
                },
            )?;
            let shown = first.ok(&message)?;
            ensure!(shown.contains(words) && shown.contains(cause), "{shown}");
            // What was there goes on.
            ensure!(rig.running("web")? == before, "{:?}", rig.history("web")?);
        }
        Ok(())
    });
}
