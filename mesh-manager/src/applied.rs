//! Which nodes have not applied a state yet: for whoever wants to know that a change is in force everywhere.

use crate::{
    ManagerError, ManagerHandle,
    core::Core,
    state::{NodeState, State},
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Pause between two looks at what the nodes have acknowledged.
const LOOK: Duration = Duration::from_millis(50);

/// Nodes that have not applied a state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Behind {
    /// Ids of those that are up.
    pub up: Vec<String>,
    /// Ids of those that are down, or were never heard of: they get the newest state when they come.
    pub absent: Vec<String>,
}

impl Behind {
    /// `has_applied` tells it of a node by its id.
    fn of(state: &State, has_applied: impl Fn(&str) -> bool) -> Self {
        let mut behind = Self::default();
        for node in state.nodes().filter(|node| !has_applied(&node.id)) {
            match node.state {
                NodeState::Ready => behind.up.push(node.id.clone()),
                NodeState::Down | NodeState::Unknown => behind.absent.push(node.id.clone()),
            }
        }
        behind
    }
}

impl ManagerHandle {
    /// Waits until every node that is up has applied the state of `index`, that of an object's version, until
    /// `deadline`. Tells who has not, then.
    ///
    /// # Errors
    /// This manager does not lead, or not any more: the nodes tell the leader alone.
    pub async fn behind(&self, index: u64, deadline: Instant) -> Result<Behind, ManagerError> {
        let core = &self.core;
        loop {
            // One that has just come to lead is found by its nodes in a moment.
            let behind = core.leading.borrow().then(|| look(core, index));
            match behind {
                Some(behind) if behind.up.is_empty() || Instant::now() >= deadline => {
                    return Ok(behind);
                }
                None if Instant::now() >= deadline => return Err(ManagerError::no_leader()),
                _ => sleep(LOOK).await,
            }
        }
    }
}

fn look(core: &Core, index: u64) -> Behind {
    let state = core.store.read();
    if state.index < index {
        // Nobody can have it.
        return Behind::of(&state, |_| false);
    }
    Behind::of(&state, |id| {
        core.sessions
            .get(id)
            .is_some_and(|session| session.acknowledged() >= index)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::World;

    #[test]
    fn who_is_down_is_not_expected_to_apply() {
        let mut world = World::new(&["n1", "n2", "n3"]);
        world.node_down("n2");
        let behind = |applied: &[&str]| {
            let behind = Behind::of(&world.state, |id| applied.contains(&id));
            (behind.up.join(" "), behind.absent.join(" "))
        };
        let told = |up: &str, absent: &str| (up.to_owned(), absent.to_owned());
        // The manager's own node was never heard of.
        assert_eq!(behind(&[]), told("n1 n3", "m n2"));
        assert_eq!(behind(&["m", "n1"]), told("n3", "n2"));
        assert_eq!(behind(&["m", "n1", "n3"]), told("", "n2"));
        assert_eq!(behind(&["m", "n1", "n2", "n3"]), told("", ""));
    }
}
