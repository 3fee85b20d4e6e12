//! The flows to this node's tasks, and what it drops: for its own API, and for managers that ask.

use mesh_api::proto::{DropAnswer, DropCount, FlowAnswer, FlowQuestion, OpenFlow};
use mesh_datapath::Datapath;

use crate::{
    node::{Node, NodeError},
    protocol,
};

/// Flows that an answer to a manager has room for: some megabytes.
pub(crate) const MOST_FLOWS: usize = 20_000;

/// The open flows that are asked for, `most` of them at most.
pub(crate) async fn flows(
    node: &Node,
    question: FlowQuestion,
    most: usize,
) -> Result<FlowAnswer, NodeError> {
    let client = question.client.parse().ok();
    let flows = read(node, Datapath::flows).await?.into_iter();
    let mut flows = flows.filter(|flow| {
        let service = flow.service.as_deref().unwrap_or_default();
        (question.service.is_empty() || question.service == service)
            && (question.client.is_empty() || client == Some(flow.client.ip()))
    });
    Ok(FlowAnswer {
        flows: flows.by_ref().take(most).map(flow).collect(),
        left_out: flows.count() as u64,
    })
}

fn flow(flow: mesh_datapath::Flow) -> OpenFlow {
    OpenFlow {
        service: flow.service.unwrap_or_default(),
        protocol: protocol::name(flow.protocol),
        client: flow.client.to_string(),
        front: flow.front.to_string(),
        backend: flow.backend.to_string(),
        through: flow.asked.map(|node| node.to_string()).unwrap_or_default(),
        idle_seconds: flow.idle_s,
        closed: flow.closed,
    }
}

/// Every reason at every place.
pub(crate) async fn drops(node: &Node) -> Result<DropAnswer, NodeError> {
    let snapshot = read(node, Datapath::snapshot).await?;
    let drops = snapshot.drops.into_iter().map(|line| DropCount {
        reason: line.name.to_owned(),
        place: line.place.to_owned(),
        packets: line.packets,
        bytes: line.bytes,
    });
    Ok(DropAnswer {
        drops: drops.collect(),
    })
}

/// Reads maps, which blocks, away from the asynchronous threads. Nothing while the packet path is not open.
async fn read<T: Default + Send + 'static>(
    node: &Node,
    what: fn(&Datapath) -> Result<T, mesh_datapath::Error>,
) -> Result<T, NodeError> {
    let node = node.clone();
    let read = tokio::task::spawn_blocking(move || node.read_datapath(what)).await;
    Ok(read.map_err(anyhow::Error::from)??.unwrap_or_default())
}
