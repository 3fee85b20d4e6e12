//! A worker that does not reach the manager that leads, but all others.

use anyhow::{Result, ensure};
use mesh_tests::{
    Node, Rig, eventually, http_get,
    managers::{self, Way, leader, wait_until_ready},
    rig::{UP_LIMIT, test_name},
    scenario_on,
};

fn answers(rig: &Rig, node: &Node) -> Result<()> {
    let reply = rig.client.enter(|| http_get(node.address, 80, "/"))?;
    ensure!(reply.status == 200, "{}: {}", node.name, reply.status);
    Ok(())
}

/// The state of a node, as another one says.
fn state(by: &Node, of: &str) -> Result<String> {
    let state = ["node", "inspect", "--format", "{{.Status.State}}", of];
    Ok(by.ok(&state)?.trim().to_owned())
}

#[test]
fn a_worker_cut_off_from_the_leader_goes_on_by_the_next_one() {
    let builder = Rig::builder(&test_name("wcut")).nodes(4).without_swarm();
    scenario_on(builder, |rig| {
        managers::form_of(rig, 3)?;
        managers::join_workers(rig, &rig.nodes[3..])?;
        rig.wait_ready(4)?;
        rig.create("web", &["--publish", "80:80", "--mode", "global"])?;
        rig.wait_running("web", 4)?;
        let leads = leader(rig, rig.first())?;
        let by = (leads + 1) % 3;
        let worker = rig.nodes[3].name.clone();
        managers::cut(&rig.nodes[3], &[rig.nodes[leads].address], Way::Both)?;
        // Nodes have one stream, to who leads: this one is down, and works on.
        eventually("the worker to be down", UP_LIMIT, || {
            let state = state(&rig.nodes[by], &worker)?;
            ensure!(state == "down", "{state}");
            Ok(())
        })?;
        for node in &rig.nodes {
            answers(rig, node)?;
        }
        // It is not cut off from the next one, though still from this one.
        rig.nodes[leads].kill()?;
        wait_until_ready(&rig.nodes[by], &rig.nodes[3])?;
        rig.nodes[leads].start()?;
        let next = eventually("another leader", UP_LIMIT, || {
            let next = leader(rig, &rig.nodes[by])?;
            ensure!(next != leads, "it leads again");
            Ok(next)
        })?;
        let create = [
            "service", "create", "-d", "--name", "later", "--mode", "global",
        ];
        rig.nodes[next].ok(&[&create[..], &["whoami"]].concat())?;
        rig.wait_running("later", 4)?;
        managers::mend(&rig.nodes[3])?;
        // Its task was given up with it, and another one has taken its place.
        eventually("a task on each node", UP_LIMIT, || {
            let running = rig.running("web")?;
            let on = |node: &Node| running.iter().filter(|task| task.node == node.name).count();
            let counts: Vec<usize> = rig.nodes.iter().map(on).collect();
            ensure!(counts == [1; 4], "{running:?}");
            Ok(())
        })?;
        for node in &rig.nodes {
            answers(rig, node)?;
        }
        Ok(())
    });
}
