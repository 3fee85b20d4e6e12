//! Finding containers an earlier agent made, and watching all of them until they end.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use super::Runtime;
use super::container::{Attached, Container, ContainerRef, Lost, Record};
use crate::error::{Result, RuntimeError};
use crate::wire;

/// How long to wait before asking a shim again that is there but did not answer.
const RETRY: Duration = Duration::from_secs(1);

impl Runtime {
    /// Adopts every container of the state directory.
    pub(super) async fn adopt(&self) -> Result<()> {
        let config = &self.inner.config;
        let entries =
            fs::read_dir(&config.state_dir).map_err(RuntimeError::io("read", &config.state_dir))?;
        let mut watched = Vec::new();
        for entry in entries.flatten() {
            let Some(id) = entry.file_name().to_str().map(str::to_owned) else {
                continue;
            };
            let (state, run) = (entry.path(), config.run_dir.join(&id));
            let record = fs::read(state.join(wire::RECORD))
                .ok()
                .and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
            let Some(record) = record else {
                // An agent died while it made this one.
                tracing::warn!(%id, "removing a container that was never finished");
                let cgroup = format!("{}/{id}", config.cgroup_parent);
                if let Err(error) = self.erase(&cgroup, state, run).await {
                    tracing::warn!(%id, %error, "clean-up is incomplete");
                }
                continue;
            };
            let container = Arc::new(Container::new(record, state, run, 0, 0));
            self.containers().insert(id, container.clone());
            watched.push(self.watch(container, Lost::NoShim));
        }
        futures::future::join_all(watched).await;
        Ok(())
    }

    /// Attaches to a container's shim and follows it in a task of its own. Returns once the
    /// container's state is known, or its shim did not answer in time.
    pub(super) async fn watch(&self, container: ContainerRef, lost: Lost) {
        let inner = self.inner.clone();
        let first = container.attach().await;
        if matches!(first, Attached::Gone) {
            container.settle(&inner.hierarchies, lost).await;
        }
        tokio::spawn(async move {
            let ended = async {
                let status = container.until(|status| status.exit.is_some()).await;
                inner.events.exited(container.id(), status.exit);
            };
            let follow = async {
                let mut next = first;
                loop {
                    match next {
                        Attached::Connected(connection) => container.follow(connection).await,
                        Attached::Gone => break,
                        Attached::Unclear(error) => {
                            tracing::warn!(id = container.id(), %error, "a shim does not answer");
                            tokio::time::sleep(RETRY).await;
                        }
                    }
                    next = container.attach().await;
                }
                container.settle(&inner.hierarchies, Lost::ShimKilled).await;
            };
            tokio::join!(follow, ended);
        });
    }
}
