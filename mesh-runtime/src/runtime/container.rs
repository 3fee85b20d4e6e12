//! One container as the agent knows it, and the task that watches its shim.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::client::Connection;
use super::{ContainerInfo, ContainerState, ExitStatus};
use crate::cgroup::Hierarchies;
use crate::error::{Result, RuntimeError};
use crate::spec::ContainerSpec;
use crate::wire::{self, ExitRecord, Failure, Reply, Request};

/// Content of the agent's record in the state directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) spec: ContainerSpec,
    pub(super) cgroup: String,
    pub(super) created_at: DateTime<Utc>,
}

/// What changes in a container's life.
#[derive(Debug, Clone)]
pub(super) struct Status {
    pub(super) state: ContainerState,
    pub(super) pid: i32,
    pub(super) shim_pid: i32,
    pub(super) started_at: Option<DateTime<Utc>>,
    pub(super) exit: Option<ExitStatus>,
    /// The shim has ended as well: nothing of the container runs any more.
    pub(super) shim_gone: bool,
}

impl Status {
    fn ended(record: ExitRecord, shim_gone: bool) -> Self {
        Self {
            state: ContainerState::Exited,
            pid: 0,
            shim_pid: 0,
            started_at: record.started_at,
            exit: Some(record.status),
            shim_gone,
        }
    }
}

/// One container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) record: Record,
    pub(super) state_dir: PathBuf,
    pub(super) run_dir: PathBuf,
    pub(super) status: watch::Sender<Status>,
}

impl Container {
    pub(super) fn id(&self) -> &str {
        &self.record.spec.id
    }

    pub(super) fn new(
        record: Record,
        state_dir: PathBuf,
        run_dir: PathBuf,
        pid: i32,
        shim_pid: i32,
    ) -> Self {
        let status = Status {
            state: ContainerState::Created,
            pid,
            shim_pid,
            started_at: None,
            exit: None,
            shim_gone: false,
        };
        Self {
            record,
            state_dir,
            run_dir,
            status: watch::Sender::new(status),
        }
    }

    pub(super) fn info(&self) -> ContainerInfo {
        let status = self.status.borrow();
        ContainerInfo {
            spec: self.record.spec.clone(),
            state: status.state,
            pid: status.pid as u32,
            shim_pid: status.shim_pid as u32,
            created_at: self.record.created_at,
            started_at: status.started_at,
            exit: status.exit.clone(),
        }
    }

    /// Sends a request that is answered with `Done`.
    pub(super) async fn command(&self, request: &Request) -> Result<()> {
        let mut connection = self.connect(request, &[]).await?;
        match connection.answer().await {
            Ok(Reply::Done) => Ok(()),
            Ok(Reply::Failed(failure)) => Err(self.failed(failure)),
            Ok(_) => Err(self.gone(std::io::ErrorKind::InvalidData.into())),
            Err(error) => Err(self.gone(error)),
        }
    }

    pub(super) async fn connect(
        &self,
        request: &Request,
        attached: &[std::os::fd::RawFd],
    ) -> Result<Connection> {
        Connection::open(&self.run_dir, request, attached)
            .await
            .map_err(|error| self.gone(error))
    }

    pub(super) fn gone(&self, source: std::io::Error) -> RuntimeError {
        RuntimeError::ShimGone {
            id: self.id().to_owned(),
            source,
        }
    }

    pub(super) fn failed(&self, failure: Failure) -> RuntimeError {
        failure.into_error(|reason| RuntimeError::Shim {
            id: self.id().to_owned(),
            reason,
        })
    }

