//! What a container shall be: the agent's words, free of OCI and of Engine API types.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Everything the shim needs to know to make one container.
///
/// `Default` gives an empty specification; `id`, `rootfs` and `args` are required.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// Unique on the node; letters, digits, `_`, `-`, `.`, `+`.
    pub id: String,
    /// The prepared (mounted) root file system on the host.
    pub rootfs: PathBuf,
    /// The network namespace to join (a bind-mounted nsfs file); `None` shares the host's network.
    pub netns: Option<PathBuf>,
    /// Command and arguments (entrypoint and command already joined); never empty.
    pub args: Vec<String>,
    /// `KEY=value`; PATH, HOME, HOSTNAME (and TERM with a tty) are added when absent.
    pub env: Vec<String>,
    /// Working directory inside the container, created if missing; empty means `/`.
    pub cwd: String,
    /// `name`, `uid`, `name:group` or `uid:gid`, resolved inside the root; empty means root.
    pub user: String,
    /// Supplementary groups (names or ids), besides those `/etc/group` gives the user.
    pub groups: Vec<String>,
    /// Host name in the container's UTS namespace; empty means the first 12 characters of the id.
    pub hostname: String,
    /// Bind and tmpfs mounts, in order.
    pub mounts: Vec<Mount>,
    /// Host files bound over files of the container (resolv.conf, hosts, hostname).
    pub extra_files: Vec<ExtraFile>,
    /// Give the command a terminal; stdout and stderr are then one stream.
    pub tty: bool,
    /// Mount the root read-only.
    pub read_only_rootfs: bool,
    /// Capabilities over Docker's default set (`NET_ADMIN` or `CAP_NET_ADMIN`, `ALL`).
    pub cap_add: Vec<String>,
    /// Capabilities taken from Docker's default set (`ALL` takes everything, then `cap_add` counts).
    pub cap_drop: Vec<String>,
    /// Limits and reservations.
    pub resources: Resources,
    /// Per-process limits.
    pub ulimits: Vec<Ulimit>,
    /// Kernel parameters of the container's own namespaces (`net.*`, `kernel.shm*`, `fs.mqueue.*`, ...).
    pub sysctls: BTreeMap<String, String>,
    /// Run a small init as process 1 that forwards signals and reaps orphans.
    pub init: bool,
    /// Forbid gaining privileges through set-uid programs.
    pub no_new_privileges: bool,
    /// Switch the seccomp filter off (`--security-opt seccomp=unconfined`).
    pub seccomp_unconfined: bool,
    /// Signal number that asks the command to end; `None` means SIGTERM.
    pub stop_signal: Option<i32>,
    /// Carried along for whoever lists containers; not interpreted.
    pub labels: BTreeMap<String, String>,
    /// How to find out whether it does well. Carried along for whoever asks it; the runtime does not.
    pub health: Option<HealthCheck>,
    /// Rotation of the container's log.
    pub log: LogLimits,
}

/// A command that tells by its exit code whether a container does well, and when to run it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// Command and arguments; never empty.
    pub command: Vec<String>,
    /// From the container's start to the first run, and from the end of one to the next.
    pub interval: Duration,
    /// A run that takes longer has failed.
    pub timeout: Duration,
    /// Time after the container's start in which failures do not count, until a run succeeds.
    pub start_period: Duration,
    /// In place of `interval` during that time.
    pub start_interval: Duration,
    /// So many failures in a row make it unhealthy.
    pub retries: u32,
}

/// Limits enforced by cgroups. Zero or `None` means no limit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Bytes of memory above which the OOM killer acts; with swap twice as many, as Docker does.
    pub memory_limit: Option<i64>,
    /// Bytes kept for the container under memory pressure (a soft limit).
    pub memory_reservation: Option<i64>,
    /// Billionths of a CPU: 500_000_000 is half a core.
    pub nano_cpus: Option<i64>,
    /// Processes and threads.
    pub pids_limit: Option<i64>,
    /// -1000..=1000, how readily the kernel kills the container when the host is out of memory.
    pub oom_score_adj: Option<i32>,
}

/// A mount besides the default ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mount {
    /// A host directory or file.
    Bind(BindMount),
    /// Memory.
    Tmpfs(TmpfsMount),
}

/// A host directory or file shown inside the container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BindMount {
    /// Absolute host path; must exist.
    pub source: PathBuf,
    /// Absolute path in the container; created if missing.
    pub target: PathBuf,
    /// Forbid writing.
    pub read_only: bool,
    /// Leave out mounts below the source.
    pub non_recursive: bool,
    /// `private`, `rprivate`, `shared`, `rshared`, `slave`, `rslave`; empty means `rprivate`.
    pub propagation: String,
}

/// A file system in memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TmpfsMount {
    /// Absolute path in the container.
    pub target: PathBuf,
    /// Bytes; 0 means the kernel's default (half the memory).
    pub size: u64,
    /// Permission bits, e.g. 0o1777; 0 means 0o1777.
    pub mode: u32,
    /// Forbid writing.
    pub read_only: bool,
}

/// One host file bound to one path of the container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExtraFile {
    /// Host path.
    pub source: PathBuf,
    /// Path in the container.
    pub target: PathBuf,
    /// Forbid writing.
    pub read_only: bool,
}

/// A per-process limit (`setrlimit`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, `nproc`, `core`, ... without the RLIMIT_ prefix, any case.
    pub name: String,
    /// Soft limit; -1 is unlimited.
    pub soft: i64,
    /// Hard limit; -1 is unlimited.
    pub hard: i64,
}

/// When the shim starts a new log file and how many it keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogLimits {
    /// Bytes per file.
    pub max_size: u64,
    /// Files kept, the current one included; at least 1.
    pub max_files: u32,
    /// Nothing is kept; what the container writes is read and forgotten.
    pub is_off: bool,
}

impl Default for LogLimits {
    /// 10 MiB in up to 3 files: a chatty task cannot fill the disk.
    fn default() -> Self {
        Self {
            max_size: 10 << 20,
            max_files: 3,
            is_off: false,
        }
    }
}

/// A command run beside the container's own, in the same namespaces and cgroups.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// Command and arguments; never empty.
    pub args: Vec<String>,
    /// `KEY=value`, over the container's environment.
    pub env: Vec<String>,
    /// Working directory; empty means the container's.
    pub cwd: String,
    /// As [`ContainerSpec::user`]; empty means the container's user.
    pub user: String,
    /// Give the command a terminal.
    pub tty: bool,
    /// Terminal size (rows, columns) to begin with.
    pub size: Option<(u16, u16)>,
    /// Connect standard input; without it the command reads from /dev/null.
    pub stdin: bool,
    /// Run with all capabilities and without the seccomp filter.
    pub privileged: bool,
    /// Leave nothing behind: what the command has started is killed when the command ends, and both when nobody holds
    /// the session's handle any more, this process included.
    pub bound: bool,
}

/// Which of a process's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// Standard output (and everything a terminal shows).
    Stdout,
    /// Standard error.
    Stderr,
}
