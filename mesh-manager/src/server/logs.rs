//! Takes the log lines that nodes send for subscriptions.

use crate::core::Core;
use mesh_api::proto::LogBatch;
use tonic::{Status, Streaming};

/// Hands batches to their subscriptions until the node is done or nobody listens.
pub(super) async fn receive(
    core: &Core,
    node_id: &str,
    mut batches: Streaming<LogBatch>,
) -> Result<(), Status> {
    let mut unfinished: Option<String> = None;
    let ended = loop {
        let batch = match batches.message().await {
            Ok(Some(batch)) => batch,
            Ok(None) => break Ok(()),
            Err(status) => break Err(status),
        };
        unfinished = (!batch.end).then(|| batch.subscription_id.clone());
        if !core.logs.deliver(node_id, batch).await {
            return Ok(());
        }
    };
    if let Some(id) = unfinished {
        core.logs.broke_off(node_id, &id);
    }
    ended
}