    /// Reads how the command ended, if the shim has written that.
    pub(super) fn read_exit(&self) -> Option<ExitRecord> {
        let bytes = fs::read(self.state_dir.join(wire::EXIT_FILE)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Connects to the shim and takes its status.
    pub(super) async fn attach(&self) -> Attached {
        let mut connection = match Connection::open(&self.run_dir, &Request::Watch, &[]).await {
            Ok(connection) => connection,
            Err(error) => return Attached::failed(error),
        };
        match connection.answer().await {
            Ok(Reply::Status {
                state,
                pid,
                shim_pid,
                started_at,
            }) => {
                self.status.send_modify(|status| {
                    status.state = state;
                    status.pid = pid;
                    status.shim_pid = shim_pid;
                    status.started_at = started_at;
                });
                Attached::Connected(connection)
            }
            Ok(_) => Attached::Unclear(std::io::ErrorKind::InvalidData.into()),
            Err(error) => Attached::Unclear(error),
        }
    }

    /// Follows a shim until it hangs up.
    pub(super) async fn follow(&self, mut connection: Connection) {
        loop {
            match connection.next().await {
                Ok(Reply::Ended(record)) => {
                    self.status.send_replace(Status::ended(record, false));
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    /// The shim is gone: makes sure that the container is as well, and that its end is recorded.
    /// The exit file counts; without one the container was lost, and `lost` says how.
    pub(super) async fn settle(&self, hierarchies: &Hierarchies, lost: Lost) {
        if self.status.borrow().shim_gone {
            return;
        }
        let (hierarchies, cgroup) = (hierarchies.clone(), self.record.cgroup.clone());
        let killed = tokio::task::spawn_blocking(move || hierarchies.kill_all(&cgroup)).await;
        if let Ok(Err(error)) = killed {
            tracing::warn!(id = self.id(), %error, "processes of a container are left");
        }
        let record = self.read_exit().unwrap_or_else(|| {
            let record = ExitRecord {
                started_at: self.status.borrow().started_at,
                status: lost.status(),
            };
            let path = self.state_dir.join(wire::EXIT_FILE);
            let bytes = serde_json::to_vec(&record).unwrap_or_default();
            if let Err(error) = wire::write_atomically(&path, &bytes) {
                tracing::warn!(path = %path.display(), %error, "cannot record an exit status");
            }
            record
        });
        self.status.send_replace(Status::ended(record, true));
    }

    /// Waits until `condition` holds.
    pub(super) async fn until(&self, condition: impl FnMut(&Status) -> bool) -> Status {
        let mut receiver = self.status.subscribe();
        // The sender is part of self, so it cannot go away.
        match receiver.wait_for(condition).await {
            Ok(status) => status.clone(),
            Err(_) => self.status.borrow().clone(),
        }
    }

    pub(super) fn wrong_state(&self, needed: &'static str) -> RuntimeError {
        RuntimeError::WrongState {
            id: self.id().to_owned(),
            actual: self.status.borrow().state.as_str(),
            needed,
        }
    }
}

/// What came of connecting to a shim.
#[derive(Debug)]
pub(super) enum Attached {
    Connected(Connection),
    /// There is no socket, or nobody behind it.
    Gone,
    /// Something else went wrong (no descriptors left, a stopped shim): the container may well run.
    Unclear(std::io::Error),
}

impl Attached {
    fn failed(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => Self::Gone,
            _ => Self::Unclear(error),
        }
    }
}

/// Why there is no exit status.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lost {
    /// The shim ended while we were connected.
    ShimKilled,
    /// There was no shim when the agent started.
    NoShim,
}

impl Lost {
    fn status(self) -> ExitStatus {
        let (code, signal, error) = match self {
            Self::ShimKilled => (137, Some(libc::SIGKILL), "the container's shim was killed"),
            Self::NoShim => (
                255,
                None,
                "the container's shim was gone when the agent started (the machine went down?)",
            ),
        };
        ExitStatus {
            code,
            signal,
            oom_killed: false,
            at: Utc::now(),
            error: Some(error.to_owned()),
        }
    }
}

/// Shared by everything that needs a container for longer than a call.
pub(super) type ContainerRef = Arc<Container>;
