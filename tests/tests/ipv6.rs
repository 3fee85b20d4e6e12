//! IPv6: published ports from outside and from the nodes themselves, networks with IPv6, the way out.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Node, Rig, Task, client, eventually, http_get, image, lan, outside::Server, rig, scenario,
};

/// Requests on new connections, to the nodes in turn.
const REQUESTS: usize = 60;

/// A node's address on the LAN.
fn at(node: &Node) -> Ipv6Addr {
    lan::v6(node.address)
}

#[test]
fn published_ports_answer_over_ipv6() {
    scenario("six", 3, |rig| {
        // n1 runs no replica.
        let place = ["--replicas", "4", "--constraint", "node.hostname!=n1"];
        let ports = ["--publish", "80:80", "--publish", "80:80/udp"];
        rig.create("web", &[place, ports].concat())?;
        let tasks = rig.wait_running("web", 4)?;
        let replicas = rig.client.enter(|| {
            let mut replicas = BTreeSet::new();
            for number in 0..REQUESTS {
                let node = &rig.nodes[number % rig.nodes.len()];
                let reply = http_get(at(node), 80, "/")?;
                let seen = reply.client();
                seen.with_context(|| format!("request {number} by {}", node.name))?;
                replicas.insert(reply.replica()?);
            }
            Ok(replicas)
        })?;
        ensure!(replicas.len() == 4, "only {replicas:?} answered");
        for node in &rig.nodes {
            let back = rig.client.enter(|| client::udp_echo(at(node), 80, 100))?;
            ensure!(back == 100, "by {}: {back} of 100 came back", node.name);
            // The node's own processes.
            for address in [Ipv6Addr::LOCALHOST, at(node)] {
                let reply = node.ns.enter(|| http_get(address, 80, "/"));
                reply.with_context(|| format!("{address} on {}", node.name))?;
            }
        }
        // A task, by its own node and by one without a replica.
        let task = tasks.first().context("a task")?;
        for node in [rig.node(&task.node)?, rig.first()] {
            let url = format!("http://[{}]/", at(node));
            let answer = rig.exec(task, &["curl", "-sS", "--max-time", "10", &url])?;
            image::replica(&answer).with_context(|| format!("a task asking {}", node.name))?;
        }
        Ok(())
    });
}

/// The IPv6 addresses that a task's name server gives for a name.
fn lookup(rig: &Rig, task: &Task, name: &str) -> Result<BTreeSet<Ipv6Addr>> {
    let text = rig.exec(task, &["nslookup", "-type=aaaa", name])?;
    Ok(text
        .lines()
        .skip_while(|line| !line.starts_with("Name:"))
        .filter_map(|line| line.rsplit([' ', '\t']).next()?.parse().ok())
        .collect())
}

/// `<name>` with one task on each node, which serves, on a network.
fn serve(rig: &Rig, name: &str, network: &str) -> Result<Vec<Task>> {
    let count = rig.nodes.len();
    let args = ["--network", network, "--replicas", &count.to_string()];
    rig.create(name, &args)?;
    let tasks = rig.wait_running(name, count)?;
    let nodes: BTreeSet<&str> = tasks.iter().map(|task| &*task.node).collect();
    ensure!(
        nodes.len() == count,
        "one on each node is wanted: {tasks:?}"
    );
    Ok(tasks)
}

#[test]
fn a_network_with_ipv6() {
    scenario("dual", 2, |rig| {
        let first = rig.first();
        let create = ["network", "create", "--driver", "overlay"];
        first.ok(&[&create[..], &["--ipv6", "--subnet", "fd00:5::/64", "dual"]].concat())?;
        first.ok(&[&create[..], &["plain"]].concat())?;
        let shown = first.ok(&["network", "inspect", "dual"])?;
        ensure!(
            shown.contains("\"EnableIPv6\": true") && shown.contains("fd00:5::/64"),
            "{shown}"
        );
        let tasks = serve(rig, "web", "dual")?;
        serve(rig, "old", "plain")?;
        for task in &tasks {
            let vip = lookup(rig, task, "web")?;
            ensure!(vip.len() == 1, "web has one address: {vip:?}");
            let all = eventually("tasks.web to have both tasks", rig::UP_LIMIT, || {
                let all = lookup(rig, task, "tasks.web")?;
                ensure!(all.len() == 2 && all.is_disjoint(&vip), "{all:?}");
                Ok(all)
            })?;
            for address in all.iter().chain(&vip) {
                ensure!(address.segments()[..4] == [0xfd00, 5, 0, 0], "{address}");
                let ping = ["ping", "-6", "-c", "2", "-W", "5", &address.to_string()];
                let answer = rig.exec(task, &ping)?;
                ensure!(answer.contains(" 0% packet loss"), "{answer}");
            }
            // Every replica behind the virtual address, the asking one included.
            let vip = vip.first().context("an address")?;
            for (kind, lines) in [("tcp", 1), ("connected", 2), ("udp", 1)] {
                let target = format!("[{vip}]:80");
                let said = rig.exec(task, &["whoami", "peer", kind, &target])?;
                let wanted = format!("{target}\n").repeat(lines);
                ensure!(said == wanted, "{kind}: {said}");
            }
            let url = format!("http://[{vip}]/");
            let mut replicas = BTreeSet::new();
            eventually("both replicas to answer", rig::UP_LIMIT, || {
                let answer = rig.exec(task, &["curl", "-sS", "--max-time", "10", &url])?;
                ensure!(
                    matches!(image::client(&answer)?.ip(), IpAddr::V6(_)),
                    "{answer}"
                );
                replicas.insert(image::replica(&answer)?);
                ensure!(replicas.len() == 2, "only {replicas:?}");
                Ok(())
            })?;
        }
        // A name without IPv6 exists: no address, and no error.
        let old = rig.running("old")?;
        let none = lookup(rig, old.first().context("a task")?, "old")?;
        ensure!(none.is_empty(), "{none:?}");
        for (subnet, why) in [
            ("fd00:5::/80", "overlaps"),
            ("fd00:6::/112", "between 48 and 96"),
        ] {
            let made = first.ctl(&[&create[..], &["--ipv6", "--subnet", subnet, "no"]].concat())?;
            ensure!(made.code == 1 && made.err.contains(why), "{}", made.err);
        }
        Ok(())
    });
}

#[test]
fn tasks_reach_the_outside_over_ipv6() {
    scenario("out6", 2, |rig| {
        let _server = Server::start(&rig.client, 8080)?;
        rig.network("front")?;
        let url = format!("http://[{}]:8080/", lan::v6(rig.client_address()));
        for task in serve(rig, "shell", "front")? {
            let answer = rig.exec(&task, &["curl", "-sS", "--max-time", "10", &url])?;
            let (seen, node) = (image::client(&answer)?.ip(), at(rig.node(&task.node)?));
            ensure!(seen == node, "seen as {seen}, the node is {node}");
        }
        Ok(())
    });
}
