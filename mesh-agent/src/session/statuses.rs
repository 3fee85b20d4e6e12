//! The last word on each task, and which of them the managers have not heard.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use mesh_api::proto::TaskStatus;
use tokio::sync::Notify;

/// Task statuses on their way to the managers. Only the last one of a task counts: states rise, so
/// a skipped one is implied by its successor.
#[derive(Debug, Default)]
pub struct Statuses {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    all: BTreeMap<String, TaskStatus>,
    unsent: BTreeSet<String>,
}

impl Statuses {
    /// Sets a task's status; the same again is not told twice.
    pub fn report(&self, status: TaskStatus) {
        let mut inner = self.lock();
        if inner.all.get(&status.task_id) == Some(&status) {
            return;
        }
        inner.unsent.insert(status.task_id.clone());
        inner.all.insert(status.task_id.clone(), status);
        drop(inner);
        self.changed.notify_one();
    }

    /// Forgets a task that the managers have forgotten.
    pub fn forget(&self, task_id: &str) {
        let mut inner = self.lock();
        inner.all.remove(task_id);
        inner.unsent.remove(task_id);
    }

    /// A new manager has heard nothing yet.
    pub(super) fn all_unsent(&self) {
        let mut inner = self.lock();
        inner.unsent = inner.all.keys().cloned().collect();
        drop(inner);
        self.changed.notify_one();
    }

    /// Waits until there is something to tell, and takes it.
    pub(super) async fn take(&self) -> Vec<TaskStatus> {
        loop {
            let taken = self.take_now();
            if !taken.is_empty() {
                return taken;
            }
            self.changed.notified().await;
        }
    }

    fn take_now(&self) -> Vec<TaskStatus> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let ids = std::mem::take(&mut inner.unsent);
        let told = ids.iter().filter_map(|id| inner.all.get(id));
        told.cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn status(task: &str, state: &str) -> TaskStatus {
        TaskStatus {
            task_id: task.into(),
            state: state.into(),
            ..Default::default()
        }
    }

    #[test]
    fn the_last_word_is_told_once_per_manager() {
        let statuses = Statuses::default();
        assert!(statuses.take().now_or_never().is_none());
        statuses.report(status("a", "ready"));
        statuses.report(status("a", "running"));
        statuses.report(status("b", "ready"));
        let taken = statuses.take().now_or_never().expect("something to tell");
        assert_eq!(taken, [status("a", "running"), status("b", "ready")]);
        statuses.report(status("a", "running"));
        assert!(statuses.take().now_or_never().is_none());
        statuses.forget("b");
        statuses.all_unsent();
        let taken = statuses.take().now_or_never().expect("all anew");
        assert_eq!(taken, [status("a", "running")]);
    }
}
