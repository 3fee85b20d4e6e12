//! Ports of one node, and names without a virtual address.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use mesh_tests::{Node, Rig, eventually, http_get, image, rig::UP_LIMIT, scenario};

fn create(rig: &Rig, name: &str, args: &[&str]) -> Result<()> {
    let start = ["service", "create", "-q", "--name", name];
    let all = [&start[..], args, &[image::WHOAMI]].concat();
    rig.first().ok(&all).map(drop)
}

/// Asks a node's port from outside; gives the replica, which has to have seen the client itself.
fn ask(rig: &Rig, node: &Node, port: u16) -> Result<String> {
    let reply = rig.client.enter(|| http_get(node.address, port, "/"))?;
    let seen = reply.field("Client").unwrap_or_default();
    ensure!(
        seen == reply.local.to_string(),
        "{} was seen as {seen}",
        reply.local
    );
    image::replica(&reply.text())
}

#[test]
fn a_host_port_answers_where_a_replica_runs() {
    scenario("hostp", 2, |rig| {
        let port = "published=8081,target=80,mode=host";
        let place = ["--constraint", "node.hostname==n2", "--publish", port];
        create(rig, "direct", &place)?;
        rig.wait_running("direct", 1)?;
        eventually("the port to answer", UP_LIMIT, || {
            ask(rig, &rig.nodes[1], 8081)
        })?;
        ensure!(ask(rig, &rig.nodes[0], 8081).is_err(), "n1 has no replica");
        rig.first().ok(&["service", "scale", "-d", "direct=2"])?;
        eventually("a reason why the second does not run", UP_LIMIT, || {
            let list = rig.first().ok(&["service", "ps", "--no-trunc", "direct"])?;
            ensure!(
                list.contains("host-mode port already in use on 1 node"),
                "{list}"
            );
            Ok(())
        })?;
        rig.wait_running("direct", 1).map(drop)
    });
}

#[test]
fn dnsrr_has_the_tasks_and_no_virtual_address() {
    scenario("dnsrr", 2, |rig| {
        rig.first()
            .ok(&["network", "create", "--driver", "overlay", "front"])?;
        let rr = [
            "--network",
            "front",
            "--endpoint-mode",
            "dnsrr",
            "--replicas",
            "3",
        ];
        create(rig, "rr", &rr)?;
        let task = &rig.wait_running("rr", 3)?[0];
        let lookup = |name| -> Result<BTreeSet<String>> {
            let text = rig.exec(task, &["nslookup", "-type=a", name])?;
            let answers = text
                .lines()
                .filter_map(|line| line.strip_prefix("Address: "));
            Ok(answers.map(|a| a.trim().to_owned()).collect())
        };
        let tasks = lookup("tasks.rr")?;
        ensure!(tasks.len() == 3 && lookup("rr")? == tasks, "{tasks:?}");
        let vips = rig
            .first()
            .ok(&["vip", "ls", "-q", "--filter", "service=rr"])?;
        ensure!(vips.trim().is_empty(), "{vips}");
        let refused = rig.first().ctl(&[
            "service",
            "create",
            "--name",
            "both",
            "--endpoint-mode",
            "dnsrr",
            "--publish",
            "83:80",
            image::WHOAMI,
        ])?;
        let why = refused.refused()?;
        ensure!(why.contains("can't be used with dnsrr mode"), "{why}");
        Ok(())
    });
}
