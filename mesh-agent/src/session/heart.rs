//! The signs of life that a manager wants to hear.

use std::time::Duration;

use mesh_api::proto::{self, NodeMessage, node_message::Message};
use mesh_manager::config::MIN_HEARTBEAT;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_util::task::AbortOnDropHandle;

use super::stream::send;

/// Sends heartbeats until it is dropped or the session ends, on its own: a slow disk under an assignment must not look like a
/// dead node.
pub(super) struct Heart {
    sender: mpsc::Sender<NodeMessage>,
    period: Duration,
    _beating: AbortOnDropHandle<()>,
}

impl Heart {
    /// Begins with a heartbeat; the next ones follow as often as a manager asked, in milliseconds.
    pub(super) fn start(sender: mpsc::Sender<NodeMessage>, period_ms: u32) -> Self {
        let period = period(period_ms);
        let beating = tokio::spawn(beat(sender.clone(), period));
        Self {
            sender,
            period,
            _beating: AbortOnDropHandle::new(beating),
        }
    }

    /// Goes by another period, and says so at once: the manager gives the node the time of the former one until then.
    pub(super) fn go_by(&mut self, period_ms: u32) {
        if period(period_ms) != self.period {
            *self = Self::start(self.sender.clone(), period_ms);
        }
    }
}

fn period(millis: u32) -> Duration {
    Duration::from_millis(millis.into()).max(MIN_HEARTBEAT)
}

async fn beat(sender: mpsc::Sender<NodeMessage>, period: Duration) {
    let period_ms = u32::try_from(period.as_millis()).unwrap_or(u32::MAX);
    let mut heartbeat = interval(period);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        heartbeat.tick().await;
        let beat = Message::Heartbeat(proto::Heartbeat { period_ms });
        if send(&sender, beat).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// The period that the next heartbeat tells.
    async fn next(messages: &mut mpsc::Receiver<NodeMessage>) -> u32 {
        let beat = timeout(Duration::from_secs(30), messages.recv()).await;
        match beat.expect("it goes on").and_then(|beat| beat.message) {
            Some(Message::Heartbeat(beat)) => beat.period_ms,
            other => panic!("{other:?} is no heartbeat"),
        }
    }

    #[tokio::test]
    async fn each_welcome_sets_the_pace() {
        let (sender, mut messages) = mpsc::channel(1);
        let mut heart = Heart::start(sender, 3_600_000);
        assert_eq!(next(&mut messages).await, 3_600_000);
        // The next one would be due in an hour.
        heart.go_by(1);
        for _ in 0..3 {
            assert_eq!(next(&mut messages).await, 100, "no more often than this");
        }
        heart.go_by(100);
        heart.go_by(3_600_000);
        loop {
            // One of before may wait still.
            match next(&mut messages).await {
                3_600_000 => break,
                other => assert_eq!(other, 100),
            }
        }
    }
}
