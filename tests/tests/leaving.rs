//! Nodes that leave, or are made to: both sides know at once.

use anyhow::{Result, ensure};
use mesh_tests::{
    Node, Rig, eventually, image,
    load::while_all_ask,
    rig::{UP_LIMIT, test_name},
    scenario,
};

/// What a node says of its membership.
fn membership(node: &Node) -> Result<String> {
    node.ok(&[
        "info",
        "--format",
        "{{.Swarm.LocalNodeState}} {{.Swarm.Error}}",
    ])
}

#[test]
fn a_node_that_leaves_is_down_before_it_is_missed() {
    scenario("leave2", 2, |rig| {
        let create = ["service", "create", "-q", "--name", "web", "--replicas"];
        let rest = ["4", image::WHOAMI];
        rig.first().ok(&[&create[..], &rest].concat())?;
        rig.nodes[1].ok(&["swarm", "leave"])?;
        let format = "{{.Status.State}}: {{.Status.Message}}";
        let said = rig
            .first()
            .ok(&["node", "inspect", "--format", format, "n2"])?;
        ensure!(said.trim() == "down: the node left the swarm", "{said}");
        eventually("other nodes to run its tasks", UP_LIMIT, || {
            let tasks = rig.running("web")?;
            let stayed = tasks.iter().filter(|task| task.node == "n1").count();
            ensure!(stayed == 4, "{tasks:?}");
            Ok(())
        })?;
        ensure!(membership(&rig.nodes[1])?.starts_with("inactive"));
        Ok(())
    });
}

#[test]
fn a_node_that_was_removed_says_so() {
    scenario("removed", 2, |rig| {
        let node = &rig.nodes[1];
        ensure!(membership(node)?.starts_with("active"));
        rig.first().ok(&["node", "rm", "--force", "n2"])?;
        let said = eventually("the node to know", UP_LIMIT, || {
            let said = membership(node)?;
            ensure!(said.starts_with("error"), "{said}");
            Ok(said)
        })?;
        ensure!(said.contains("not part of this swarm"), "{said}");
        ensure!(said.contains("swarm leave"), "{said}");
        node.ok(&["swarm", "leave", "--force"])?;
        ensure!(membership(node)?.starts_with("inactive"));
        Ok(())
    });
}

/// Two clusters on one machine, with the same addresses, networks, services and ports: one ends, the other answers
/// throughout.
#[test]
fn a_cluster_that_ends_leaves_another_alone() {
    scenario("stays", 2, |rig| {
        let shell = rig.web_and_shell()?;
        let other = Rig::builder(&test_name("ends")).nodes(2).build()?;
        other.load_image(&image::whoami_archive(&other.dir())?)?;
        other.web_and_shell()?;
        let ((), asked) = while_all_ask(rig, &shell, || other.finish())?;
        asked.all_answered()?;
        ensure!(asked.inside > 0, "nothing was asked by its name");
        ensure!(rig.running("web")?.len() == 4, "all tasks run");
        Ok(())
    });
}
