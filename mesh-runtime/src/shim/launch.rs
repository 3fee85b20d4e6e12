//! Calling libcontainer, always in a freshly forked helper process.
//!
//! The helper moves into the container's cgroup2 directory where libcontainer does not do that
//! itself, builds, and reports over a socket pair: one line, with the terminal attached if there is
//! one. What it made becomes a child of the shim (a subreaper) when the helper ends.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid};
use serde::{Deserialize, Serialize};

use super::console::Console;
use super::diagnose::Recording;
use super::executor::{Confinement, MeshExecutor, unmark};
use super::leaf::Leaf;
use super::{log, refused};
use crate::cgroup::device;
use crate::fds;
use crate::spec::Output;
use crate::wire::{self, ExecRequest, Failure, ShimConfig};

/// Most that is kept of a command's output until the shim reads it, in bytes: what any user may have (pipe(7)).
const STREAM_ROOM: i32 = 1 << 20;

/// What a helper reports.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Outcome {
    Running(i32),
    Failed(Failure),
}

/// The command's stdio: both ends, until the container has its own.
pub(super) struct Streams {
    pairs: Option<[(OwnedFd, OwnedFd); 2]>,
}

impl Streams {
    pub(super) fn new(tty: bool) -> io::Result<Self> {
        let pairs = if tty {
            None
        } else {
            Some([stream()?, stream()?])
        };
        Ok(Self { pairs })
    }

    /// Keeps the reading ends and closes the writing ends, which are the container's now.
    pub(super) fn into_sources(self) -> Vec<log::Source> {
        let Some([(stdout, _), (stderr, _)]) = self.pairs else {
            return Vec::new();
        };
        vec![
            log::Source::new(stdout, Output::Stdout),
            log::Source::new(stderr, Output::Stderr),
        ]
    }
}

/// A container that waits to be started.
pub(super) struct Launched {
    pub(super) pid: Pid,
    pub(super) terminal: Option<OwnedFd>,
    /// As [`Shim::exec_error`](super::Shim::exec_error).
    pub(super) exec_error: OwnedFd,
}

/// Makes the container and waits for it.
pub(super) fn container(
    config: &ShimConfig,
    state: &Path,
    run: &Path,
    streams: &Streams,
) -> Result<Launched, Failure> {
    let (error_read, error_write) = pipe().map_err(|e| refused(format!("make a pipe: {e}")))?;
    let error_fd = error_write.as_raw_fd();
    let (helper, channel) = fork_helper(|report| {
        report.finish(build_container(config, state, run, streams, error_fd));
    })
    .map_err(|e| refused(format!("fork: {e}")))?;
    drop(error_write);
    let result = receive_outcome(&channel);
    let _ = waitpid(helper, None);
    match result.map_err(|e| refused(format!("the helper that makes the container died: {e}")))? {
        (Outcome::Running(pid), terminal) => Ok(Launched {
            pid: Pid::from_raw(pid),
            terminal,
            exec_error: error_read,
        }),
        (Outcome::Failed(failure), _) => Err(failure),
    }
}

/// Lets a container's command run.
pub(super) fn start(config: &ShimConfig, run: &Path) -> Result<(), Failure> {
    let (helper, channel) = fork_helper(|report| {
        let directory = run.join(wire::OCI_STATE_DIR).join(&config.id);
        let result = Container::load(directory)
            .and_then(|mut container| container.start())
            .map_err(|error| refused(chain(&error)));
        report.finish(result.map(|()| (0, None)));
    })
    .map_err(|e| refused(format!("fork: {e}")))?;
    let result = receive_outcome(&channel);
    let _ = waitpid(helper, None);
    match result.map_err(|e| refused(format!("the helper that starts the command died: {e}")))? {
        (Outcome::Running(_), _) => Ok(()),
        (Outcome::Failed(failure), _) => Err(failure),
    }
}

/// Starts an exec, in a cgroup of its own if one is given; the outcome arrives on the returned socket.
pub(super) fn exec(
    config: &ShimConfig,
    state: &Path,
    run: &Path,
    serial: u64,
    request: &ExecRequest,
    stdio: Vec<OwnedFd>,
    leaf: Option<&Leaf>,
) -> io::Result<(Pid, UnixStream)> {
    fork_helper(|report| {
        let result = build_exec(config, state, run, serial, request, stdio, leaf);
        report.finish(result);
    })
}

