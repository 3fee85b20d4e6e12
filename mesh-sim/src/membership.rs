//! Managers that are replaced: one is demoted, and when it is out, its machine comes back as a new node at the same address,
//! and knows nothing of what it was.

use crate::{cluster::Cluster, load::is_refused, machine::Host, sim::Sim};
use mesh_api::engine::{NodeSpec, NodeSpecRoleEnum};
use mesh_manager::{Command, ManagerError, state::Node};
use mesh_pki::Role;
use std::{sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(8);
/// Tries to have the node removed that the machine was.
const REMOVALS: usize = 3;

/// Replaces the manager of a machine, unless the others refuse to let it go.
pub(crate) async fn replace(sim: Arc<Sim>, cluster: Arc<Cluster>, host: Arc<Host>) {
    let (number, Some(node_id)) = (host.number, host.node_id()) else {
        return;
    };
    let replaced = Replaced {
        sim: &sim,
        cluster: &cluster,
        node_id,
    };
    sim.note(format_args!("machine {number}: demote"));
    if !replaced.let_out().await {
        sim.note(format_args!("machine {number}: not let out"));
        return;
    }
    sim.note(format_args!("machine {number}: out, and wiped"));
    host.wipe();
    replaced.remove().await;
    while !cluster.come_back(&host).await {
        host.wipe();
        sleep(sim.millis(100, 1000)).await;
    }
    sim.note(format_args!("machine {number}: back as a new manager"));
}

/// A node that is to go.
struct Replaced<'a> {
    sim: &'a Sim,
    cluster: &'a Cluster,
    node_id: String,
}

impl Replaced<'_> {
    /// Asks some manager for a change; `None` if it may have been made or not.
    async fn ask(&self, command: impl FnOnce(&Node) -> Option<Command>) -> Option<bool> {
        let (manager, life) = self.cluster.any_manager()?;
        let command = command(manager.view().node(&self.node_id)?)?;
        let called = life.during(timeout(PATIENCE, manager.call(command))).await;
        match called {
            Some(Ok(Ok(_))) => Some(true),
            Some(Ok(Err(error))) if is_refused(&error) => {
                // Somebody else has changed the node meanwhile, so it is asked again.
                (error != ManagerError::out_of_sequence()).then_some(false)
            }
            _ => None,
        }
    }

    /// Has it demoted; whether it is out of the group. What it knows is needed until then.
    async fn let_out(&self) -> bool {
        let demote = |node: &Node| {
            (node.desired_role() == Role::Manager).then(|| Command::UpdateNode {
                id: node.id.clone(),
                version: node.meta.version,
                spec: NodeSpec {
                    role: Some(NodeSpecRoleEnum::WORKER),
                    ..node.spec.clone()
                },
            })
        };
        let mut may_be_asked = false;
        loop {
            let is_out = self.cluster.hosts.iter().any(|host| {
                let manager = host.manager();
                manager.is_some_and(|(manager, _)| {
                    let view = manager.view();
                    let node = view.node(&self.node_id);
                    node.is_some_and(|node| node.role == Role::Worker)
                })
            });
            if is_out {
                return true;
            }
            match self.ask(demote).await {
                Some(false) if !may_be_asked => return false,
                _ => may_be_asked = true,
            }
            sleep(self.sim.millis(50, 500)).await;
        }
    }

    /// Has the node removed, if that is done soon.
    async fn remove(&self) {
        for _ in 0..REMOVALS {
            let remove = |node: &Node| {
                (node.role == Role::Worker).then(|| Command::RemoveNode {
                    id: node.id.clone(),
                    force: true,
                })
            };
            if self.ask(remove).await.is_some() {
                return;
            }
            sleep(self.sim.millis(50, 500)).await;
        }
    }
}
