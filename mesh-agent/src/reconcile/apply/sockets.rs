//! Connected sockets of tasks whose backend is gone. Nobody may be left to tell them: a datagram is merely lost, and a
//! task whose node is gone has sent no reset. They are closed, and their owners look for another backend.

use std::sync::Arc;

use anyhow::{Context, Result};
use mesh_datapath::{Desired, Sockets};

use crate::{links::netns, reconcile::Reconciler};

impl Reconciler {
    /// Closes the sockets of this node's tasks that a virtual address led to a task which is there no more.
    pub(super) async fn close_orphans(&self, wanted: &Arc<Desired>) -> Result<()> {
        let shared = self.datapath.clone();
        let sockets = tokio::task::spawn_blocking(move || -> Result<Sockets> {
            let slot = shared
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let datapath = slot.as_ref().context("the packet path is closed")?;
            Ok(datapath.sockets()?)
        });
        let sockets = Arc::new(sockets.await??);
        for id in self.configured.keys() {
            let (sockets, wanted) = (Arc::clone(&sockets), Arc::clone(wanted));
            let closed = netns::within_async(&self.config.netns_path(id), move || {
                close(&sockets, &wanted).map_err(std::io::Error::other)
            })
            .await
            .with_context(|| format!("close sockets of task {id}"))?;
            if closed > 0 {
                tracing::debug!(task = id, closed, "closed sockets of ended backends");
            }
        }
        Ok(())
    }
}

fn close(sockets: &Sockets, wanted: &Desired) -> Result<usize, mesh_datapath::Error> {
    let mut closed = 0;
    for socket in sockets.list()? {
        let there = wanted.endpoints.contains_key(&(socket.vni, socket.backend));
        // One whose backend has said its last word may still have to be read: an error would spoil that.
        if socket.connected && !socket.ended && !there {
            sockets.close(&socket)?;
            closed += 1;
        }
    }
    Ok(closed)
}
