//! Inside tasks: names, virtual addresses, the way outside, and the walls between networks.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Rig, Task, eventually, image, lan,
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
