//! Jobs run to their end: so many tasks, or one on each node, once for each change of the service.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::{Rig, Task, eventually, http_get, image, rig::UP_LIMIT, scenario};

/// Makes a job whose tasks do `verb`; what was said of its progress.
fn job(rig: &Rig, mode: &str, flags: &[&str], verb: &[&str]) -> Result<String> {
    let create = ["service", "create", "--name", "job", "--mode", mode];
    let all = [&create[..], flags, &[image::WHOAMI], verb].concat();
    rig.first().ok(&all)
}

/// Mode and replicas of the job, as `service ls` has them.
fn listed(rig: &Rig) -> Result<String> {
    let format = "{{.Mode}} {{.Replicas}}";
    let list = ["service", "ls", "--filter", "name=job", "--format", format];
    Ok(rig.first().ok(&list)?.trim().to_owned())
}

fn wait_listed(rig: &Rig, expected: &str) -> Result<()> {
    eventually("the job to come so far", UP_LIMIT, || {
        let listed = listed(rig)?;
        let history = rig.first().ok(&["service", "ps", "--no-trunc", "job"])?;
        ensure!(listed == expected, "{listed}\n{history}");
        Ok(())
    })
}

/// Ids of all tasks that there were, in order.
fn ids(rig: &Rig) -> Result<Vec<String>> {
    let mut ids: Vec<String> = rig.history("job")?.into_iter().map(|t| t.id).collect();
    ids.sort();
    Ok(ids)
}

#[test]
fn a_replicated_job_runs_until_all_have_completed_and_never_again() {
    scenario("job", 2, |rig| {
        rig.network("front")?;
        let flags = [
            "--replicas",
            "5",
            "--max-concurrent",
            "2",
            "--network",
            "front",
        ];
        let told = job(
            rig,
            "replicated-job",
            &flags,
            &["whoami", "exit", "0", "0.3"],
        )?;
        for line in [
            "job progress: 5 out of 5 complete",
            "5/5: complete",
            "job complete",
        ] {
            ensure!(told.lines().any(|l| l == line), "no {line:?} in {told}");
        }
        ensure!(!told.contains("active tasks: 3"), "{told}");
        ensure!(listed(rig)? == "replicated job 0/2 (5/5 completed)");
        let states = [
            "service",
            "ps",
            "--format",
            "{{.DesiredState}} {{.CurrentState}}",
            "job",
        ];
        let states = rig.first().ok(&states)?;
        let is_complete = |line: &&str| line.starts_with("Complete Complete ");
        ensure!(states.lines().filter(is_complete).count() == 5, "{states}");
        let before = ids(rig)?;
        ensure!(before.len() == 5, "{before:?}");
        // Another agent, another leader's first look, and another service make nothing of it.
        for node in &mut rig.nodes {
            node.kill()?;
            node.start()?;
        }
        rig.wait_ready(2)?;
        rig.create("web", &["--replicas", "2", "--network", "front"])?;
        rig.wait_running("web", 2)?;
        ensure!(
            ids(rig)? == before,
            "it ran again: {:?}",
            rig.history("job")?
        );
        let vips = ["vip", "ls", "--format", "{{.Service}} {{.Active}}"];
        let vips = rig.first().ok(&vips)?;
        ensure!(vips.lines().any(|line| line == "job 0"), "{vips}");
        let pretty = rig.first().ok(&["service", "inspect", "--pretty", "job"])?;
        let lines = "Service Mode:\tReplicated job\n Completions:\t5\n Max concurrent:\t2\n";
        ensure!(pretty.contains(lines), "{pretty}");
        again(rig)
    });
}

