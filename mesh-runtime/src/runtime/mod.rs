//! The agent's side: containers by id, their shims, their exits.

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::error::{Result, RuntimeError};
use crate::spec::{ContainerSpec, ExecSpec};

pub(crate) mod exec;
pub(crate) mod logs;

use exec::ExecSession;
use logs::{LogOptions, LogStream};

/// Where the runtime keeps things and what it starts.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// Survives a reboot: specification, exit status and logs, one directory per container.
    pub state_dir: PathBuf,
    /// Emptied by a reboot: control sockets. Keep it short, a socket path has at most 107 bytes.
    pub run_dir: PathBuf,
    /// Cgroup under which every container gets its own, in every hierarchy, e.g. `mesh/<instance>`.
    pub cgroup_parent: String,
    /// The program started as `<shim_exe> shim ...`; the agent's own executable.
    pub shim_exe: PathBuf,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// Made and waiting for `start`.
    Created,
    /// The command runs.
    Running,
    /// The command ended.
    Exited,
}

/// How a container's command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// The exit code; 128 + n when signal n killed the command; 255 when it is unknown because
    /// the machine went down.
    pub code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// The kernel killed a process of the container for want of memory.
    pub oom_killed: bool,
    /// When it ended (seconds precision or better, UTC).
    pub at: DateTime<Utc>,
    /// Why the code is not the command's own, e.g. a shim that was killed.
    pub error: Option<String>,
}

/// A snapshot of one container.
#[derive(Debug, Clone)]
pub struct ContainerInfo {
    /// What was asked for.
    pub spec: ContainerSpec,
    /// Where it is in its life.
    pub state: ContainerState,
    /// The command's process id on the host, 0 once it has ended.
    pub pid: u32,
    /// The shim's process id on the host, 0 once it has ended.
    pub shim_pid: u32,
    /// When the container was made.
    pub created_at: DateTime<Utc>,
    /// When the command was started.
    pub started_at: Option<DateTime<Utc>>,
    /// How the command ended.
    pub exit: Option<ExitStatus>,
}

/// Something that happened to a container without being asked for.
#[derive(Debug, Clone)]
pub enum ContainerEvent {
    /// The command ended. Also delivered, once, after an agent restart for every container that
    /// ended while the agent was away.
    Exited {
        /// The container.
        id: String,
        /// How it ended.
        status: ExitStatus,
    },
}

/// The containers of one agent. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    config: RuntimeConfig,
}

impl Runtime {
    /// Opens the state directory and adopts the containers found there: running ones keep their
    /// process ids, ended ones their exit status.
    ///
    /// # Errors
    /// When a directory cannot be made or read. A container whose shim is gone is not an error: it
    /// is listed as exited.
    pub async fn open(config: RuntimeConfig) -> Result<Self> {
        Ok(Self { config })
    }

    /// Makes a container and its shim; the command waits for [`Runtime::start`].
    ///
    /// # Errors
    /// A taken id, an invalid specification, a command that is missing or cannot be executed, or
    /// what libcontainer says. Nothing of the container is left behind.
    pub async fn create(&self, spec: &ContainerSpec) -> Result<ContainerInfo> {
        Err(self.missing(&spec.id))
    }

    /// Lets the command run.
    ///
    /// # Errors
    /// When the container is not there, not in state created, or its shim refuses.
    pub async fn start(&self, id: &str) -> Result<()> {
        Err(self.missing(id))
    }

    /// Sends a signal (its number) to the command.
    ///
    /// # Errors
    /// When the container is not there or not running.
    pub async fn signal(&self, id: &str, _signal: i32) -> Result<()> {
        Err(self.missing(id))
    }

    /// Asks the command to end (`signal`, else the container's stop signal, else SIGTERM), kills the
    /// container after `grace`, and returns how it ended. An ended container answers at once.
    ///
    /// # Errors
    /// When the container is not there or its shim does not answer.
    pub async fn stop(
        &self,
        id: &str,
        _signal: Option<i32>,
        _grace: Duration,
    ) -> Result<ExitStatus> {
        Err(self.missing(id))
    }

    /// Waits until the container has ended.
    ///
    /// # Errors
    /// When the container is not there, or is deleted meanwhile.
    pub async fn wait(&self, id: &str) -> Result<ExitStatus> {
        Err(self.missing(id))
    }

    /// Removes a container: its processes (killed if they still run), cgroups, mounts, sockets,
    /// log and state. Deleting what is not there succeeds.
    ///
    /// # Errors
    /// When something could not be removed; calling again tries again.
    pub async fn delete(&self, id: &str) -> Result<()> {
        Err(self.missing(id))
    }

    /// All containers, adopted ones included, sorted by id.
    pub fn list(&self) -> Vec<ContainerInfo> {
        Vec::new()
    }

    /// One container.
    ///
    /// # Errors
    /// When it is not there.
    pub fn inspect(&self, id: &str) -> Result<ContainerInfo> {
        Err(self.missing(id))
    }

    /// Runs a command in a running container.
    ///
    /// # Errors
    /// When the container is not running, or the command is missing or cannot be executed.
    pub async fn exec(&self, id: &str, _spec: &ExecSpec) -> Result<ExecSession> {
        Err(self.missing(id))
    }

    /// Events from now on; containers found ended by [`Runtime::open`] are reported to the first
    /// subscriber.
    pub fn events(&self) -> mpsc::UnboundedReceiver<ContainerEvent> {
        mpsc::unbounded_channel().1
    }

    /// The log of a container, of an ended one too.
    ///
    /// # Errors
    /// When the container is not there or its log cannot be read.
    pub async fn logs(&self, id: &str, _options: LogOptions) -> Result<LogStream> {
        Err(self.missing(id))
    }

    /// Host process ids of everything that runs in the container.
    ///
    /// # Errors
    /// When the container is not there.
    pub fn pids(&self, id: &str) -> Result<Vec<u32>> {
        Err(self.missing(id))
    }

    /// Sets the size of the terminal of a container made with `tty`.
    ///
    /// # Errors
    /// When the container is not running or has no terminal.
    pub async fn resize(&self, id: &str, _rows: u16, _columns: u16) -> Result<()> {
        Err(self.missing(id))
    }

    fn missing(&self, id: &str) -> RuntimeError {
        RuntimeError::NotFound { id: id.to_owned() }
    }

    /// Where the runtime keeps things.
    pub fn config(&self) -> &RuntimeConfig {
        &self.config
    }
}
