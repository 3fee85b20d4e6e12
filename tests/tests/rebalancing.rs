//! Replicas that move to a node which has come back.

use anyhow::{Result, ensure};
use mesh_tests::{
    Rig, eventually, image,
    load::while_asking,
    rig::{UP_LIMIT, test_name},
    scenario_on,
};

/// How many replicas of `web` run on each node.
fn spread(rig: &Rig) -> Result<Vec<usize>> {
    let tasks = rig.running("web")?;
    let on = |name: &String| tasks.iter().filter(|task| task.node == *name).count();
    Ok(rig.nodes.iter().map(|node| on(&node.name)).collect())
}

#[test]
fn replicas_return_to_a_node_and_no_request_fails() {
    scenario_on(Rig::builder(&test_name("rebal")).nodes(3), |rig| {
        let refused = rig.first().ctl(&[
            "service",
            "create",
            "--label",
            "mesh.rebalance=always",
            image::WHOAMI,
        ])?;
        let why = refused.refused()?;
        ensure!(why.contains("mesh.rebalance=always is invalid"), "{why}");
        let label = ["--label", "mesh.rebalance=1"];
        rig.create(
            "web",
            &[&label[..], &["--publish", "80:80", "--replicas", "6"]].concat(),
        )?;
        rig.wait_running("web", 6)?;
        let (first, last) = (rig.first(), &rig.nodes[2]);
        first.ok(&["node", "update", "--availability", "drain", &last.name])?;
        eventually("the drained node to be empty", UP_LIMIT, || {
            let now = spread(rig)?;
            ensure!(now == [3, 3, 0], "{now:?}");
            Ok(())
        })?;
        let nodes: Vec<_> = rig.nodes.iter().map(|node| node.address).collect();
        let ((), asked) = while_asking(&rig.client, &nodes, || {
            first.ok(&["node", "update", "--availability", "active", &last.name])?;
            eventually("the replicas to return", UP_LIMIT, || {
                let now = spread(rig)?;
                ensure!(now == [2, 2, 2], "{now:?}");
                Ok(())
            })
        })?;
        asked.all_answered()
    });
}