/// Each change executes it again.
fn again(rig: &Rig) -> Result<()> {
    let index = [
        "service",
        "inspect",
        "--format",
        "{{.JobStatus.JobIteration.Index}}",
        "job",
    ];
    let first = rig.first();
    ensure!(first.ok(&index)?.trim() == "0");
    let told = first.ok(&["service", "update", "--force", "job"])?;
    ensure!(told.contains("job complete"), "{told}");
    ensure!(first.ok(&index)?.trim() == "1");
    ensure!(
        rig.history("job")?.len() == 10,
        "what it did before is kept"
    );
    let told = first.ok(&["service", "scale", "job=1"])?;
    ensure!(told.contains("1 out of 1 complete"), "{told}");
    ensure!(listed(rig)? == "replicated job 0/2 (1/1 completed)");
    // What still runs of an iteration ends with it.
    let long = ["--args", "whoami exit 0 1000", "--max-concurrent", "1"];
    first.ok(&[&["service", "update", "-d"], &long[..], &["job"]].concat())?;
    let old = rig.wait_running("job", 1)?.remove(0);
    let short = ["service", "update", "--args", "whoami exit 0", "job"];
    first.ok(&short)?;
    eventually("the old task to be removed", UP_LIMIT, || {
        ensure!(!ids(rig)?.contains(&old.id));
        Ok(())
    })?;
    first.ok(&["service", "rollback", "-d", "job"])?;
    rig.wait_running("job", 1)?;
    first.ok(&["service", "rm", "job"])?;
    eventually("only the shims of web to be left", UP_LIMIT, || {
        ensure!(rig.shims().len() == 2);
        Ok(())
    })
}

#[test]
fn what_fails_is_tried_again_as_often_as_it_may() {
    scenario("jobfail", 1, |rig| {
        let policy = ["--restart-max-attempts", "2", "--restart-delay", "100ms"];
        let create = ["service", "create", "--name", "job"];
        let mode = ["--mode", "replicated-job", image::WHOAMI];
        let all = [&create[..], &policy, &mode, &["whoami", "exit", "3"]].concat();
        let told = rig.first().ctl(&all)?.refused()?;
        let expected = "job failed: 0 of 1 tasks completed, the others are not tried again";
        ensure!(told.contains(expected), "{told}");
        let failed = rig.history("job")?;
        let count = failed.iter().filter(|t| t.state == "Failed").count();
        ensure!(count == 3, "{failed:?}");
        let told = rig.first().ok(&["service", "ps", "--no-trunc", "job"])?;
        ensure!(told.contains("task: non-zero exit (3)"), "{told}");
        rig.create("web", &[])?;
        ensure!(rig.history("job")?.len() == 3);
        ensure!(listed(rig)? == "replicated job 0/1 (0/1 completed)");
        rig.first().ok(&["service", "rm", "job"])?;
        // A job that has not ended yet answers on its port.
        job(rig, "replicated-job", &["-d", "--publish", "80:80"], &[])?;
        wait_listed(rig, "replicated job 1/1 (0/1 completed)")?;
        let address = rig.first().address;
        // It runs as soon as its process does, which may be before that listens.
        eventually("the job to answer", UP_LIMIT, || {
            let reply = rig.client.enter(|| http_get(address, 80, "/"))?;
            ensure!(reply.status == 200);
            Ok(())
        })
    });
}

#[test]
fn a_global_job_runs_once_on_each_node() {
    scenario("jobglob", 2, |rig| {
        let told = job(rig, "global-job", &[], &["whoami", "exit", "0"])?;
        ensure!(told.contains("job progress: 2 out of 2 complete"), "{told}");
        ensure!(told.contains("job complete"), "{told}");
        ensure!(listed(rig)? == "global job 0/0 (2/2 completed)");
        let nodes = |tasks: &[Task]| {
            let mut nodes: Vec<String> = tasks.iter().map(|t| t.node.clone()).collect();
            nodes.sort();
            nodes
        };
        ensure!(nodes(&rig.history("job")?) == ["n1", "n2"]);
        let before = ids(rig)?;
        for availability in ["drain", "active"] {
            let update = ["node", "update", "--availability", availability, "n2"];
            rig.first().ok(&update)?;
        }
        let spread = ["--replicas", "2", "--replicas-max-per-node", "1"];
        rig.create("web", &spread)?;
        rig.wait_running("web", 2)?;
        ensure!(ids(rig)? == before, "{:?}", rig.history("job")?);
        let told = rig.first().ok(&["service", "update", "--force", "job"])?;
        ensure!(told.contains("job complete"), "{told}");
        eventually("the tasks of before to be removed", UP_LIMIT, || {
            let after = ids(rig)?;
            let is_new = after.iter().all(|id| !before.contains(id));
            ensure!(after.len() == 2 && is_new, "{after:?}");
            Ok(())
        })
    });
}

