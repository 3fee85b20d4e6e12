//! Inside tasks: names, virtual addresses, the way outside, and the walls between networks.

use std::{collections::BTreeSet, net::Ipv4Addr};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Rig, Task, eventually, http_get, image, lan,
    outside::{Names, OUTSIDE_ADDRESS, OUTSIDE_NAME, Server},
    rig, scenario, scenario_on,
};

/// `shell` on every node and `web`, both on the network `front`.
fn services(rig: &Rig, replicas: &str) -> Result<Vec<Task>> {
    rig.network("front")?;
    let web = ["--network", "front", "--replicas", replicas];
    rig.create("web", &web)?;
    shells(rig, "front", "shell")
}

/// One task a node that sleeps.
fn shells(rig: &Rig, network: &str, name: &str) -> Result<Vec<Task>> {
    let count = rig.nodes.len().to_string();
    rig.sleepers(name, &["--network", network, "--replicas", &count])?;
    let tasks = rig.wait_running(name, rig.nodes.len())?;
    let nodes: BTreeSet<&str> = tasks.iter().map(|task| &*task.node).collect();
    ensure!(
        nodes.len() == rig.nodes.len(),
        "one on each node is wanted: {tasks:?}"
    );
    Ok(tasks)
}

/// The addresses that a task's name server gives for a name.
fn lookup(rig: &Rig, task: &Task, name: &str) -> Result<BTreeSet<String>> {
    let text = rig.exec(task, &["nslookup", "-type=a", name])?;
    Ok(addresses(&text))
}

