//! Managers that are made, unmade, leave and are lost, and what is refused so that the rest can go on.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_tests::{
    Node, Rig, Task, eventually, http_get,
    managers::{self, leader, wait_for},
    rig::{UP_LIMIT, test_name},
    scenario, scenario_on,
};

/// A change that has to be taken.
fn write(by: &Node, name: &str) -> Result<()> {
    let create = ["service", "create", "-d", "--name", name, "--replicas", "0"];
    by.ok(&[&create[..], &["whoami"]].concat()).map(drop)
}

/// A command that has to fail with these words.
fn refused(by: &Node, args: &[&str], words: &str) -> Result<()> {
    let answer = by.ctl(args)?;
    ensure!(answer.code != 0, "{args:?}: {}", answer.out);
    ensure!(answer.err.contains(words), "{args:?}: {}", answer.err);
    Ok(())
}

fn ids(tasks: &[Task]) -> Vec<String> {
    let mut ids: Vec<String> = tasks.iter().map(|task| task.id.clone()).collect();
    ids.sort();
    ids
}

#[test]
fn promoted_and_demoted_the_leader_too() {
    scenario("roles", 3, |rig| {
        rig.create("web", &["--publish", "80:80", "--replicas", "3"])?;
        rig.wait_running("web", 3)?;
        let before = ids(&rig.running("web")?);
        let [first, second, third] = &rig.nodes[..] else {
            anyhow::bail!("three nodes");
        };
        refused(
            first,
            &["node", "demote", &first.name],
            "attempting to demote the last manager of the swarm",
        )?;
        let promoted = first.ctl(&["node", "promote", &second.name, &third.name])?;
        ensure!(promoted.code == 0, "{}", promoted.err);
        let said = format!("Node {} promoted to a manager in the swarm.", second.name);
        ensure!(promoted.out.contains(&said), "{}", promoted.out);
        for node in &rig.nodes {
            eventually("it answers as a manager", UP_LIMIT, || {
                wait_for(rig, node, &[0, 1, 2])
            })?;
        }
        let again = first.ok(&["node", "promote", &second.name])?;
        ensure!(again.contains("is already a manager."), "{again}");
        write(second, "by-second")?;
        refused(
            first,
            &["node", "rm", "--force", &second.name],
            "It must be demoted to worker before removal",
        )?;

        // The leader itself, asked of another one.
        let demoted = third.ctl(&["node", "demote", &first.name])?;
        ensure!(demoted.code == 0, "{}", demoted.err);
        let said = format!("Manager {} demoted in the swarm.", first.name);
        ensure!(demoted.out.contains(&said), "{}", demoted.out);
        wait_for(rig, second, &[1, 2])?;
        let log = first.data_dir().join("swarm/manager");
        eventually("it knows that it is a worker", UP_LIMIT, || {
            ensure!(!log.exists(), "it has its log still");
            refused(first, &["node", "ls"], "Worker nodes can't be used")
        })?;
        write(second, "without-first")?;
        let warned = second.ctl(&["node", "demote", &first.name])?;
        ensure!(
            warned.out.contains("is already a worker."),
            "{}",
            warned.out
        );
        ensure!(
            warned.err.contains("two-manager configuration"),
            "{}",
            warned.err
        );

        let rest = &rig.nodes[leader(rig, second)?];
        let other = if rest.name == second.name {
            third
        } else {
            second
        };
        other.ok(&["node", "demote", &rest.name])?;
        let left = if rest.name == second.name { 2 } else { 1 };
        wait_for(rig, other, &[left])?;
        refused(
            other,
            &["node", "demote", &other.name],
            "attempting to demote the last manager of the swarm",
        )?;
        // One that was a manager before has nothing left of it.
        other.ok(&["node", "promote", &first.name])?;
        wait_for(rig, other, &[0, left])?;
        eventually("it answers as a manager", UP_LIMIT, || {
            write(first, "first-again")
        })?;
        let after = ids(&rig.running("web")?);
        ensure!(after == before, "before {before:?}, after {after:?}");
        Ok(())
    });
}

