//! Open log subscriptions: lines of many nodes come in, each goes to the one who asked.

use super::LogLine;
use crate::ManagerError;
use mesh_api::proto;
use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard},
};
use tokio::sync::mpsc;

type Lines = mpsc::Sender<Result<LogLine, ManagerError>>;

/// One reader.
#[derive(Debug)]
struct Subscription {
    lines: Lines,
    follow: bool,
    /// Nodes that have not said that they are done.
    nodes: HashSet<String>,
    /// Service of each task asked for.
    services: HashMap<String, String>,
}

/// Every open subscription by id.
#[derive(Debug, Default)]
pub(crate) struct LogBroker(Mutex<HashMap<String, Subscription>>);

impl LogBroker {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Subscription>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Opens a subscription.
    pub(super) fn open(&self, id: &str, follow: bool, lines: Lines) {
        let subscription = Subscription {
            lines,
            follow,
            nodes: HashSet::new(),
            services: HashMap::new(),
        };
        self.lock().insert(id.to_owned(), subscription);
    }

    /// A node is about to be asked for a task's lines.
    pub(super) fn expect(&self, id: &str, node_id: &str, task_id: &str, service_id: &str) {
        if let Some(subscription) = self.lock().get_mut(id) {
            subscription.nodes.insert(node_id.to_owned());
            subscription
                .services
                .insert(task_id.to_owned(), service_id.to_owned());
        }
    }

    /// Ends a subscription that expects nothing (more).
    pub(super) fn close_if_done(&self, id: &str) {
        let mut subscriptions = self.lock();
        if subscriptions
            .get(id)
            .is_some_and(|s| s.nodes.is_empty() && !s.follow)
        {
            subscriptions.remove(id);
        }
    }

    /// Ends a subscription.
    pub(super) fn close(&self, id: &str) {
        self.lock().remove(id);
    }

    /// A node will not be heard of any more.
    pub(crate) fn node_gone(&self, node_id: &str) {
        self.lock().retain(|_, s| {
            let was_asked = s.nodes.remove(node_id);
            !(was_asked && s.nodes.is_empty() && !s.follow)
        });
    }

    /// Lines from a node; false when nobody reads them any more. Waits for slow readers.
    pub(crate) async fn deliver(&self, node_id: &str, batch: proto::LogBatch) -> bool {
        let (lines, services) = {
            let subscriptions = self.lock();
            let Some(subscription) = subscriptions.get(&batch.subscription_id) else {
                return false;
            };
            (subscription.lines.clone(), subscription.services.clone())
        };
        for line in batch.lines {
            let Some(service_id) = services.get(&line.task_id) else {
                continue;
            };
            let line = LogLine {
                service_id: service_id.clone(),
                task_id: line.task_id,
                node_id: node_id.to_owned(),
                timestamp: line.timestamp,
                stream: if line.stream == 2 { 2 } else { 1 },
                data: line.data,
            };
            if lines.send(Ok(line)).await.is_err() {
                self.close(&batch.subscription_id);
                return false;
            }
        }
        if batch.end {
            let mut subscriptions = self.lock();
            if let Some(subscription) = subscriptions.get_mut(&batch.subscription_id) {
                subscription.nodes.remove(node_id);
                if subscription.nodes.is_empty() && !subscription.follow {
                    subscriptions.remove(&batch.subscription_id);
                }
            }
        }
        true
    }
}
