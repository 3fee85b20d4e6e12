//! Connected sockets of tasks whose backend is gone. Nobody may be left to tell them: a datagram is merely lost, and a
//! task whose node is gone has sent no reset. They are closed, and their owners look for another backend.

use std::sync::Arc;

use anyhow::{Context, Result};
use mesh_datapath::{Desired, Sockets};

use crate::{links::netns, reconcile::Reconciler};

impl Reconciler {
    /// Closes the sockets of this node's tasks that a virtual address led to a task which is there no more.
    ///
    /// # Errors
    /// The first one; what it has kept open keeps nothing else open.
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
        let mut result = Ok(());
        for id in self.configured.keys() {
            let path = self.config.netns_path(id);
            if !netns::exists(&path) {
                continue;
            }
            let (sockets, wanted) = (Arc::clone(&sockets), Arc::clone(wanted));
            let close = move || close(&sockets, &wanted).map_err(std::io::Error::other);
            match netns::within_async(&path, close).await {
                Ok(0) => {}
                Ok(closed) => {
                    tracing::debug!(task = id, closed, "closed sockets of ended backends")
                }
                Err(error) => {
                    let what = || format!("close sockets of task {id}");
                    result = result.and(Err(error).with_context(what));
                }
            }
        }
        result
    }
}

/// How many were closed, if all were that were to be.
fn close(sockets: &Sockets, wanted: &Desired) -> Result<usize, mesh_datapath::Error> {
    let mut result = Ok(0);
    for socket in sockets.list()? {
        let there = wanted.endpoints.contains_key(&(socket.vni, socket.backend));
        // One whose backend has said its last word may still have to be read: an error would spoil that.
        if socket.connected && !socket.ended && !there {
            let closed = sockets.close(&socket);
            result = result.and_then(|count| closed.map(|()| count + 1));
        }
    }
    result
}
