//! One-at-a-time by key: work that several callers want done is done once, the others wait for it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OnceCell;

/// Shares one result per key among all callers that ask while somebody still holds it.
pub(crate) struct Shared<K, V> {
    cells: Mutex<HashMap<K, Weak<OnceCell<V>>>>,
}

impl<K: Eq + Hash + Clone, V> Default for Shared<K, V> {
    fn default() -> Self {
        Self {
            cells: Mutex::new(HashMap::new()),
        }
    }
}

impl<K: Eq + Hash + Clone, V> Shared<K, V> {
    /// The cell of `key`. Initialise it with `get_or_try_init`: the first caller works, the others
    /// wait; if the first fails or is cancelled, the next one works. The result lives as long as
    /// any of the returned cells.
    pub(crate) fn cell(&self, key: &K) -> Arc<OnceCell<V>> {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = cells.get(key).and_then(Weak::upgrade) {
            return cell;
        }
        cells.retain(|_, cell| cell.strong_count() > 0);
        let cell = Arc::new(OnceCell::new());
        cells.insert(key.clone(), Arc::downgrade(&cell));
        cell
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn work_is_done_once_and_again_after_a_failure() {
        let shared = Arc::new(Shared::<u8, usize>::default());
        let runs = Arc::new(AtomicUsize::new(0));
        let first = shared.cell(&1);
        let failed = first
            .get_or_try_init(|| async { Err::<usize, ()>(()) })
            .await;
        assert!(failed.is_err());
        drop(first);
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let (cell, runs) = (shared.cell(&1), runs.clone());
                tokio::spawn(async move {
                    let work = || async {
                        tokio::task::yield_now().await;
                        Ok::<_, ()>(runs.fetch_add(1, Ordering::SeqCst))
                    };
                    *cell.get_or_try_init(work).await.unwrap()
                })
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.await.unwrap(), 0);
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert!(
            shared.cell(&1).get().is_none(),
            "the result is dropped with its last holder"
        );
    }
}