/// Removes the sockets that libcontainer leaves behind at every exec. Call it while no exec starts.
pub(super) fn sweep(config: &ShimConfig, run: &Path) {
    let oci = run.join(wire::OCI_STATE_DIR).join(&config.id);
    for (directory, prefix) in [(oci.as_path(), "tenant-"), (run, "exec-")] {
        let Ok(entries) = fs::read_dir(directory) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                // What stays is removed with the container.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// The helper's end of the report socket.
struct Report {
    socket: UnixStream,
}

impl Report {
    fn finish(&self, result: Result<(i32, Option<OwnedFd>), Failure>) {
        let (outcome, terminal) = match result {
            Ok((pid, terminal)) => (Outcome::Running(pid), terminal),
            Err(failure) => (Outcome::Failed(failure), None),
        };
        let attached: Vec<_> = terminal.iter().map(AsRawFd::as_raw_fd).collect();
        let _ = fds::send(self.socket.as_fd(), &wire::to_line(&outcome), &attached);
    }
}

fn fork_helper(body: impl FnOnce(Report)) -> io::Result<(Pid, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    // SAFETY: the shim has one thread, so the child may do anything.
    match unsafe { nix::unistd::fork()? } {
        ForkResult::Parent { child } => Ok((child, ours)),
        ForkResult::Child => {
            drop(ours);
            body(Report { socket: theirs });
            // SAFETY: takes a number; nothing of the shim's may be torn down by its helper.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Reads a helper's report.
pub(super) fn receive_outcome(channel: &UnixStream) -> io::Result<(Outcome, Option<OwnedFd>)> {
    let mut line = Vec::new();
    let mut attached = Vec::new();
    let mut buffer = [0; 4096];
    while !line.ends_with(b"\n") {
        match fds::receive(channel.as_fd(), &mut buffer, &mut attached)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => line.extend_from_slice(&buffer[..count]),
        }
    }
    Ok((serde_json::from_slice(&line)?, attached.pop()))
}

fn build_container(
    config: &ShimConfig,
    state: &Path,
    run: &Path,
    streams: &Streams,
    error_fd: i32,
) -> Result<(i32, Option<OwnedFd>), Failure> {
    let recording = Recording::begin(&state.join(wire::SHIM_LOG));
    prepare_cgroup(config)?;
    let console = Console::new(config.tty, run, "console").map_err(console_failure)?;
    let mut builder = builder(config, run)?
        .with_console_socket(console.path())
        .with_executor(MeshExecutor {
            init: config.init,
            error_fd: Some(error_fd),
            cgroup: None,
            confine: None,
            directory: None,
            window: None,
        });
    if let Some([(_, stdout), (_, stderr)]) = &streams.pairs {
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(|e| refused(e.to_string()));
        builder = builder
            .with_stdin(null().map_err(|e| refused(e.to_string()))?)
            .with_stdout(copy(stdout)?)
            .with_stderr(copy(stderr)?);
    }
    let container = builder
        .as_init(state)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(|error| explain(&error, &recording))?;
    let pid = container
        .pid()
        .ok_or_else(|| refused("libcontainer made no process".to_owned()))?;
    let terminal = console.receive().map_err(console_failure)?;
    Ok((pid.as_raw(), terminal))
}

fn build_exec(
    config: &ShimConfig,
    state: &Path,
    run: &Path,
    serial: u64,
    request: &ExecRequest,
    stdio: Vec<OwnedFd>,
    leaf: Option<&Leaf>,
) -> Result<(i32, Option<OwnedFd>), Failure> {
    let recording = Recording::begin(&state.join(wire::SHIM_LOG));
    join_cgroup(config)?;
    // Open until the command is executed.
    let entry = leaf
        .map(Leaf::entry)
        .transpose()
        .map_err(|e| refused(format!("open a cgroup: {e}")))?;
    let name = format!("exec-{serial}");
    let console = Console::new(request.tty, run, &name).map_err(console_failure)?;
    let path = run.join(format!("{name}.json"));
    let (mut process, confine) = confinement(state, request)?;
    let directory = process["cwd"].as_str().map(str::to_owned);
    process["cwd"] = serde_json::json!("/");
    fs::write(&path, process.to_string())
        .map_err(|e| refused(format!("write {}: {e}", path.display())))?;
    let mut builder = builder(config, run)?
        .with_console_socket(console.path())
        .with_executor(MeshExecutor {
            init: false,
            error_fd: None,
            cgroup: entry.as_ref().map(AsRawFd::as_raw_fd),
            confine: Some(confine),
            directory,
            window: request.size.filter(|_| request.tty),
        });
    if !request.tty {
        let [stdin, stdout, stderr]: [OwnedFd; 3] = stdio
            .try_into()
            .map_err(|_| refused("an exec without terminal needs three descriptors".to_owned()))?;
        builder = builder
            .with_stdin(stdin)
            .with_stdout(stdout)
            .with_stderr(stderr);
    }
    let result = builder
        .as_tenant()
        .with_process(Some(&path))
        .with_detach(true)
        .build()
        .map_err(|error| explain(&error, &recording));
    let _ = fs::remove_file(&path);
    let pid = result?;
    let terminal = console.receive().map_err(console_failure)?;
    Ok((pid.as_raw(), terminal))
}

/// libcontainer applies no seccomp filter to an exec, so our executor does. Loading a filter needs
/// CAP_SYS_ADMIN and giving up capabilities CAP_SETPCAP: the process is made with both, and the
/// executor takes away what the command shall not have.
fn confinement(
    state: &Path,
    request: &ExecRequest,
) -> Result<(serde_json::Value, Confinement), Failure> {
    let mut process = request.process.clone();
    let capabilities: Vec<String> =
        serde_json::from_value(process["capabilities"]["bounding"].clone()).unwrap_or_default();
    let mut filter = None;
    if request.seccomp {
        let spec = Spec::load(state.join(wire::OCI_CONFIG)).map_err(|e| refused(e.to_string()))?;
        filter = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.seccomp().clone());
    }
    let mut widened = capabilities.clone();
    for name in ["CAP_SYS_ADMIN", "CAP_SETPCAP"] {
        if !widened.iter().any(|known| known == name) {
            widened.push(name.to_owned());
        }
    }
    for set in ["bounding", "effective", "permitted"] {
        process["capabilities"][set] = serde_json::json!(widened);
    }
    Ok((
        process,
        Confinement {
            filter,
            capabilities,
        },
    ))
}

fn builder(config: &ShimConfig, run: &Path) -> Result<ContainerBuilder, Failure> {
    ContainerBuilder::new(config.id.clone(), SyscallType::Linux)
        .with_root_path(run.join(wire::OCI_STATE_DIR))
        .map_err(|error| refused(chain(&error)))
}

/// Makes the cgroup2 directory, restricts its devices, and enters it if libcontainer will not.
fn prepare_cgroup(config: &ShimConfig) -> Result<(), Failure> {
    let Some(directory) = &config.cgroup_v2 else {
        return Ok(());
    };
    let fail = |action: &str, error: io::Error| {
        refused(format!("{action} {}: {error}", directory.display()))
    };
    fs::create_dir_all(directory).map_err(|e| fail("create cgroup", e))?;
    match device::restrict(directory, device::DEFAULT_RULES) {
        Ok(()) => {}
        // With v1 controllers the devices hierarchy enforces the same rules.
        Err(_) if config.join_cgroup_v2 => {}
        Err(error) => return Err(fail("restrict the devices of cgroup", error)),
    }
    join_cgroup(config)
}

fn join_cgroup(config: &ShimConfig) -> Result<(), Failure> {
    let Some(directory) = config.cgroup_v2.as_ref().filter(|_| config.join_cgroup_v2) else {
        return Ok(());
    };
    let path = directory.join("cgroup.procs");
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(b"0"))
        .map_err(|e| refused(format!("enter cgroup {}: {e}", directory.display())))
}

fn console_failure(error: io::Error) -> Failure {
    refused(format!("set up the terminal: {error}"))
}

/// Our executor's own words if it was the executor that failed, else the chain of causes with what
/// was recorded on the way.
fn explain(error: &dyn std::error::Error, recording: &Recording) -> Failure {
    let mut text = chain(error);
    if let Some(failure) = unmark(&text) {
        return failure;
    }
    if let Some(cause) = recording.cause() {
        text = format!("{text} ({cause})");
    }
    refused(text)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = inner.source();
    }
    text.replace('\0', "")
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), writer.into()))
}

/// A pipe for a command's output. Its writing end is open for reading as well, so that the pipe is not broken, and the
/// command not ended by what it writes, if the shim is killed.
fn stream() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe()?;
    // What a command may still say then before it has to wait. Without the room it has a sixteenth of it.
    let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(STREAM_ROOM));
    let writer = open_both_ways(&format!("/proc/self/fd/{}", writer.as_raw_fd()))?;
    Ok((reader, writer))
}

fn null() -> io::Result<OwnedFd> {
    open_both_ways("/dev/null")
}

fn open_both_ways(path: &str) -> io::Result<OwnedFd> {
    let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    Ok(file.into())
}
