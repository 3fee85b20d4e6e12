//! What the runtime tells about containers.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::spec::ContainerSpec;

/// Where the runtime keeps things and what it starts.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// Survives a reboot: specification, exit status and logs, one directory per container.
    pub state_dir: PathBuf,
    /// Emptied by a reboot: control sockets.
    pub run_dir: PathBuf,
    /// Cgroup under which every container gets its own, in every hierarchy, e.g. `mesh/<instance>`.
    pub cgroup_parent: String,
    /// The program started as `<shim_exe> shim ...`: `mesh-shim`, of the same version as this crate.
    pub shim_exe: PathBuf,
    /// A program with [`shim_main`](crate::shim_main) in it, the agent's own, which is started in the shim's place, as
    /// `<agent_exe> shim ...`, where that one is missing or of another version.
    pub agent_exe: Option<PathBuf>,
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

impl ContainerState {
    /// Docker's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "exited",
        }
    }
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
    /// When it ended.
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

impl ContainerInfo {
    /// The root file system of one that has not ended, as its shim sees it: this process may be in another mount namespace
    /// than the one that it was mounted in.
    pub fn rootfs(&self) -> PathBuf {
        let seen = PathBuf::from(format!("/proc/{}/root", self.shim_pid));
        seen.join(
            self.spec
                .rootfs
                .strip_prefix("/")
                .unwrap_or(&self.spec.rootfs),
        )
    }
}

/// Something that happened to a container without being asked for.
#[derive(Debug, Clone)]
pub enum ContainerEvent {
    /// The command ended. Also delivered for every container that [`Runtime::open`](crate::Runtime::open) finds ended.
    Exited {
        /// The container.
        id: String,
        /// How it ended.
        status: ExitStatus,
    },
}
