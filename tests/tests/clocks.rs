//! Clocks that are wrong by an hour, and certificates that become old.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use mesh_pki::NodeIdentity;
use mesh_tests::{
    Node, Rig, eventually, http_get,
    managers::{self, wait_until_ready},
    rig::{UP_LIMIT, test_name},
    scenario_on,
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn identity(node: &Node) -> Result<NodeIdentity> {
    let dir = node.data_dir().join("swarm/certificates");
    NodeIdentity::load(&dir, None)?.context("the node has no identity")
}

fn wait_for_answers(rig: &Rig) -> Result<()> {
    for node in &rig.nodes {
        eventually("an answer", UP_LIMIT, || {
            let reply = rig.client.enter(|| http_get(node.address, 80, "/"))?;
            ensure!(reply.status == 200, "{}: {}", node.name, reply.status);
            Ok(())
        })?;
    }
    Ok(())
}

/// Two of three managers and one of two workers have clocks that are turned: they join, serve and decide.
fn turned(name: &str, turn: fn(&mut Node)) {
    let builder = Rig::builder(&test_name(name)).nodes(5).without_swarm();
    scenario_on(builder, |rig| {
        for at in [1, 2, 4] {
            rig.nodes[at].stop()?;
            turn(&mut rig.nodes[at]);
            rig.nodes[at].start()?;
        }
        managers::form_of(rig, 3)?;
        managers::join_workers(rig, &rig.nodes[3..])?;
        rig.wait_ready(5)?;
        rig.create("web", &["--publish", "80:80", "--mode", "global"])?;
        rig.wait_running("web", 5)?;
        wait_for_answers(rig)?;
        // Now one decides whose clock is wrong: it lets a node in again, and replaces tasks.
        rig.nodes[0].kill()?;
        let by = &rig.nodes[1];
        let create = [
            "service",
            "create",
            "-d",
            "--name",
            "later",
            "--replicas",
            "4",
            "whoami",
        ];
        eventually("a write", UP_LIMIT, || {
            let made = by.ctl(&create)?;
            // The answer to one that was made may have been lost.
            let is_made = made.code == 0 || made.err.contains("already exists");
            ensure!(is_made, "{}", made.err);
            Ok(())
        })?;
        eventually("the tasks to run", UP_LIMIT, || {
            let states = ["service", "ps", "--format", "{{.CurrentState}}", "later"];
            let states = by.ok(&states)?;
            let running = states.lines().filter(|state| state.starts_with("Running"));
            ensure!(running.count() == 4, "{states}");
            Ok(())
        })?;
        let token = by.ok(&["swarm", "join-token", "-q", "worker"])?;
        let (own, remote) = (
            rig.nodes[3].address.to_string(),
            format!("{}:2377", by.address),
        );
        rig.nodes[3].ok(&["swarm", "leave"])?;
        let join = ["swarm", "join", "--advertise-addr", &own, "--token"];
        rig.nodes[3].ok(&[&join[..], &[token.trim(), &remote]].concat())?;
        eventually("the worker to be let in again", UP_LIMIT, || {
            let list = by.ok(&["node", "ls", "--format", "{{.Hostname}} {{.Status}}"])?;
            let line = format!("{} Ready", rig.nodes[3].name);
            ensure!(list.lines().any(|known| known == line), "{list}");
            Ok(())
        })?;
        rig.nodes[0].start()?;
        wait_until_ready(&rig.nodes[1], &rig.nodes[0])?;
        wait_for_answers(rig)
    });
}

#[test]
fn nodes_an_hour_ahead_join_and_serve() {
    turned("hourahead", |node| node.clock_ahead = HOUR);
}

#[test]
fn nodes_an_hour_behind_join_and_serve() {
    turned("hourback", |node| node.clock_behind = HOUR);
}

#[test]
fn a_certificate_is_renewed_after_three_fifths_of_its_life_and_not_before() {
    let builder = Rig::builder(&test_name("threefifths"))
        .nodes(2)
        .without_swarm();
    scenario_on(builder, |rig| {
        managers::form_of(rig, 1)?;
        managers::join_workers(rig, &rig.nodes[1..])?;
        rig.wait_ready(2)?;
        let mut first = Vec::new();
        for node in &rig.nodes {
            first.push(identity(node)?);
        }
        for (part, name) in [(0.5, "young"), (0.7, "old")] {
            for at in [0, 1] {
                let (begin, end) = first[at].validity()?;
                let now = begin + (end.duration_since(begin)?).mul_f64(part);
                let node = &mut rig.nodes[at];
                node.kill()?;
                node.clock_ahead = now.duration_since(SystemTime::now())?;
                ensure!(
                    node.clock_ahead > 30 * DAY && now < end,
                    "{:?}",
                    node.clock_ahead
                );
                node.start()?;
            }
            wait_until_ready(&rig.nodes[0], &rig.nodes[0])?;
            wait_until_ready(&rig.nodes[0], &rig.nodes[1])?;
            rig.create(name, &["--mode", "global"])?;
            rig.wait_running(name, 2)?;
            for (node, first) in rig.nodes.iter().zip(&first) {
                if part < 0.6 {
                    let same = identity(node)?.key_pem == first.key_pem;
                    ensure!(same, "{}: it is renewed too early", node.name);
                    continue;
                }
                eventually("a renewed certificate", UP_LIMIT, || {
                    let now = identity(node)?;
                    ensure!(
                        now.key_pem != first.key_pem,
                        "{}: it is the same",
                        node.name
                    );
                    ensure!(now.node_id == first.node_id, "{}", now.node_id);
                    ensure!(now.validity()?.1 > first.validity()?.1, "it ends no later");
                    Ok(())
                })?;
            }
        }
        Ok(())
    });
}
