//! Work that a pass waits for only a moment, and that goes on beside the loop if it takes longer.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use tokio::{
    sync::Notify,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

/// At most one piece of work of a kind at a time.
#[derive(Debug)]
pub(crate) struct Beside<T>(Option<JoinHandle<Result<T>>>);

impl<T> Default for Beside<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Send + 'static> Beside<T> {
    /// Begins `work`, which may block, once the piece before has ended. Gives what came of the last one that has ended
    /// within `patience`, `None` if there is none. What has not ended by then goes on; when it ends, `wake` is told.
    ///
    /// # Errors
    /// Those of the piece that has ended.
    pub(crate) async fn run(
        &mut self,
        patience: Duration,
        wake: &Arc<Notify>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<Option<T>> {
        let mut before = None;
        if let Some(running) = &mut self.0 {
            let Ok(ended) = timeout(patience, running).await else {
                return Ok(None);
            };
            self.0 = None;
            before = Some(ended?);
        }
        let mut running = spawn_blocking(work);
        if let Ok(ended) = timeout(patience, &mut running).await {
            return ended?.map(Some);
        }
        let wake = Arc::clone(wake);
        self.0 = Some(tokio::spawn(async move {
            let ended = running.await;
            wake.notify_one();
            ended?
        }));
        before.transpose()
    }

    /// Waits until nothing goes on.
    pub(crate) async fn finish(&mut self) {
        if let Some(running) = self.0.take() {
            // Who ends things does not need it any more.
            let _ = running.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const NOW: Duration = Duration::ZERO;
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_pass_does_not_wait_for_what_takes_long() {
        let (wake, mut beside) = (Arc::new(Notify::new()), Beside::default());
        let (end, ended) = mpsc::channel::<()>();
        let waits = move || Ok(ended.recv().map(|()| 1)?);
        assert_eq!(beside.run(NOW, &wake, waits).await.unwrap(), None);
        // Another one does not begin meanwhile.
        let other = || panic!("two at a time");
        assert_eq!(beside.run(NOW, &wake, other).await.unwrap(), None);
        end.send(()).unwrap();
        wake.notified().await;
        assert_eq!(beside.run(LONG, &wake, || Ok(2)).await.unwrap(), Some(2));
    }

    #[tokio::test]
    async fn what_came_of_late_work_is_told_though_the_next_is_late_as_well() {
        let (wake, mut beside) = (Arc::new(Notify::new()), Beside::default());
        let mut ends = Vec::new();
        for told in [None, Some("1"), Some("2")] {
            let (end, ended) = mpsc::channel::<&str>();
            let late = move || -> Result<()> { anyhow::bail!(ended.recv()?) };
            let seen = beside.run(NOW, &wake, late).await;
            let seen = seen.map_err(|error| error.to_string()).err();
            assert_eq!(seen.as_deref(), told);
            end.send(["1", "2", "3"][ends.len()]).unwrap();
            ends.push(end);
            wake.notified().await;
        }
        beside.finish().await;
        assert_eq!(beside.run(LONG, &wake, || Ok(())).await.unwrap(), Some(()));
    }
}
