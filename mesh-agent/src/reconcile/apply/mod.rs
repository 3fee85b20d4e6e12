//! Brings about what was planned. Nothing else in the agent writes maps, links or names.
//!
//! This file walks the steps · `connect` namespaces, links, name servers · `network` packet path,
//! names, egress · `cipher` encrypted networks · `sockets` those of ended backends · `tasks` records, states and background work ·
//! `health` who is watched, and what is told of the sick.

pub(crate) mod cipher;
mod connect;
mod health;
mod network;
mod sockets;
mod tasks;

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result};
use mesh_runtime::{ContainerInfo, ContainerState};

use super::{
    Reconciler,
    observe::{self, Observed},
    plan::{self, Step, TaskFacts},
    record::Record,
    state::Wanted,
};
use crate::{assignment::Assignment, links::egress};

impl Reconciler {
    /// One pass: observe, plan, apply.
    pub(in crate::reconcile) async fn pass(&mut self, assignment: &Arc<Assignment>) -> Result<()> {
        let observed = Observed {
            host: self.host.observe().await?,
            containers: self
                .tools
                .runtime
                .list()
                .into_iter()
                .map(|info| (info.spec.id.clone(), info))
                .collect(),
        };
        for (id, task) in &assignment.tasks {
            if let Some(record) = self.known.get_mut(id)
                && record.task != *task
            {
                record.task = task.clone();
                self.records.store(record).context("write a task record")?;
            }
        }
        self.watch(assignment, &observed);
        let steps = self.plan(assignment, &observed);
        let again = !steps.is_empty();
        let rewired = self.carry_out(assignment, &observed, steps).await?;
        let host = if rewired {
            self.host.observe().await?
        } else {
            observed.host
        };
        let network = self.apply_network(assignment, &host).await;
        self.publish();
        if again {
            self.wake.notify_one();
        }
        network?;
        let revision = assignment.revision;
        self.applied
            .send_if_modified(|old| std::mem::replace(old, revision) != revision);
        Ok(())
    }

    fn plan(&self, assignment: &Assignment, observed: &Observed) -> Vec<(String, Step)> {
        let mut ids: Vec<_> = assignment.tasks.keys().chain(self.known.keys()).collect();
        ids.sort();
        ids.dedup();
        ids.into_iter()
            .filter_map(|id| {
                let record = self.known.get(id);
                let facts = TaskFacts {
                    wanted: assignment
                        .tasks
                        .get(id)
                        .map(|t| Wanted::parse(&t.desired_state)),
                    state: record.map(Record::state),
                    container: observed.container(id),
                    handed: record.is_none_or(|record| observe::is_handed(assignment, record)),
                    job: self.jobs.get(id).map(|(job, _)| *job),
                    net: record.map_or(plan::Net::Absent, |record| {
                        let configured = self.configured.contains_key(id);
                        observe::net_of(
                            &self.config,
                            &self.instance,
                            assignment,
                            observed,
                            record,
                            configured,
                        )
                    }),
                    names: self.servers.contains_key(id),
                    answers: self.answering.contains(id),
                    health: self.health(id, observed),
                    rootfs: observed.containers.get(id).is_some_and(has_rootfs),
                };
                plan::next(&facts).map(|step| (id.clone(), step))
            })
            .collect()
    }

    /// Does every step; returns whether links changed. One task's failure does not hold up the
    /// others: it is told, and the step planned again by a later pass.
    async fn carry_out(
        &mut self,
        assignment: &Assignment,
        observed: &Observed,
        steps: Vec<(String, Step)>,
    ) -> Result<bool> {
        let mut rewired = false;
        for stray in observe::stray_links(&observed.host, &self.instance, &self.known) {
            self.host.delete(stray.index).await?;
            rewired = true;
        }
        let mut connect = Vec::new();
        for (id, step) in steps {
            tracing::debug!(task = id, ?step, "next");
            rewired |= matches!(step, Step::Disconnect);
            let done = match step {
                Step::Accept => self.accept(&assignment.tasks[&id]),
                Step::Move(state, error) => self.move_to(&id, state, error, observed),
                Step::Accuse => self.accuse(&id),
                Step::Connect => {
                    connect.push(id.clone());
                    Ok(())
                }
                Step::Serve => {
                    self.serve(&id).await;
                    Ok(())
                }
                Step::Disconnect => self.disconnect(&id, &observed.host).await,
                Step::Abort => {
                    if let Some((_, handle)) = self.jobs.remove(&id) {
                        handle.abort();
                    }
                    Ok(())
                }
                Step::Begin(job) => {
                    self.begin(&id, job, assignment);
                    Ok(())
                }
            };
            if let Err(error) = done {
                tracing::error!(task = id, error = format!("{error:#}"), "step failed");
            }
        }
        if !connect.is_empty() {
            rewired = true;
            self.connect_all(assignment, observed, connect).await?;
        }
        Ok(rewired)
    }

    /// Looks at what no notice tells about.
    pub(in crate::reconcile) async fn look_closer(&mut self) {
        if self.egress.is_some() && !egress::exists(&self.instance).await {
            self.egress = None;
        }
        // Tasks that never had a container, and file systems that were busy.
        let volumes = self.tools.volumes.clone();
        tokio::spawn(async move { volumes.settle().await });
    }
}

/// Whether there is a task's root file system. An agent before this one may have mounted it in another mount namespace, in
/// which its shim still is.
fn has_rootfs(container: &ContainerInfo) -> bool {
    match container.state {
        ContainerState::Exited => container.spec.rootfs.exists(),
        _ => is_mounted(&container.spec.rootfs) || is_mounted(&container.rootfs()),
    }
}

fn is_mounted(rootfs: &Path) -> bool {
    nix::sys::statfs::statfs(rootfs)
        .is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::OVERLAYFS_SUPER_MAGIC)
}
