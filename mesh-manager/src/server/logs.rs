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
    while let Some(batch) = batches.message().await? {
        if !core.logs.deliver(node_id, batch).await {
            return Ok(());
        }
    }
    Ok(())
}
