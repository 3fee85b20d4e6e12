//! Health checks: who gets requests, who is replaced, and what updates make of it.

use std::{
    collections::BTreeSet,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use mesh_image::Healthcheck;
use mesh_tests::{
    Rig, Task, eventually, http_get, image,
    load::{while_all_ask, while_asking},
    rig::UP_LIMIT,
    scenario,
};
use serde_json::{Value, json};

/// A check that the test decides about, run often, and only ever by itself the reason for anything.
const FILE: [&str; 10] = [
    "--health-cmd",
    "test -f /tmp/fine",
    "--health-interval",
    "200ms",
    "--health-retries",
    "2",
    "--health-start-period",
    "1h",
    "--health-start-interval",
    "200ms",
];

/// A check that always has the same result.
fn always(command: &'static str) -> [&'static str; 6] {
    let interval = ["--health-interval", "100ms", "--health-retries", "1"];
    let [a, b, c, d] = interval;
    ["--health-cmd", command, a, b, c, d]
}

/// The tasks of a service in a state.
fn in_state(rig: &Rig, service: &str, state: &str) -> Result<Vec<Task>> {
    let mut tasks = rig.history(service)?;
    tasks.retain(|task| task.state == state);
    tasks.sort();
    Ok(tasks)
}

/// Waits until so many tasks of a service are in a state.
fn wait_state(rig: &Rig, service: &str, state: &str, count: usize) -> Result<Vec<Task>> {
    eventually(&format!("{count} tasks {state}"), UP_LIMIT, || {
        let tasks = in_state(rig, service, state)?;
        ensure!(tasks.len() == count, "{:?}", rig.history(service)?);
        Ok(tasks)
    })
}

/// Waits until a command can be run in a task whose check has not succeeded, and has it succeed.
fn cure(rig: &Rig, task: &Task) -> Result<()> {
    eventually("the container to run", UP_LIMIT, || {
        rig.exec(task, &["touch", "/tmp/fine"]).map(drop)
    })
}

/// How many tasks of a service get new connections, on each of its networks.
fn active(rig: &Rig, service: &str) -> Result<Vec<String>> {
    let format = ["vip", "ls", "--format", "{{.Service}} {{.Active}}"];
    let list = rig.first().ok(&format)?;
    let own = list.lines().filter_map(|line| line.split_once(' '));
    Ok(own
        .filter(|(name, _)| *name == service)
        .map(|(_, count)| count.to_owned())
        .collect())
}

/// What was told of a task's health, by the manager.
fn health_events(rig: &Rig, task: &Task) -> Result<Vec<String>> {
    let of_task = format!("com.docker.swarm.task.id={}", task.id);
    let filters = json!({"type": ["container"], "event": ["health_status"], "label": [of_task]});
    let filters: String = filters
        .to_string()
        .bytes()
        .map(|byte| format!("%{byte:02X}"))
        .collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let path = format!("/events?since=1&until={}&filters={filters}", now + 1);
    let response = rig.first().engine().get(&path)?;
    let text = String::from_utf8(response.body)?;
    let events = text.lines().filter(|line| line.starts_with('{'));
    events
        .map(|line| {
            let event: Value = serde_json::from_str(line)?;
            Ok(event["Action"].as_str().unwrap_or_default().to_owned())
        })
        .collect()
}

/// Waits until exactly so many replicas answer on port 80 of the nodes: they learn of a running task a moment after the
/// managers.
fn wait_answering(rig: &Rig, count: usize) -> Result<()> {
    eventually(&format!("{count} replicas to answer"), UP_LIMIT, || {
        let replicas: BTreeSet<String> = rig.client.enter(|| {
            let asked = (0..20).map(|number| {
                let node = &rig.nodes[number % rig.nodes.len()];
                http_get(node.address, 80, "/")?.replica()
            });
            asked.collect()
        })?;
        ensure!(replicas.len() == count, "{replicas:?}");
        Ok(())
    })
}

#[test]
fn who_is_not_healthy_gets_no_requests_and_is_replaced() {
    scenario("health", 2, |rig| {
        let create = [
            "-d",
            "--publish",
            "80:80",
            "--replicas",
            "2",
            "--restart-delay",
            "0s",
        ];
        rig.create("web", &[&create[..], &FILE].concat())?;
        let starting = wait_state(rig, "web", "Starting", 2)?;
        ensure!(active(rig, "web")? == ["0"], "{:?}", active(rig, "web")?);
        cure(rig, &starting[0])?;
        let [first] = &rig.wait_running("web", 1)?[..] else {
            anyhow::bail!("one runs");
        };
        ensure!(first.id == starting[0].id);
        wait_answering(rig, 1)?;
        ensure!(in_state(rig, "web", "Starting")?.len() == 1);
        cure(rig, &starting[1])?;
        let both = rig.wait_running("web", 2)?;
        wait_answering(rig, 2)?;
        let healthy = "health_status: healthy".to_owned();
        let events = health_events(rig, &both[1])?;
        ensure!(events == [healthy], "{events:?}");

        // Another agent goes on where this one was, and takes nothing back.
        let pid = rig.task_pid(&both[1])?;
        let node = rig.nodes.iter().position(|node| node.name == both[1].node);
        let node = node.context("the node of the task")?;
        rig.nodes[node].kill()?;
        rig.nodes[node].start()?;
        rig.wait_ready(2)?;
        let after = rig.wait_running("web", 2)?;
        ensure!(after == both && rig.task_pid(&both[1])? == pid, "{after:?}");

        // That agent notices that the task does not do well; nobody else does.
        let shown = ["service", "ps", "--no-trunc", "web"];
        let (replacement, asked) = while_asking(
            &rig.client,
            &rig.nodes
                .iter()
                .map(|node| node.address)
                .collect::<Vec<_>>(),
            || {
                rig.exec(&both[1], &["rm", "/tmp/fine"])?;
                wait_state(rig, "web", "Failed", 1)?;
                let told = rig.first().ok(&shown)?;
                ensure!(told.contains("dockerexec: unhealthy container"), "{told}");
                let [replacement] = &wait_state(rig, "web", "Starting", 1)?[..] else {
                    anyhow::bail!("one replaces it");
                };
                ensure!(replacement.name == both[1].name && replacement.id != both[1].id);
                Ok(replacement.clone())
            },
        )?;
        asked.all_answered()?;
        let events = health_events(rig, &both[1])?;
        let last = events.last().map(String::as_str);
        ensure!(last == Some("health_status: unhealthy"), "{events:?}");
        cure(rig, &replacement)?;
        rig.wait_running("web", 2).map(drop)
    });
}

#[test]
fn a_task_that_never_gets_healthy_is_ended() {
    scenario("sick", 1, |rig| {
        let policy = ["-d", "--restart-condition", "none"];
        rig.create("web", &[&policy[..], &always("echo no; exit 1")].concat())?;
        wait_state(rig, "web", "Failed", 1)?;
        // A run that takes too long has failed, and is ended with all that it has started.
        let hangs = "sleep 100000 & sleep 100000";
        let limit = ["--health-timeout", "100ms", "--health-retries", "3"];
        let args = ["--health-cmd", hangs, "--health-interval", "100ms"];
        rig.create("slow", &[&policy[..], &args, &limit].concat())?;
        wait_state(rig, "slow", "Failed", 1)?;
        eventually("nothing of it to run", UP_LIMIT, || {
            let left = rig.shims();
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
    });
}

#[test]
fn an_images_own_check_is_followed_changed_and_switched_off() {
    scenario("image", 1, |rig| {
        let archive = image::changed_archive(&rig.dir(), "sick:latest", |config| {
            config.healthcheck = Some(Healthcheck {
                test: vec!["CMD".to_owned(), "false".to_owned()],
                interval: 100_000_000,
                retries: 1,
                ..Healthcheck::default()
            });
        })?;
        rig.load_image(&archive)?;
        let node = rig.first();
        let create = |name: &str, args: &[&str]| {
            let begin = ["service", "create", "-q", "--name", name];
            let policy = ["--restart-condition", "none"];
            node.ok(&[&begin[..], &policy, args, &["sick:latest"]].concat())
        };
        create("own", &["-d"])?;
        wait_state(rig, "own", "Failed", 1)?;
        create("off", &["--no-healthcheck"])?;
        create("other", &["--health-cmd", "true"])?;
        rig.wait_running("off", 1)?;
        rig.wait_running("other", 1)?;
        let test = "{{json .Spec.TaskTemplate.ContainerSpec.Healthcheck}}";
        let shown = |name| node.ok(&["service", "inspect", "-f", test, name]);
        ensure!(
            shown("off")?.trim() == r#"{"Test":["NONE"]}"#,
            "{}",
            shown("off")?
        );
        ensure!(shown("other")?.trim() == r#"{"Test":["CMD-SHELL","true"]}"#);
        let update = [
            "service",
            "update",
            "-d",
            "--health-interval",
            "0.5ms",
            "other",
        ];
        let refused = node.ctl(&update)?.refused()?;
        let text = "ContainerSpec: Interval in HealthConfig cannot be less than 1ms";
        ensure!(refused.contains(text), "{refused}");
        let both = [
            "service",
            "update",
            "--no-healthcheck",
            "--health-retries",
            "1",
            "other",
        ];
        let refused = node.ctl(&both)?.refused()?;
        let text = "--no-healthcheck conflicts with --health-* options";
        ensure!(refused.contains(text), "{refused}");
        Ok(())
    });
}

/// The state of a service's update.
fn update_state(rig: &Rig) -> Result<String> {
    let format = ["service", "inspect", "-f", "{{.UpdateStatus.State}}", "web"];
    Ok(rig.first().ok(&format)?.trim().to_owned())
}

#[test]
fn updates_wait_for_health_and_fail_no_request() {
    scenario("gate", 2, |rig| {
        rig.network("front")?;
        let order = ["--update-order", "start-first", "--update-monitor", "1s"];
        let web = [
            "--network",
            "front",
            "--replicas",
            "3",
            "--publish",
            "80:80",
        ];
        rig.create("web", &[&web[..], &order, &always("true")].concat())?;
        rig.sleepers("shell", &["--network", "front"])?;
        let shell = rig.task("shell")?;
        let before = rig.wait_running("web", 3)?;
        let update = |args: &[&str]| {
            let begin = ["service", "update", "-q", "-d"];
            rig.first().ok(&[&begin[..], args, &["web"]].concat())
        };
        let wait = |state: &str| {
            eventually(&format!("the update to be {state}"), UP_LIMIT, || {
                let now = update_state(rig)?;
                ensure!(now == state, "{now}");
                Ok(())
            })
        };
        let ((), asked) = while_all_ask(rig, &shell, || {
            update(&["--health-cmd", "false"])?;
            wait("paused")?;
            ensure!(rig.wait_running("web", 3)? == before, "the old ones serve");
            update(&["--health-cmd", "true"])?;
            wait("completed")?;
            update(&[
                "--health-cmd",
                "false",
                "--update-failure-action",
                "rollback",
            ])?;
            wait("rollback_completed")?;
            rig.replace_all("web")
        })?;
        asked.all_answered()
    });
}
