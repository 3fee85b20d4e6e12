//! Records, states and background work of tasks, and what is told of them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::SystemTime};

use anyhow::{Context, Result};
use mesh_api::proto::{self, TaskStatus};

use crate::{
    assignment::Assignment,
    links::{host::HostView, plan::container_id},
    node::LocalTask,
    reconcile::{
        Done, Reconciler,
        jobs::Order,
        listening,
        observe::{self, Observed},
        plan::Job,
        record::{Record, free_address},
        state::TaskState,
    },
};

impl Reconciler {
    pub(super) fn accept(&mut self, task: &proto::Task) -> Result<()> {
        let taken = observe::taken_addresses(&self.known);
        let pool = self.config.local_pool();
        let local = free_address(pool, &taken).with_context(|| {
            format!("no node-local address is free in {pool}; choose a larger --local-pool")
        })?;
        let now = now();
        let record = Record {
            task: task.clone(),
            status: status(&task.id, TaskState::Accepted, None, now),
            created: now,
            local: u32::from(local),
            ..Record::default()
        };
        self.records.store(&record).context("write a task record")?;
        self.known.insert(task.id.clone(), record);
        Ok(())
    }

    pub(super) fn move_to(
        &mut self,
        id: &str,
        state: TaskState,
        error: Option<String>,
        observed: &Observed,
    ) -> Result<()> {
        let Some(record) = self.known.get_mut(id) else {
            return Ok(());
        };
        let info = observed.containers.get(id);
        let mut next = status(id, state, error, now());
        next.container_id = container_id(id);
        if let Some(info) = info {
            next.pid = i32::try_from(info.pid).unwrap_or_default();
            next.exit_code = info.exit.as_ref().map(|exit| exit.code);
            // Until then it only starts.
            next.healthy = state == TaskState::Running && info.spec.health.is_some();
            record.started = info
                .started_at
                .and_then(|at| at.timestamp_nanos_opt())
                .unwrap_or(record.started);
        }
        if state.is_over() {
            record.finished = info
                .and_then(|info| info.exit.as_ref()?.at.timestamp_nanos_opt())
                .unwrap_or(next.timestamp);
        }
        if let Some(error) = (!next.error.is_empty()).then_some(&next.error) {
            tracing::warn!(task = record.task.name, state = state.word(), error);
        } else {
            tracing::info!(task = record.task.name, state = state.word());
        }
        record.status = next;
        self.records.store(record).context("write a task record")
    }

    pub(super) fn begin(&mut self, id: &str, job: Job, assignment: &Assignment) {
        let Some(record) = self.known.get(id) else {
            return;
        };
        let order = Order {
            task: record.task.clone(),
            netns: (!observe::uses_host_network(&record.task)).then(|| self.config.netns_path(id)),
            files: self.records.files(id),
            handover: self.config.handover_path(id),
            handouts: observe::handouts(assignment, &record.task).unwrap_or_default(),
            addresses: observe::links_of(&self.instance, assignment, record)
                .unwrap_or_default()
                .iter()
                .map(|link| IpAddr::V4(link.address))
                .collect(),
        };
        let ports = listening::ports(assignment, &record.task);
        let (tools, done, id) = (self.tools.clone(), self.done.clone(), id.to_owned());
        let key = id.clone();
        let handle = tokio::spawn(async move {
            let result = match job {
                Job::Prepare => tools.prepare(order).await,
                Job::Start => tools.start(&id).await,
                Job::Listen => tools.listen(&id, &ports).await,
                Job::Stop => tools.stop(&order.task).await,
                Job::Release => tools.release(&id).await,
                Job::Forget => tools.forget(&id).await,
            };
            let _ = done.send(Done { id, job, result });
        });
        self.jobs.insert(key, (job, handle));
    }

    /// Takes note of the end of a job.
    pub(in crate::reconcile) fn finish(&mut self, done: Done) {
        let Done { id, job, result } = done;
        self.jobs.remove(&id);
        let nothing = Observed {
            host: HostView::default(),
            containers: BTreeMap::new(),
        };
        let noted = match (job, result) {
            (Job::Forget, Ok(())) => {
                self.known.remove(&id);
                self.answering.remove(&id);
                self.watchers.forget(&id);
                self.statuses.forget(&id);
                self.records.remove(&id).context("remove a task record")
            }
            (Job::Listen, Ok(())) => {
                self.answering.insert(id.clone());
                Ok(())
            }
            (_, Ok(())) => Ok(()),
            (Job::Prepare, Err(error)) => self.move_to(
                &id,
                TaskState::Rejected,
                Some(format!("{error:#}")),
                &nothing,
            ),
            (Job::Start, Err(error)) => {
                self.move_to(&id, TaskState::Failed, Some(format!("{error:#}")), &nothing)
            }
            // Planned again by the next periodic pass.
            (job, Err(error)) => {
                tracing::warn!(
                    task = id,
                    ?job,
                    error = format!("{error:#}"),
                    "will be tried again"
                );
                return;
            }
        };
        if let Err(error) = noted {
            tracing::error!(task = id, error = format!("{error:#}"), "cannot take note");
        }
        self.wake.notify_one();
    }

    /// Tells session and API what there is.
    pub(in crate::reconcile) fn publish(&self) {
        for record in self.known.values() {
            self.statuses.report(record.status.clone());
        }
        let local = |record| {
            let mut task = LocalTask::of(record)?;
            // A container may run for long before its task does, if a health check says so.
            if record.state() == TaskState::Starting
                && let Ok(container) = self.tools.runtime.inspect(&record.task.id)
                && let Some(started) = container.started_at
            {
                task.started = started.timestamp_nanos_opt().unwrap_or_default();
                task.status.pid = i32::try_from(container.pid).unwrap_or_default();
            }
            Some(task)
        };
        let tasks: Vec<_> = self.known.values().filter_map(local).collect();
        self.tasks.send_if_modified(|old| {
            let changed = **old != tasks;
            if changed {
                *old = Arc::new(tasks);
            }
            changed
        });
    }
}

fn status(id: &str, state: TaskState, error: Option<String>, now: i64) -> TaskStatus {
    TaskStatus {
        task_id: id.to_owned(),
        state: state.word().to_owned(),
        timestamp: now,
        message: state.message().to_owned(),
        error: error.unwrap_or_default(),
        ..TaskStatus::default()
    }
}

/// Nanoseconds since the epoch.
pub(super) fn now() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .unwrap_or_default()
}
