//! Which tasks' health checks go on, and what the plan has to know of them.

use std::time::Duration;

use anyhow::{Context, Result};

use super::tasks::now;
use crate::{
    assignment::Assignment,
    health::Status,
    reconcile::{
        Reconciler,
        observe::Observed,
        plan::{Container, Health, Job},
        state::{TaskState, Wanted},
    },
};

/// How long the managers may take to have an unhealthy task ended before the node does it by itself: they wait for other
/// nodes for two seconds at most, and longer only while they elect a leader.
const TOLD: Duration = Duration::from_secs(15);

impl Reconciler {
    /// Has the tasks watched that run and shall go on, and no others.
    pub(in crate::reconcile) fn watch(&mut self, assignment: &Assignment, observed: &Observed) {
        for (id, record) in &self.known {
            let wanted = assignment.tasks.get(id);
            let goes_on = wanted.is_some_and(|task| {
                Wanted::parse(&task.desired_state) < Wanted::Shutdown
                    && !record.state().is_over()
                    && !record.status.unhealthy
                    && observed.container(id) == Container::Running
            });
            let is_stopped = matches!(self.jobs.get(id), Some((Job::Stop, _)));
            match observed.containers.get(id) {
                Some(container) if goes_on && !is_stopped => {
                    let begin = if record.state() == TaskState::Running {
                        Status::Healthy
                    } else {
                        Status::Starting
                    };
                    self.watchers.watch(&self.tools.runtime, container, begin);
                }
                _ => self.watchers.leave(id),
            }
        }
    }

    /// What the plan has to know of a task's health.
    pub(super) fn health(&self, id: &str, observed: &Observed) -> Health {
        let told = self.known.get(id).filter(|task| task.status.unhealthy);
        if let Some(record) = told {
            let since = now().saturating_sub(record.status.timestamp);
            let is_late = u64::try_from(since).is_ok_and(|s| Duration::from_nanos(s) > TOLD);
            return if is_late { Health::Late } else { Health::Told };
        }
        let container = observed.containers.get(id);
        if container.is_none_or(|container| container.spec.health.is_none()) {
            return Health::Good;
        }
        match self.watchers.status(id) {
            Some(Status::Unhealthy) => Health::Bad,
            Some(Status::Healthy) => Health::Good,
            Some(Status::Starting) | None => Health::Awaited,
        }
    }

    /// Tells the managers that a task's health check has failed for good.
    pub(super) fn accuse(&mut self, id: &str) -> Result<()> {
        let Some(record) = self.known.get_mut(id) else {
            return Ok(());
        };
        tracing::warn!(task = record.task.name, "unhealthy");
        record.status.unhealthy = true;
        record.status.timestamp = now();
        self.records.store(record).context("write a task record")
    }
}
