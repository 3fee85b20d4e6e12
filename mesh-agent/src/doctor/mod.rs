//! What is wrong with the cluster's nodes, the tunnels between them and their published ports.
//!
//! `check` is one node's part, for a manager that asks: `node` looks at the node itself, `paths` tries the tunnels,
//! `returns` direct return, `ports` connects to what other nodes publish, `datagrams` sends to it. `questions` says who is asked what, and
//! `diagnosis` makes findings of all nodes' answers; both are pure.

mod datagrams;
mod diagnosis;
mod node;
mod paths;
mod ports;
mod questions;
mod returns;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mesh_api::proto::{CheckAnswer, CheckQuestion, PortToAsk, Protocol, SeenFlow};
use mesh_datapath::{Datapath, Fill};

use crate::node::Node;

pub(crate) use diagnosis::diagnose;
pub(crate) use questions::Plan;

/// How long a node tries the tunnels, direct return and the ports. Nodes begin when the question reaches them, so this is also how long
/// they answer each other.
const PROBING: Duration = Duration::from_millis(2500);

/// After that, how long until a node says which flows it has seen: the others may have begun later.
const SETTLING: Duration = Duration::from_millis(300);

/// How long the manager waits for the nodes' answers.
pub(crate) const PATIENCE: Duration = Duration::from_secs(6);

/// This node's part.
pub(crate) async fn check(node: &Node, question: CheckQuestion) -> CheckAnswer {
    let clock_ahead = now() - question.asked_at;
    let is_tcp = |port: &PortToAsk| port.protocol() == Protocol::Tcp;
    let (connect, send): (Vec<_>, Vec<_>) = question.ports.iter().cloned().partition(is_tcp);
    let own = own_address(node);
    let (mut findings, fill, (mut paths, broken), tried, mut ports, sent) = tokio::join!(
        node::look(node),
        fill(node),
        paths::probe(node, &question),
        returns::probe(node),
        ports::ask(own, &connect),
        datagrams::send(own, &send),
    );
    findings.extend(broken);
    returns::tell(&mut paths, &tried);
    ports.extend(sent);
    tokio::time::sleep(SETTLING).await;
    let (open, flows, fronts) = seen(node, &question.peers).await;
    findings.extend(node::crowded(&fill, open));
    CheckAnswer {
        clock_ahead,
        findings,
        paths,
        ports,
        flows,
        fronts,
    }
}

/// The node's tunnel end point: what the others know it by.
fn own_address(node: &Node) -> Option<IpAddr> {
    node.state().cluster().map(|info| info.data_path)
}

/// Nanoseconds since the epoch, by this node's clock.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as i64)
}

/// How full the tables are that programs write; nothing while the packet path is not open, which `node` says.
async fn fill(node: &Node) -> Vec<Fill> {
    let node = node.clone();
    let read = move || node.read_datapath(Datapath::fill).ok().flatten();
    let fill = tokio::task::spawn_blocking(read).await;
    fill.ok().flatten().unwrap_or_default()
}

/// How many open flows this node's tasks have, those with clients at nodes' own addresses, and the published ports in the
/// tables. None of them while the packet path is not open, which `node` says.
async fn seen(node: &Node, peers: &[String]) -> (usize, Vec<SeenFlow>, Vec<String>) {
    let peers = peers.iter().filter_map(|peer| peer.parse().ok());
    let clients: BTreeSet<IpAddr> = peers.chain(own_address(node)).collect();
    let node = node.clone();
    let read = move || {
        let read = node.read_datapath(|path| Ok((path.flows()?, path.snapshot()?)));
        read.ok().flatten()
    };
    let Ok(Some((flows, snapshot))) = tokio::task::spawn_blocking(read).await else {
        return (0, Vec::new(), Vec::new());
    };
    let open = flows.iter().filter(|flow| !flow.ended).count();
    let flows = flows.into_iter();
    let flows = flows.filter(|flow| flow.vni.is_none() && clients.contains(&flow.client.ip()));
    let fronts = snapshot.services.iter().filter_map(|service| {
        let protocol = crate::protocol::name(service.protocol?);
        Some(format!("{}/{protocol}", service.published?))
    });
    (
        open,
        flows
            .map(|flow| SeenFlow {
                client: flow.client.to_string(),
                front: flow.front.to_string(),
                protocol: crate::protocol::name(flow.protocol),
            })
            .collect(),
        fronts.collect(),
    )
}