#[test]
fn a_lost_nodes_tasks_run_elsewhere() {
    scenario("jobloss", 2, |rig| {
        let counts = ["-d", "--replicas", "2", "--restart-delay", "100ms"];
        job(
            rig,
            "replicated-job",
            &counts,
            &["whoami", "exit", "0", "1000"],
        )?;
        let before = rig.wait_running("job", 2)?;
        ensure!(before.iter().any(|task| task.node == "n2"), "{before:?}");
        let mut lost = rig.nodes.pop().expect("two nodes");
        rig.cut_power(&mut lost)?;
        eventually("both to run on the first", Duration::from_secs(60), || {
            let running = rig.running("job")?;
            let here = running.iter().filter(|task| task.node == "n1").count();
            ensure!(here == 2, "{running:?}");
            Ok(())
        })?;
        rig.lan.plug(&lost.port, true)?;
        lost.start()?;
        rig.nodes.push(lost);
        rig.wait_ready(2)?;
        rig.wait_running("job", 2)?;
        wait_listed(rig, "replicated job 2/2 (0/2 completed)")?;
        // What is asked to leave its node begins anew on another one.
        let drain = ["node", "update", "--availability", "drain", "n1"];
        rig.first().ok(&drain)?;
        eventually("both to run on the second", UP_LIMIT, || {
            let running = rig.running("job")?;
            let there = running.iter().filter(|task| task.node == "n2").count();
            ensure!(there == 2 && running.len() == 2, "{running:?}");
            Ok(())
        })
    });
}

#[test]
fn what_no_job_can_have_is_refused() {
    scenario("jobbad", 1, |rig| {
        let first = rig.first();
        let create = |flags: &[&str]| {
            let all = [&["service", "create", "-d"], flags, &[image::WHOAMI]].concat();
            first.ctl(&all)
        };
        let max = "max-concurrent can only be used with replicated-job mode";
        let rollout = "update and rollback configuration is not supported for jobs";
        for (flags, text) in [
            (
                &["--mode", "global-job", "--replicas", "2"][..],
                "replicas can only be used with replicated or replicated-job mode",
            ),
            (
                &["--mode", "global-job", "--replicas-max-per-node", "2"],
                "replicas-max-per-node can only be used with replicated or replicated-job mode",
            ),
            (&["--max-concurrent", "2"], max),
            (&["--mode", "global", "--max-concurrent", "2"], max),
            (
                &["--mode", "replicated-job", "--update-parallelism", "2"],
                rollout,
            ),
            (&["--mode", "global-job", "--rollback-delay", "1s"], rollout),
        ] {
            let told = create(flags)?.refused()?;
            ensure!(told.trim_end().ends_with(text), "{told}");
        }
        job(rig, "global-job", &[], &["whoami", "exit", "0"])?;
        let before = first.ok(&["service", "inspect", "job"])?;
        for (line, text) in [
            (
                &["service", "scale", "job=2"][..],
                "scale can only be used with replicated or replicated-job mode",
            ),
            (
                &["service", "update", "--replicas", "2", "job"],
                "replicas can only be used with replicated mode",
            ),
            (
                &["service", "update", "--update-delay", "1s", "job"],
                "rpc error: code = InvalidArgument desc = Jobs may not have an update config",
            ),
            (&["service", "update", "--max-concurrent", "2", "job"], max),
        ] {
            let told = first.ctl(line)?.refused()?;
            ensure!(told.trim_end().ends_with(text), "{told}");
        }
        ensure!(first.ok(&["service", "inspect", "job"])? == before);
        Ok(())
    });
}
