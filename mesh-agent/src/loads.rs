//! How much goes from this node, or to its tasks, to the backends of a service.

use std::{collections::BTreeMap, io, net::IpAddr, sync::Arc};

use mesh_api::proto::{BackendLoad, LoadAnswer, ReturnPath};
use mesh_datapath::ReturnState;

use crate::{
    links::netns,
    node::{Node, NodeError},
};

/// What this node knows.
pub(crate) async fn read(node: &Node, service_id: String) -> Result<LoadAnswer, NodeError> {
    let returns = returns(node, &service_id);
    let reader = node.clone();
    let read = move || {
        reader.read_datapath(|datapath| Ok((datapath.loads(&service_id)?, datapath.sockets()?)))
    };
    let read = tokio::task::spawn_blocking(read).await;
    let Some((loads, sockets)) = read.map_err(anyhow::Error::from)?? else {
        return Ok(LoadAnswer::default());
    };
    let mut loads: BTreeMap<(u32, IpAddr), BackendLoad> = loads
        .into_iter()
        .map(|load| {
            let told = BackendLoad {
                vni: load.vni,
                address: load.address.to_string(),
                open: load.open,
                flows: load.flows,
                packets: load.packets,
                bytes: load.bytes,
            };
            ((load.vni, load.address), told)
        })
        .collect();
    if loads.is_empty() {
        return Ok(LoadAnswer::default());
    }
    let sockets = Arc::new(sockets);
    for task in node.tasks().iter() {
        let path = node.config().netns_path(&task.task.id);
        if !netns::exists(&path) {
            continue;
        }
        let sockets = Arc::clone(&sockets);
        let list = move || sockets.list().map_err(io::Error::other);
        let open = match netns::within_async(&path, list).await {
            Ok(open) => open,
            // The task may have ended meanwhile.
            Err(error) => {
                tracing::debug!(task = task.task.id, %error, "sockets are not known");
                continue;
            }
        };
        for socket in open {
            if let Some(load) = loads.get_mut(&(socket.vni, socket.backend)) {
                load.open += 1;
            }
        }
    }
    Ok(LoadAnswer {
        backends: loads.into_values().collect(),
        returns,
    })
}

/// How replies of this node's tasks of a service go back; nothing if it has none.
fn returns(node: &Node, service_id: &str) -> Vec<ReturnPath> {
    let has_task = node.tasks().iter().any(|task| {
        task.task.service_id == service_id
            && netns::exists(&node.config().netns_path(&task.task.id))
    });
    if !has_task {
        return Vec::new();
    }
    let paths = node.returns();
    let told = paths.iter().map(|path| ReturnPath {
        peer: path.peer.to_string(),
        address: path.address.to_string(),
        direct: path.state == ReturnState::Direct,
        why: path.state.to_string(),
    });
    told.collect()
}
