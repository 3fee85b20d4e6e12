//! Clusters of several managers, and what is said of them.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};

use crate::{Node, Rig, eventually, rig::UP_LIMIT};

/// Which packets between managers a [`cut`] takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Those that come.
    In,
    /// Those that go.
    Out,
    /// All.
    Both,
}

/// Drops what managers say to each other between a node and these others, until it is [`mend`]ed.
///
/// # Errors
/// The rules are not taken.
pub fn cut(node: &Node, others: &[Ipv4Addr], way: Way) -> Result<()> {
    let mut rules = String::from("table inet cut {\n");
    for (hook, side, is_cut) in [
        ("input", "saddr", way != Way::Out),
        ("output", "daddr", way != Way::In),
    ] {
        rules += &format!("chain {hook} {{ type filter hook {hook} priority 0;\n");
        for other in others.iter().filter(|_| is_cut) {
            for end in ["sport", "dport"] {
                rules += &format!("ip {side} {other} tcp {end} 2377 drop\n");
            }
        }
        rules += "}\n";
    }
    rules += "}\n";
    node.ns.sh(&["nft", &rules]).map(drop)
}

/// Takes what [`cut`] did away.
///
/// # Errors
/// Nothing was cut.
pub fn mend(node: &Node) -> Result<()> {
    node.ns.sh(&["nft", "delete table inet cut"]).map(drop)
}

/// Makes the cluster with all nodes as managers.
///
/// # Errors
/// One of them is not let in.
pub fn form(rig: &Rig) -> Result<()> {
    form_of(rig, rig.nodes.len())
}

/// The same with so many of the nodes, the first ones; the others are in no cluster.
///
/// # Errors
/// As [`form`].
pub fn form_of(rig: &Rig, count: usize) -> Result<()> {
    let first = rig.first();
    let address = first.address.to_string();
    first.ok(&["swarm", "init", "--advertise-addr", &address])?;
    let token = first.ok(&["swarm", "join-token", "-q", "manager"])?;
    for node in rig.nodes.iter().take(count).skip(1) {
        let own = node.address.to_string();
        let remote = format!("{address}:2377");
        let said = node.ok(&[
            "swarm",
            "join",
            "--token",
            token.trim(),
            "--advertise-addr",
            &own,
            &remote,
        ])?;
        ensure!(said.contains("as a manager"), "{said}");
    }
    rig.wait_ready(count)
}

/// Has nodes join the first one's cluster as workers. It does not wait for them.
///
/// # Errors
/// One of them is not let in.
pub fn join_workers(rig: &Rig, nodes: &[Node]) -> Result<()> {
    let first = rig.first();
    let token = first.ok(&["swarm", "join-token", "-q", "worker"])?;
    let remote = format!("{}:2377", first.address);
    for node in nodes {
        let own = node.address.to_string();
        let join = ["swarm", "join", "--advertise-addr", &own, "--token"];
        node.ok(&[&join[..], &[token.trim(), &remote]].concat())?;
    }
    Ok(())
}

/// Host names with what `node ls` says of them as managers, asked of `by`.
///
/// # Errors
/// It does not answer.
pub fn statuses(by: &Node) -> Result<Vec<(String, String)>> {
    let list = by.ok(&["node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"])?;
    let pair = |line: &str| {
        let (name, status) = line.split_once(' ').unwrap_or((line, ""));
        (name.to_owned(), status.to_owned())
    };
    Ok(list.lines().map(pair).collect())
}

/// Index in `rig.nodes` of the leader, as `by` says.
///
/// # Errors
/// There is none.
pub fn leader(rig: &Rig, by: &Node) -> Result<usize> {
    let all = statuses(by)?;
    let (name, _) = all
        .iter()
        .find(|(_, status)| status == "Leader")
        .with_context(|| format!("no leader in {all:?}"))?;
    let found = rig.nodes.iter().position(|node| node.name == *name);
    found.with_context(|| format!("no node {name}"))
}

/// Waits until `node` is ready, as `by` says.
///
/// # Errors
/// It does not come to that.
pub fn wait_until_ready(by: &Node, node: &Node) -> Result<()> {
    eventually(&format!("{} to be ready", node.name), UP_LIMIT, || {
        let said = by.ok(&[
            "node",
            "inspect",
            "--format",
            "{{.Status.State}}",
            &node.name,
        ])?;
        ensure!(said.trim() == "ready", "{said}");
        Ok(())
    })
}

/// Waits until these nodes, by number, and no others are managers that answer, as `by` says.
///
/// # Errors
/// It does not come to that.
pub fn wait_for(rig: &Rig, by: &Node, managers: &[usize]) -> Result<()> {
    eventually("the managers", UP_LIMIT, || {
        let said = statuses(by)?;
        for (number, node) in rig.nodes.iter().enumerate() {
            let status = said.iter().find(|(name, _)| *name == node.name);
            let status = status.map_or("", |(_, status)| status);
            let is_manager = ["Leader", "Reachable"].contains(&status);
            ensure!(is_manager == managers.contains(&number), "{said:?}");
            ensure!(is_manager || status.is_empty(), "{said:?}");
        }
        Ok(())
    })
}
