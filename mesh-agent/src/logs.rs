//! Logs of this node's tasks, sent to a manager that asked for them.

use std::collections::HashMap;

use chrono::DateTime;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use mesh_api::proto::{LogBatch, LogLine, LogSubscription, dispatcher_client::DispatcherClient};
use mesh_runtime::{LogOptions, LogRecord, Output, Runtime, RuntimeError};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Lines sent in one message at most; a message stays well below a megabyte.
const BATCH: usize = 128;

/// Messages that may wait for the network.
const QUEUE: usize = 4;

/// Answers subscriptions until the membership ends. In a new session the managers ask anew.
pub fn serve(
    runtime: Runtime,
    node_id: String,
    mut subscriptions: mpsc::Receiver<LogSubscription>,
    mut channel: watch::Receiver<Option<Channel>>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        // By subscription: one may be asked for more tasks as they come.
        let mut open: HashMap<String, JoinSet<()>> = HashMap::new();
        loop {
            let subscription = tokio::select! {
                biased;
                changed = channel.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    open.clear();
                    continue;
                }
                subscription = subscriptions.recv() => match subscription {
                    Some(subscription) => subscription,
                    None => return,
                },
            };
            if subscription.close {
                open.remove(&subscription.id);
                continue;
            }
            let Some(channel) = channel.borrow().clone() else {
                continue;
            };
            open.retain(|_, work| {
                while work.try_join_next().is_some() {}
                !work.is_empty()
            });
            let (runtime, node_id) = (runtime.clone(), node_id.clone());
            let work = open.entry(subscription.id.clone()).or_default();
            work.spawn(async move {
                if let Err(error) = publish(runtime, node_id, subscription, channel).await {
                    tracing::debug!(error = format!("{error:#}"), "log subscription ended");
                }
            });
        }
    })
}

async fn publish(
    runtime: Runtime,
    node_id: String,
    subscription: LogSubscription,
    channel: Channel,
) -> anyhow::Result<()> {
    let options = LogOptions {
        follow: subscription.follow,
        tail: usize::try_from(subscription.tail).ok(),
        since: (subscription.since > 0).then(|| DateTime::from_timestamp_nanos(subscription.since)),
        until: None,
        stdout: subscription.stdout,
        stderr: subscription.stderr,
    };
    let mut lines: Vec<BoxStream<'static, Piece>> = Vec::new();
    for task_id in subscription.task_ids {
        let records = match runtime.logs(&task_id, options.clone()).await {
            Ok(records) => records,
            // A task whose container is gone has no log any more.
            Err(RuntimeError::NotFound { .. }) => continue,
            Err(error) => {
                let reason = unread(&task_id, &error);
                lines.push(stream::iter([Err(reason)]).boxed());
                continue;
            }
        };
        let node_id = node_id.clone();
        let pieces = records.map(move |record| match record {
            Ok(record) => Ok(line(&task_id, &node_id, record)),
            Err(error) => Err(unread(&task_id, &error)),
        });
        lines.push(pieces.boxed());
    }
    let (sender, receiver) = mpsc::channel(QUEUE);
    let id = subscription.id;
    let collect = async move {
        let mut batches = stream::select_all(lines).ready_chunks(BATCH);
        while let Some(pieces) = batches.next().await {
            let mut batch = LogBatch {
                subscription_id: id.clone(),
                ..LogBatch::default()
            };
            for piece in pieces {
                match piece {
                    Ok(line) => batch.lines.push(line),
                    Err(reason) => batch.missing.push(reason),
                }
            }
            if sender.send(batch).await.is_err() {
                return;
            }
        }
        let end = LogBatch {
            subscription_id: id,
            end: true,
            ..LogBatch::default()
        };
        // A manager that is gone does not miss the end.
        let _ = sender.send(end).await;
    };
    let mut client = DispatcherClient::new(channel);
    let (_, answer) = tokio::join!(collect, client.publish_logs(ReceiverStream::new(receiver)));
    answer?;
    Ok(())
}

/// A line, or why there is none.
type Piece = Result<LogLine, String>;

fn unread(task_id: &str, error: &dyn std::fmt::Display) -> String {
    format!("the log of task {task_id} cannot be read: {error}")
}

fn line(task_id: &str, node_id: &str, record: LogRecord) -> LogLine {
    LogLine {
        task_id: task_id.to_owned(),
        node_id: node_id.to_owned(),
        timestamp: record.time.timestamp_nanos_opt().unwrap_or_default(),
        stream: match record.stream {
            Output::Stdout => 1,
            Output::Stderr => 2,
        },
        data: record.line,
        service_id: String::new(),
    }
}
