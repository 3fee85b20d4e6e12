//! Telling subscribers what happens to containers.

use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;

use super::{ContainerEvent, ExitStatus};

/// Fans events out; keeps them while there is nobody to hear them.
#[derive(Debug, Default)]
pub(super) struct EventHub {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    subscribers: Vec<mpsc::UnboundedSender<ContainerEvent>>,
    unheard: Vec<ContainerEvent>,
}

impl EventHub {
    pub(super) fn subscribe(&self) -> mpsc::UnboundedReceiver<ContainerEvent> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for event in state.unheard.drain(..) {
            // The receiver is in our hands, so it is open.
            let _ = sender.send(event);
        }
        state.subscribers.push(sender);
        receiver
    }

    pub(super) fn exited(&self, id: &str, status: Option<ExitStatus>) {
        let Some(status) = status else {
            return;
        };
        let event = ContainerEvent::Exited {
            id: id.to_owned(),
            status,
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.subscribers.retain(|s| s.send(event.clone()).is_ok());
        if state.subscribers.is_empty() {
            state.unheard.push(event);
        }
    }
}
