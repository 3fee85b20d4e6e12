//! What is asked of nodes, and who comes and goes as a manager. A manager is replaced: it is demoted, and when it is out, its
//! machine comes back as a new node at the same address, and knows nothing of what it was. Or the machine is lost with all
//! that it had, and comes back as a new node before the managers let the old one go. Workers become managers, and cease to
//! be, while they run their tasks.

use crate::{
    cluster::Cluster,
    load::is_refused,
    machine::{Host, Papers},
    sim::Sim,
    violation::{Plant, Violation},
    worker::Worker,
};
use mesh_api::engine::{NodeSpec, NodeSpecAvailabilityEnum as Availability, NodeSpecRoleEnum};
use mesh_manager::{Command, ManagerError, state::Node};
use mesh_pki::Role;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(8);
/// Tries to have the node removed that the machine was.
const REMOVALS: usize = 3;
/// How long a manager that is lost may still count as one that answers: its last answer may have been on its way for a while.
const MISSED: Duration = Duration::from_secs(6);

/// Replaces the manager of a machine, unless the others refuse to let it go.
pub(crate) async fn replace(sim: Arc<Sim>, cluster: Arc<Cluster>, host: Arc<Host>) {
    let (number, Some(node_id)) = (host.number, host.node_id()) else {
        return;
    };
    let replaced = Asked::of(&sim, &cluster, node_id);
    sim.note(format_args!("machine {number}: demote"));
    if !replaced.becomes(Role::Worker).await {
        sim.note(format_args!("machine {number}: not let out"));
        return;
    }
    sim.note(format_args!("machine {number}: out, and wiped"));
    host.wipe();
    replaced.remove().await;
    come_in(&sim, &cluster, &host, Papers::Token).await;
}

/// A manager's machine is lost, and comes back as another node before the old one is demoted.
pub(crate) async fn lose(sim: Arc<Sim>, cluster: Arc<Cluster>, host: Arc<Host>) {
    let (number, Some(node_id)) = (host.number, host.node_id()) else {
        return;
    };
    sim.note(format_args!("machine {number}: lost, and wiped"));
    host.wipe();
    let missed = Instant::now() + MISSED;
    come_in(&sim, &cluster, &host, Papers::Token).await;
    sleep_until(missed).await;
    let mut running = cluster.hosts.iter().filter_map(|host| host.manager());
    if running.any(|(manager, _)| manager.group().reachable.contains(&node_id)) {
        sim.violated(
            Violation::LostAnswers,
            format_args!(
                "the manager that was lost with machine {number} counts as one that answers"
            ),
        );
    }
    let lost = Asked::of(&sim, &cluster, node_id);
    while !lost.becomes(Role::Worker).await {
        sleep(sim.millis(100, 1000)).await;
    }
    lost.remove().await;
}

/// Makes a worker a manager as well, or one that is none any more.
pub(crate) async fn turn(sim: Arc<Sim>, cluster: Arc<Cluster>, worker: Arc<Worker>) {
    let number = worker.number;
    let host = &cluster.hosts[number - 1];
    let (role, word) = match host.node_id() {
        None => (Role::Manager, "promote"),
        Some(_) => (Role::Worker, "demote"),
    };
    sim.note(format_args!("machine {number}: {word}"));
    let turned = Asked::of(&sim, &cluster, worker.node_id.clone());
    if !turned.becomes(role).await {
        sim.note(format_args!("machine {number}: refused"));
    } else if role == Role::Worker {
        sim.note(format_args!("machine {number}: no manager any more"));
        host.wipe();
    } else if sim.plant != Some(Plant::AbsentManagers) {
        let papers = |_| Papers::Promoted(worker.caller());
        come_in(&sim, &cluster, host, papers).await;
    }
}

/// Lets a machine come in as a manager, however often it takes. Its papers may follow the token in force.
async fn come_in(sim: &Sim, cluster: &Cluster, host: &Host, papers: impl Fn(String) -> Papers) {
    while !cluster.come_in(host, &papers).await {
        host.wipe();
        sleep(sim.millis(100, 1000)).await;
    }
    sim.note(format_args!("machine {}: in as a manager", host.number));
}

/// Asks once for a node to be active, paused or drained.
pub(crate) async fn make_available(sim: Arc<Sim>, cluster: Arc<Cluster>, worker: Arc<Worker>) {
    let all = [
        Availability::ACTIVE,
        Availability::ACTIVE,
        Availability::PAUSE,
        Availability::DRAIN,
    ];
    let wanted = sim.pick(&all).copied().unwrap_or(Availability::ACTIVE);
    sim.note(format_args!("worker {}: {wanted:?}", worker.number));
    let node = Asked::of(&sim, &cluster, worker.node_id.clone());
    let change = |node: &Node| {
        let spec = NodeSpec {
            availability: Some(wanted),
            ..node.spec.clone()
        };
        (node.availability() != wanted).then(|| update(node, spec))
    };
    node.ask(change).await;
}

fn update(node: &Node, spec: NodeSpec) -> Command {
    Command::UpdateNode {
        id: node.id.clone(),
        version: node.meta.version,
        spec,
    }
}

/// A node of which something is asked.
struct Asked<'a> {
    sim: &'a Sim,
    cluster: &'a Cluster,
    node_id: String,
}

impl<'a> Asked<'a> {
    fn of(sim: &'a Sim, cluster: &'a Cluster, node_id: String) -> Self {
        Self {
            sim,
            cluster,
            node_id,
        }
    }

    /// Asks some manager for a change; `None` if it may have been made or not.
    async fn ask(&self, command: impl FnOnce(&Node) -> Option<Command>) -> Option<bool> {
        if self.sim.plant == Some(Plant::MuteOperators) {
            return None;
        }
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

    /// The role that it has now, if some manager can tell: it may have had each of them before.
    async fn role(&self) -> Option<Role> {
        let (manager, life) = self.cluster.any_manager()?;
        let read = life.during(timeout(PATIENCE, manager.group_by_leader()));
        let is_up_to_date = matches!(read.await, Some(Ok(Ok(_)))) && !life.is_over();
        let view = manager.view();
        let node = view.node(&self.node_id).filter(|_| is_up_to_date)?;
        Some(node.role)
    }

    /// Asks for a role until the node has it: a manager that is demoted is needed until it is out of the group. Not if it is
    /// refused at once.
    async fn becomes(&self, role: Role) -> bool {
        let wanted = match role {
            Role::Manager => NodeSpecRoleEnum::MANAGER,
            Role::Worker => NodeSpecRoleEnum::WORKER,
        };
        let change = |node: &Node| {
            let spec = NodeSpec {
                role: Some(wanted),
                ..node.spec.clone()
            };
            (node.desired_role() != role).then(|| update(node, spec))
        };
        let mut may_be_asked = false;
        while self.role().await != Some(role) {
            match self.ask(change).await {
                Some(false) if !may_be_asked => return false,
                _ => may_be_asked = true,
            }
            sleep(self.sim.millis(50, 500)).await;
        }
        true
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
