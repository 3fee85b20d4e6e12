//! Join tokens that are changed: one that is not in force any more lets nobody in, whichever manager is asked.

use crate::{
    cluster::Cluster,
    machine::certify,
    network::Caller,
    sim::{Life, Sim},
    violation::{Plant, Violation},
};
use mesh_manager::Command;
use rand::Rng;
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(8);

/// Has a token changed, and tries the one before it.
pub(crate) async fn rotate(sim: Arc<Sim>, cluster: Arc<Cluster>) {
    let Some((manager, life)) = cluster.any_manager() else {
        return;
    };
    let is_workers = sim.chance(0.5);
    let lasts = sim.plant == Some(Plant::LastingTokens);
    let Some((old, command)) = ({
        let view = manager.view();
        view.cluster().map(|cluster| {
            let old = match is_workers {
                true => &cluster.worker_token,
                false => &cluster.manager_token,
            };
            let command = Command::UpdateSwarm {
                version: cluster.meta.version,
                spec: cluster.spec.clone(),
                rotate_worker_token: is_workers && !lasts,
                rotate_manager_token: !is_workers && !lasts,
                rotate_unlock_key: false,
                unlock_key: None,
                root: None,
            };
            (old.clone(), command)
        })
    }) else {
        return;
    };
    let called = life.during(timeout(PATIENCE, manager.call(command))).await;
    if !matches!(called, Some(Ok(Ok(_)))) || life.is_over() {
        return;
    }
    sim.note(format_args!("a token was changed"));
    let Some(asked) = sim.pick(&cluster.in_use()).copied() else {
        return;
    };
    let thief = Caller {
        machine: sim.dice().random_range(1..=cluster.machines()),
        life: Life::default(),
        certificate: Arc::default(),
    };
    if certify(&sim, thief, asked, &old).await.is_ok() {
        sim.violated(
            Violation::OldToken,
            format_args!("manager {asked} let a node in by a token that was changed before"),
        );
    }
}