/// The addresses of `nslookup`'s answer, without the server's own.
fn addresses(text: &str) -> BTreeSet<String> {
    text.lines()
        .skip_while(|line| !line.starts_with("Name:"))
        .filter_map(|line| line.strip_prefix("Address"))
        .filter_map(|line| line.rsplit([' ', '\t']).next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn names_resolve_and_answer_inside_tasks_of_every_node() {
    let upstream = lan::address(200).to_string();
    let builder = Rig::builder(&rig::test_name("dns"))
        .agent_arg("--dns")
        .agent_arg(&upstream);
    scenario_on(builder, |rig| {
        let _names = Names::start(&rig.client)?;
        for task in services(rig, "4")? {
            inside(rig, &task).with_context(|| format!("in {} on {}", task.name, task.node))?;
        }
        Ok(())
    });
}

fn inside(rig: &Rig, task: &Task) -> Result<()> {
    let vip = lookup(rig, task, "web")?;
    let told = [
        "vip",
        "ls",
        "--format",
        "{{.Service}} {{.Network}} {{.Address}}",
    ];
    let told = rig.first().ok(&told)?;
    let wanted = told
        .lines()
        .find_map(|line| line.strip_prefix("web front "));
    ensure!(vip.iter().map(String::as_str).eq(wanted), "{vip:?}: {told}");
    eventually("tasks.web to have all tasks", rig::UP_LIMIT, || {
        let all = lookup(rig, task, "tasks.web")?;
        ensure!(all.len() == 4 && all.is_disjoint(&vip), "{all:?}");
        Ok(())
    })?;
    let lookup_unknown = ["exec", &task.container, "nslookup", "no-such-service"];
    let unknown = rig.node(&task.node)?.ctl(&lookup_unknown)?;
    ensure!(
        unknown.code == 1 && unknown.out.contains("NXDOMAIN"),
        "no-such-service should be unknown: {unknown:?}"
    );
    let outside = lookup(rig, task, OUTSIDE_NAME)?;
    ensure!(
        outside.contains(&OUTSIDE_ADDRESS.to_string()),
        "{outside:?}"
    );
    let ping = rig.exec(task, &["ping", "-c", "3", "web"])?;
    ensure!(ping.contains(" 0% packet loss"), "{ping}");
    let mut replicas = BTreeSet::new();
    eventually("every replica to answer", rig::UP_LIMIT, || {
        replicas.insert(image::replica(
            &rig.exec(task, &["curl", "-sS", "http://web/"])?,
        )?);
        ensure!(replicas.len() == 4, "only {replicas:?}");
        Ok(())
    })
}

#[test]
fn a_service_keeps_its_address_while_it_is_scaled() {
    scenario("vip", 2, |rig| {
        let tasks = services(rig, "5")?;
        let vip = lookup(rig, &tasks[0], "web")?;
        for count in [1, 8] {
            rig.first()
                .ok(&["service", "scale", &format!("web={count}")])?;
            rig.wait_running("web", count)?;
            for task in &tasks {
                ensure!(
                    lookup(rig, task, "web")? == vip,
                    "the address changed at {count}"
                );
                eventually("tasks.web to follow", rig::UP_LIMIT, || {
                    let all = lookup(rig, task, "tasks.web")?;
                    ensure!(all.len() == count, "{all:?}");
                    Ok(())
                })?;
                image::replica(&rig.exec(task, &["curl", "-sS", "http://web/"])?)?;
            }
        }
        Ok(())
    });
}

#[test]
fn tasks_reach_the_outside_under_their_nodes_address() {
    scenario("out", 2, |rig| {
        let _server = Server::start(&rig.client, 8080)?;
        let url = format!("http://{}:8080/", rig.client_address());
        for task in services(rig, "1")? {
            let answer = rig.exec(&task, &["curl", "-sS", "--max-time", "10", &url])?;
            let seen = image::client(&answer)?.ip();
            let node = rig.node(&task.node)?.address;
            ensure!(seen == node, "seen as {seen}, the node is {node}");
        }
        Ok(())
    });
}

#[test]
fn node_local_addresses_take_no_neighbour_away() {
    scenario("pool", 1, |rig| {
        let _server = Server::start(&rig.client, 8080)?;
        let outside = format!("http://{}:8080/", rig.client_address());
        rig.sleepers("before", &[])?;
        let before = rig.task("before")?;
        ensure!(local(rig, &before)? == "172.31.0.2");
        // The next one of that pool is the neighbour's from now on.
        let neighbour = Ipv4Addr::new(172, 31, 0, 3);
        let add = |subnet| ["ip", "address", "add", subnet, "dev", lan::UPLINK];
        rig.client.sh(&add("172.31.0.3/24"))?;
        rig.nodes[0].ns.sh(&add("172.31.0.1/24"))?;

        let node = &mut rig.nodes[0];
        node.kill()?;
        node.args.push("--local-pool=172.31.0.0/16".to_owned());
        let refused = node.start().expect_err("the pool is the neighbour's");
        let cause = format!(
            "--local-pool 172.31.0.0/16 overlaps the address 172.31.0.1/24 of {}",
            lan::UPLINK
        );
        ensure!(format!("{refused:#}").contains(&cause), "{refused:#}");
        node.wait()?;
        node.args.pop();
        node.start()?;
        rig.wait_ready(1)?;
        rig.sleepers("after", &[])?;
        let after = rig.task("after")?;
        ensure!(local(rig, &after)? == "172.30.0.2");
        ensure!(local(rig, &before)? == "172.31.0.2", "it keeps its own");
        let ask = || http_get(neighbour, 8080, "/");
        ensure!(rig.nodes[0].ns.enter(ask)?.status == 200);
        for task in [before, after] {
            let answer = rig.exec(&task, &["curl", "-sS", "--max-time", "10", &outside])?;
            let seen = image::client(&answer)?.ip();
            ensure!(seen == rig.nodes[0].address, "seen as {seen}");
        }
        Ok(())
    });
}

/// The node-local address of a task that publishes nothing.
fn local(rig: &Rig, task: &Task) -> Result<String> {
    let told = rig.exec(task, &["ip", "-4", "-o", "address"])?;
    let addresses = told.split_whitespace();
    let mut local = addresses.filter_map(|word| word.strip_suffix("/32"));
    let local = local.next_back().with_context(|| told.clone())?;
    Ok(local.to_owned())
}

#[test]
fn networks_do_not_meet() {
    scenario("iso", 2, |rig| {
        for (network, service) in [("red", "redsh"), ("blue", "bluesh")] {
            rig.network(network)?;
            shells(rig, network, service)?;
        }
        let red = rig.running("redsh")?;
        let other = rig.exec(&red[0], &["nslookup", "-type=a", "bluesh"]);
        ensure!(
            other.is_err(),
            "a name of another network resolves: {other:?}"
        );
        let blue = rig.running("bluesh")?;
        let mut own = lookup(rig, &blue[0], "tasks.bluesh")?;
        own.extend(lookup(rig, &blue[0], "bluesh")?);
        let mut reds = lookup(rig, &red[0], "tasks.redsh")?;
        reds.extend(lookup(rig, &red[0], "redsh")?);
        for address in &own {
            rig.exec(&blue[0], &["ping", "-c", "1", "-W", "10", address])?;
            let ping = rig.exec(&red[0], &["ping", "-c", "1", "-W", "1", address]);
            ensure!(ping.is_err(), "{address} of another network answers");
        }
        for address in &reds {
            rig.exec(&red[0], &["ping", "-c", "1", "-W", "10", address])?;
            let ping = rig.exec(&blue[0], &["ping", "-c", "1", "-W", "1", address]);
            ensure!(ping.is_err(), "{address} of another network answers");
        }
        Ok(())
    });
}