#[test]
fn a_manager_that_leaves_is_missed_by_nobody() {
    let builder = Rig::builder(&test_name("mleave")).nodes(3).without_swarm();
    scenario_on(builder, |rig| {
        managers::form(rig)?;
        wait_for(rig, &rig.nodes[0], &[0, 1, 2])?;
        let leaving = leader(rig, &rig.nodes[0])?;
        let (node, by) = (&rig.nodes[leaving], &rig.nodes[(leaving + 1) % 3]);
        eventually("who is there to be known", UP_LIMIT, || {
            refused(
                node,
                &["swarm", "leave"],
                "participating as a manager. The only way to restore",
            )
        })?;
        node.ok(&["swarm", "leave", "--force"])?;
        let others: Vec<usize> = (0..3).filter(|n| *n != leaving).collect();
        eventually("the others to go on", UP_LIMIT, || {
            wait_for(rig, by, &others)
        })?;
        write(by, "without-it")?;
        let down = [
            "node",
            "inspect",
            "--format",
            "{{.Status.State}}",
            &node.name,
        ];
        eventually("it is down", UP_LIMIT, || {
            let said = by.ok(&down)?;
            ensure!(said.trim() == "down", "{said}");
            Ok(())
        })?;
        by.ok(&["node", "rm", &node.name])?;
        eventually("who is there to be known", UP_LIMIT, || {
            refused(by, &["swarm", "leave"], "leaves 1 managers out of 2.")
        })?;

        // Back again, it is another one.
        let token = by.ok(&["swarm", "join-token", "-q", "manager"])?;
        let (own, remote) = (node.address.to_string(), format!("{}:2377", by.address));
        let join = ["swarm", "join", "--advertise-addr", &own, "--token"];
        node.ok(&[&join[..], &[token.trim(), &remote]].concat())?;
        wait_for(rig, by, &[0, 1, 2])
    });
}

#[test]
fn without_a_majority_the_state_is_read_only() {
    let builder = Rig::builder(&test_name("readonly"))
        .nodes(3)
        .without_swarm();
    scenario_on(builder, |rig| {
        managers::form(rig)?;
        rig.create("web", &["--publish", "80:80", "--replicas", "3"])?;
        rig.wait_running("web", 3)?;
        let before = ids(&rig.running("web")?);
        wait_for(rig, &rig.nodes[0], &[0, 1, 2])?;
        rig.nodes[2].kill()?;
        eventually("the third to be missed", UP_LIMIT, || {
            let said = managers::statuses(&rig.nodes[0])?;
            ensure!(said.iter().any(|(_, s)| s == "Unreachable"), "{said:?}");
            Ok(())
        })?;
        // Without the second, nobody could change anything.
        refused(
            &rig.nodes[0],
            &["node", "demote", &rig.nodes[1].name],
            "this would result in a loss of quorum",
        )?;
        eventually("who is there to be known", UP_LIMIT, || {
            refused(
                &rig.nodes[0],
                &["swarm", "leave"],
                "leaves 1 managers out of 3. Without a Raft quorum your swarm will be inaccessible.",
            )
        })?;
        rig.nodes[1].kill()?;
        let alone = &rig.nodes[0];
        let create = [
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
        eventually("changes are refused", UP_LIMIT, || {
            refused(
                alone,
                &create,
                "The swarm does not have a leader. It's possible that too few managers are online.",
            )
        })?;
        let known = alone.ctl(&["service", "ls", "--format", "{{.Name}}"])?;
        ensure!(
            known.code == 0 && known.out.trim() == "web",
            "{}",
            known.err
        );
        ensure!(
            known.err.contains("does not have a leader"),
            "{}",
            known.err
        );
        refused(
            alone,
            &["swarm", "leave"],
            "Doing so may lose the consensus",
        )?;
        ensure!(begun.elapsed() < Duration::from_secs(60), "it hung");
        for node in &rig.nodes {
            let asked = node.address;
            let reply = rig.client.enter(|| http_get(asked, 80, "/"))?;
            ensure!(reply.status == 200, "{}: {}", node.name, reply.status);
        }
        rig.nodes[1].start()?;
        eventually("changes are taken again", UP_LIMIT, || {
            write(&rig.nodes[0], "after")
        })?;
        rig.nodes[2].start()?;
        wait_for(rig, &rig.nodes[0], &[0, 1, 2])?;
        rig.wait_ready(3)?;
        let after = ids(&rig.running("web")?);
        ensure!(after == before, "before {before:?}, after {after:?}");
        Ok(())
    });
}
