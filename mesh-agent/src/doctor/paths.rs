//! Tries the tunnels to the other nodes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use mesh_api::proto::{CheckQuestion, DirectReturn, Finding, Level, PathAnswer};
use mesh_datapath::Probes;

use super::PROBING;
use crate::{
    links::{host::Host, plan::VXLAN_OVERHEAD},
    node::{Node, NodeState},
    reconcile,
};

/// What is known of each peer, and what kept this node from trying.
pub(super) async fn probe(
    node: &Node,
    question: &CheckQuestion,
) -> (Vec<PathAnswer>, Option<Finding>) {
    match try_all(node, question).await {
        Ok(paths) => (paths, None),
        Err(error) => {
            let finding = Finding {
                level: Level::Fault.into(),
                check: "path".into(),
                subject: "all nodes".into(),
                found: format!("the tunnels cannot be tried: {error:#}"),
                remedy: "see the log of the node's agent".into(),
            };
            (Vec::new(), Some(finding))
        }
    }
}

async fn try_all(node: &Node, question: &CheckQuestion) -> anyhow::Result<Vec<PathAnswer>> {
    let NodeState::Active(info) = node.state() else {
        anyhow::bail!("the node is not part of a swarm");
    };
    let IpAddr::V4(own) = info.data_path else {
        anyhow::bail!("its tunnel end point {} is not IPv4", info.data_path);
    };
    let host = Host::connect()?.observe().await?;
    let wanted = reconcile::task_mtu(&host, info.data_path);
    let peers = question.peers.iter();
    let probes = Probes {
        own,
        peers: peers.filter_map(|peer| peer.parse().ok()).collect(),
        port: u16::try_from(question.tunnel_port)?,
        largest: wanted,
        run: question.run,
        time: PROBING,
    };
    let paths = tokio::task::spawn_blocking(move || mesh_datapath::probe(&probes)).await??;
    // After the probes: they are what a router may have answered.
    let narrow = node.read_datapath(mesh_datapath::Datapath::narrow_paths)?;
    let narrow: BTreeMap<Ipv4Addr, u32> = narrow
        .unwrap_or_default()
        .into_iter()
        .map(|path| (path.peer, path.mtu.saturating_sub(VXLAN_OVERHEAD)))
        .collect();
    let answer = |(peer, state): (Ipv4Addr, mesh_datapath::PathState)| PathAnswer {
        peer: peer.to_string(),
        round_trip: state.round_trip.map_or(0, |took| took.as_nanos() as u64),
        largest: state.largest,
        wanted,
        heard: state.heard,
        changed: state.changed,
        bad_checksums: state.bad_checksums,
        narrowed: narrow.get(&peer).copied().unwrap_or(0),
        // See `returns`.
        direct_return: DirectReturn::Untried.into(),
        returned_under: String::new(),
    };
    Ok(paths.into_iter().map(answer).collect())
}
