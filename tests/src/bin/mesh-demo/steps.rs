//! The steps of the demo, in order.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use mesh_tests::{Rig, image};

use crate::show::Show;

/// Replicas of the service that is shown.
const REPLICAS: usize = 5;

/// Rounds of requests to all nodes until every replica must have answered.
const ROUNDS: usize = 40;

/// Namespaces, links and agents.
pub(crate) fn world(show: &mut Show, name: &str, nodes: usize) -> Result<Rig> {
    show.step(&format!(
        "{nodes} nodes and an outside client on one LAN, as network namespaces"
    ));
    let rig = Rig::builder(name).nodes(nodes).without_swarm().build()?;
    for node in &rig.nodes {
        let pid = node.pid().unwrap_or_default();
        println!(
            "{}: {} in namespace {}, mesh-agent is process {pid}",
            node.name,
            node.address,
            node.ns.name()
        );
    }
    println!(
        "client: {} in namespace {}",
        rig.client_address(),
        rig.client.name()
    );
    Ok(rig)
}

/// Everything from `swarm init` to `vip ls`.
pub(crate) fn all(show: &mut Show, rig: &mut Rig) -> Result<()> {
    swarm(show, rig)?;
    load(show, rig)?;
    services(show, rig)?;
    look(show, rig)?;
    north_south(show, rig)?;
    east_west(show, rig)
}

fn swarm(show: &mut Show, rig: &Rig) -> Result<()> {
    show.step("n1 starts a swarm, the others join it by token");
    rig.form_swarm(|node, args| show.ctl(node, args))
}

fn load(show: &mut Show, rig: &Rig) -> Result<()> {
    show.step("every node loads the image: our static whoami and Debian's busybox");
    let archive = image::whoami_archive(&rig.dir())?;
    let path = archive.to_string_lossy();
    for node in &rig.nodes {
        show.ctl(node, &["image", "load", "-i", &path])?;
    }
    show.ctl(rig.first(), &["image", "ls"])?;
    Ok(())
}

fn services(show: &mut Show, rig: &Rig) -> Result<()> {
    let first = rig.first();
    show.step("an overlay network and two services on it");
    show.ctl(
        first,
        &["network", "create", "--driver", "overlay", "front"],
    )?;
    let replicas = REPLICAS.to_string();
    show.ctl(
        first,
        &[
            "service",
            "create",
            "--name",
            "web",
            "--replicas",
            &replicas,
            "--publish",
            "80:80",
            "--network",
            "front",
            image::WHOAMI,
        ],
    )?;
    show.ctl(
        first,
        &[
            "service",
            "create",
            "--name",
            "shell",
            "--network",
            "front",
            image::WHOAMI,
            "sleep",
            "1000000",
        ],
    )?;
    Ok(())
}

fn look(show: &mut Show, rig: &Rig) -> Result<()> {
    let first = rig.first();
    show.step("what the manager says of it");
    show.ctl(first, &["node", "ls"])?;
    show.ctl(first, &["service", "ls"])?;
    show.ctl(first, &["service", "ps", "web"])?;
    Ok(())
}

/// From the client to every node's port 80, until every replica has answered.
fn north_south(show: &mut Show, rig: &Rig) -> Result<()> {
    show.step("the client asks every node's port 80, until every replica has answered");
    let own = rig.client_address().to_string();
    let mut replicas: BTreeMap<String, usize> = BTreeMap::new();
    for round in 0..ROUNDS {
        for node in &rig.nodes {
            let url = format!("http://{}/", node.address);
            let curl = ["curl", "-sS", "--max-time", "10", &url];
            let text = if round == 0 {
                show.inside("client", &rig.client, &curl)?
            } else {
                rig.client.sh(&curl)?
            };
            let seen = image::client(&text)?.ip();
            if seen.to_string() != own {
                bail!("a replica saw {seen} as the client, which is {own}");
            }
            *replicas.entry(image::replica(&text)?).or_default() += 1;
        }
        if replicas.len() == REPLICAS {
            let asked: usize = replicas.values().sum();
            println!(
                "{REPLICAS} of {REPLICAS} replicas answered in {asked} requests, and each saw {own}:"
            );
            for (name, count) in &replicas {
                println!("  {name}: {count}");
            }
            return Ok(());
        }
    }
    bail!(
        "only {} of {REPLICAS} replicas answered: {replicas:?}",
        replicas.len()
    )
}

/// From a task of `shell` to the service `web` by name.
fn east_west(show: &mut Show, rig: &Rig) -> Result<()> {
    show.step("inside a task of `shell`: the service by its name");
    let shell = rig.task("shell")?;
    let (node, task) = (rig.node(&shell.node)?, &shell.container);
    show.ctl(node, &["exec", task, "nslookup", "web"])?;
    show.ctl(node, &["exec", task, "ping", "-c", "3", "web"])?;
    show.ctl(node, &["exec", task, "curl", "-sS", "http://web/"])?;
    show.step("the virtual addresses and what is behind them");
    show.ctl(rig.first(), &["vip", "ls"])?;
    Ok(())
}
