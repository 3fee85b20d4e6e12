//! What the agent and a shim say to each other, and the files they leave for each other.
//!
//! The control socket carries one JSON object per line. A connection carries one [`Request`];
//! `Watch` and `Exec` keep it open for later replies. File descriptors travel as SCM_RIGHTS with
//! the first byte of the line they belong to. A shim may be older than the agent that adopts it:
//! fields and variants may be added here, never renamed or removed.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::RuntimeError;
use crate::runtime::{ContainerState, ExitStatus};
use crate::spec::LogLimits;

/// What a shim's program says it is. The number after the release counts up when a shim is asked for what an older one
/// does not do: containers are made only by shims that know all that their agent does.
pub(crate) const SHIM_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "+1");
/// The argument that asks a shim's program which one it is.
pub(crate) const SHIM_VERSION_FLAG: &str = "--version";
/// OCI configuration, in the container's state directory, the libcontainer "bundle".
pub(crate) const OCI_CONFIG: &str = "config.json";
/// The agent's record of the container, in the state directory.
pub(crate) const RECORD: &str = "container.json";
/// What the shim is to do, in the state directory.
pub(crate) const SHIM_CONFIG: &str = "shim.json";
/// How the command ended, in the state directory; written once, by rename.
pub(crate) const EXIT_FILE: &str = "exit.json";
/// The shim's own complaints, in the state directory.
pub(crate) const SHIM_LOG: &str = "shim.log";
/// The current log file, in the state directory; older ones have `.1`, `.2`, ... appended.
pub(crate) const LOG_FILE: &str = "output.log";
/// The control socket, in the container's run directory.
pub(crate) const SOCKET: &str = "shim.sock";
/// libcontainer's own state, in the container's run directory.
pub(crate) const OCI_STATE_DIR: &str = "oci";

/// Everything a shim needs besides the OCI configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ShimConfig {
    pub(crate) id: String,
    pub(crate) tty: bool,
    pub(crate) init: bool,
    pub(crate) log: LogLimits,
    /// The container's cgroup in the cgroup2 hierarchy.
    pub(crate) cgroup_v2: Option<PathBuf>,
    /// libcontainer does not place processes in `cgroup_v2` by itself (hosts with v1 controllers).
    pub(crate) join_cgroup_v2: bool,
    /// The file whose `oom_kill` line counts the kernel's kills.
    pub(crate) oom_file: Option<PathBuf>,
}

/// First line a shim writes to its standard output: the container waits, or why it does not.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ready {
    Created { pid: i32, shim_pid: i32 },
    Failed(Failure),
}

/// Why something could not be run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// 127 not found, 126 not executable, anything else: refused.
    pub(crate) code: i32,
    pub(crate) message: String,
}

impl Failure {
    /// `refused`: what anything but a command that cannot be executed becomes.
    pub(crate) fn into_error(self, refused: impl FnOnce(String) -> RuntimeError) -> RuntimeError {
        let message = self.message;
        match self.code {
            127 => RuntimeError::ExecutableNotFound { message },
            126 => RuntimeError::NotExecutable { message },
            _ => refused(message),
        }
    }
}

/// What the agent asks a shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Answered with `Status` at once and `Ended` when the command ends.
    Watch,
    /// Answered with `Done` once the command has been executed.
    Start,
    Signal {
        signal: i32,
    },
    Resize {
        rows: u16,
        columns: u16,
    },
    /// Carries stdin, stdout and stderr unless `tty`. Answered with `Started` (carrying the
    /// terminal if `tty`), later `Exited`.
    Exec(ExecRequest),
}

/// An exec with everything resolved.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ExecRequest {
    /// The OCI `process` object.
    pub(crate) process: serde_json::Value,
    pub(crate) tty: bool,
    pub(crate) size: Option<(u16, u16)>,
    /// Apply the container's seccomp filter.
    pub(crate) seccomp: bool,
    /// Ends, with all that it has started, when the agent closes its side of the connection.
    #[serde(default)]
    pub(crate) bound: bool,
}

/// What a shim answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    Done,
    Failed(Failure),
    Status {
        state: ContainerState,
        pid: i32,
        shim_pid: i32,
        started_at: Option<DateTime<Utc>>,
    },
    Started {
        pid: i32,
    },
    Exited {
        code: i32,
    },
    Ended(ExitRecord),
}

/// Content of [`EXIT_FILE`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ExitRecord {
    pub(crate) started_at: Option<DateTime<Utc>>,
    pub(crate) status: ExitStatus,
}

/// Writes a file so that a reader sees all of it or nothing.
pub(crate) fn write_atomically(path: &std::path::Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let temporary = path.with_extension("tmp");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    std::fs::rename(&temporary, path)
}

/// One line of the control protocol.
pub(crate) fn to_line<T: Serialize>(message: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}
