//! The flows of this node's tasks, and what it drops: for its own API, and for managers that ask.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use mesh_api::proto::{DropAnswer, DropCount, FlowAnswer, FlowQuestion, OpenFlow};
use mesh_datapath::{Datapath, Flow, OpenSocket, Sockets};

use crate::{
    links::netns,
    node::{Node, NodeError},
    protocol,
};

/// Flows that an answer to a manager has room for: some megabytes.
pub(crate) const MOST_FLOWS: usize = 20_000;

/// The flows that are asked for, `most` of them at most: those that the packet path knows, then those that were settled at
/// the sockets of this node's tasks.
pub(crate) async fn flows(
    node: &Node,
    question: FlowQuestion,
    most: usize,
) -> Result<FlowAnswer, NodeError> {
    let client = question.client.parse().ok();
    let wanted = |service: &str, address: Option<IpAddr>, ended: bool| {
        (question.service.is_empty() || question.service == service)
            && (question.client.is_empty() || client == address)
            && (question.all || !ended)
    };
    let mut known = read(node, Datapath::flows).await?;
    known.retain(|flow| {
        let service = flow.service.as_deref().unwrap_or_default();
        wanted(service, Some(flow.client.ip()), flow.ended)
    });
    let mut settled = settled(node).await?;
    settled.retain(|flow| wanted(&flow.service, ip(&flow.client), flow.ended));
    let all = known.len() + settled.len();
    // Most are many, and only those that are told are made into text.
    let told = known.into_iter().map(flow).chain(settled).take(most);
    let flows: Vec<OpenFlow> = told.collect();
    Ok(FlowAnswer {
        left_out: (all - flows.len()) as u64,
        flows,
    })
}

fn ip(text: &str) -> Option<IpAddr> {
    let address: SocketAddr = text.parse().ok()?;
    Some(address.ip())
}

/// The flows of sockets of this node's tasks that were led to a task in the place of a virtual address. The packet path does
/// not know them; the kernel says them of each task's network namespace.
async fn settled(node: &Node) -> Result<Vec<OpenFlow>, NodeError> {
    let reader = node.clone();
    let sockets = move || reader.read_datapath(Datapath::sockets);
    let sockets = tokio::task::spawn_blocking(sockets).await;
    let Some(sockets) = sockets.map_err(anyhow::Error::from)?? else {
        return Ok(Vec::new());
    };
    let open = open_sockets(node, sockets).await;
    let names = read(node, move |datapath| {
        let names = open.iter().map(|socket| {
            let service = datapath.service_of(socket.vni, socket.vip);
            service.unwrap_or_default().to_owned()
        });
        let names: Vec<String> = names.collect();
        Ok(open.into_iter().zip(names).collect::<Vec<_>>())
    });
    let flows = names.await?.into_iter().map(|(socket, service)| OpenFlow {
        service,
        protocol: protocol::name(socket.protocol),
        client: socket.local.to_string(),
        front: SocketAddr::new(socket.vip, socket.port).to_string(),
        backend: SocketAddr::new(socket.backend, socket.port).to_string(),
        through: String::new(),
        idle_seconds: socket.idle_s,
        closed: socket.fin_sent,
        // As in the packet path: what the client has closed does not count as open.
        ended: socket.fin_sent,
    });
    Ok(flows.collect())
}

/// The open sockets of all tasks of this node that talk to virtual addresses.
pub(crate) async fn open_sockets(node: &Node, sockets: Sockets) -> Vec<OpenSocket> {
    let sockets = Arc::new(sockets);
    let mut all = Vec::new();
    for task in node.tasks().iter() {
        let path = node.config().netns_path(&task.task.id);
        if !netns::exists(&path) {
            continue;
        }
        let sockets = Arc::clone(&sockets);
        let list = move || sockets.list().map_err(io::Error::other);
        match netns::within_async(&path, list).await {
            Ok(open) => all.extend(open),
            // The task may have ended meanwhile.
            Err(error) => {
                tracing::debug!(task = task.task.id, %error, "sockets are not known");
            }
        }
    }
    all
}

fn flow(flow: Flow) -> OpenFlow {
    OpenFlow {
        service: flow.service.unwrap_or_default(),
        protocol: protocol::name(flow.protocol),
        client: flow.client.to_string(),
        front: flow.front.to_string(),
        backend: flow.backend.to_string(),
        through: flow.asked.map(|node| node.to_string()).unwrap_or_default(),
        idle_seconds: Some(flow.idle_s),
        closed: flow.closed,
        ended: flow.ended,
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
    what: impl FnOnce(&Datapath) -> Result<T, mesh_datapath::Error> + Send + 'static,
) -> Result<T, NodeError> {
    let node = node.clone();
    let read = tokio::task::spawn_blocking(move || node.read_datapath(what)).await;
    Ok(read.map_err(anyhow::Error::from)??.unwrap_or_default())
}
