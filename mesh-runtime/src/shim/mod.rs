//! The shim: one small process per container.
//!
//! It is a program of its own, `mesh-shim`: of a program as large as the agent, each task would hold the tables that
//! the dynamic linker writes, and the pages around all that is called. It is started by the agent, forks once so that
//! it belongs to nobody, has libcontainer make the container in a helper process of its own (which keeps libcontainer's
//! memory out of the shim), and then serves its control socket, copies the command's output to the log and waits for
//! the command to end. It never starts a thread and links no asynchronous runtime into its life.

mod console;
mod diagnose;
mod execs;
mod executor;
mod init;
mod launch;
mod leaf;
mod log;
mod root;
mod serve;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, Pid};

pub(crate) use log::rotated;

use crate::fds;
use crate::wire::{self, Failure, Ready, ShimConfig};

/// Exit code of a command that could not be made; see [`Failure::code`].
const REFUSED: i32 = 128;
/// The kernel shall sacrifice anything else before a shim, but may if it must.
const OOM_SCORE: &str = "-998";

/// Runs the shim. Call it first thing in `main`, before any thread exists, when the first argument
/// is `shim`; `args` are the arguments after that word: the folders of a container, or `--version`.
pub fn shim_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<_> = args.into_iter().collect();
    if args == [wire::SHIM_VERSION_FLAG] {
        println!("{}", wire::SHIM_VERSION);
        return ExitCode::SUCCESS;
    }
    let [state, run] = &args[..] else {
        eprintln!("usage: shim STATE_DIR RUN_DIR (started by the agent, not by hand)");
        return ExitCode::FAILURE;
    };
    // SAFETY: shim_main is documented to run before any thread starts, so the child of fork may do
    // anything.
    match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Parent { .. }) => return ExitCode::SUCCESS,
        Ok(ForkResult::Child) => {}
        Err(error) => {
            announce(&Ready::Failed(refused(format!("fork: {error}"))));
            return ExitCode::FAILURE;
        }
    }
    match Shim::create(Path::new(state), Path::new(run)) {
        Ok((shim, pid)) => {
            announce(&Ready::Created {
                pid: pid.as_raw(),
                shim_pid: nix::unistd::getpid().as_raw(),
            });
            shim.serve();
            ExitCode::SUCCESS
        }
        Err(failure) => {
            announce(&Ready::Failed(failure));
            ExitCode::FAILURE
        }
    }
}

/// A shim with its container made and waiting.
struct Shim {
    config: ShimConfig,
    state_dir: PathBuf,
    run_dir: PathBuf,
    init_pid: Pid,
    listener: UnixListener,
    /// Read ends of the command's output, or the terminal.
    outputs: Vec<log::Source>,
    terminal: Option<OwnedFd>,
    /// Closed by the kernel when the command is executed, else carries why not.
    exec_error: Option<OwnedFd>,
    signals: SigSet,
}

impl Shim {
    fn create(state: &Path, run: &Path) -> Result<(Self, Pid), Failure> {
        let text = |action: &str, error: io::Error| refused(format!("{action}: {error}"));
        detach().map_err(|e| text("cannot detach from the agent", e))?;
        root::settle()
            .map_err(|e| text("cannot make the root folder the namespace's", e.into()))?;
        let raw = fs::read(state.join(wire::SHIM_CONFIG)).map_err(|e| text("read", e))?;
        let config: ShimConfig =
            serde_json::from_slice(&raw).map_err(|e| refused(format!("parse shim.json: {e}")))?;
        let signals = SigSet::from_iter([
            Signal::SIGCHLD,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
        ]);
        signals
            .thread_block()
            .map_err(|e| refused(format!("block signals: {e}")))?;

        let streams = launch::Streams::new(config.tty).map_err(|e| text("make pipes", e))?;
        let launched = launch::container(&config, state, run, &streams)?;
        // Made only now: a container that waits to be started has copies of what was open before,
        // and would keep the socket connectable after the shim's death.
        let listener = listen(run).map_err(|error| {
            let _ = nix::sys::signal::kill(launched.pid, Signal::SIGKILL);
            text("cannot make the control socket", error)
        })?;
        let terminal = launched.terminal;
        let outputs = match &terminal {
            Some(fd) => {
                let copy = fd.try_clone().map_err(|e| text("copy the terminal", e))?;
                vec![log::Source::terminal(copy)]
            }
            None => streams.into_sources(),
        };
        for source in &outputs {
            fds::set_nonblocking(source.as_fd()).map_err(|e| text("set up pipes", e))?;
        }
        let shim = Self {
            config,
            state_dir: state.to_owned(),
            run_dir: run.to_owned(),
            init_pid: launched.pid,
            listener,
            outputs,
            terminal,
            exec_error: Some(launched.exec_error),
            signals,
        };
        Ok((shim, launched.pid))
    }
}

fn refused(message: String) -> Failure {
    Failure {
        code: REFUSED,
        message,
    }
}

/// Tells the agent, which reads our standard output to its end, and lets go of it.
fn announce(ready: &Ready) {
    // The agent may have died meanwhile; the next one asks over the socket.
    let _ = io::stdout().write_all(&wire::to_line(ready));
    let _ = io::stdout().flush();
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(&null);
    }
}

/// Leaves the agent's session, becomes the parent of whatever the container leaves behind, and
/// drops what the container must not inherit.
fn detach() -> io::Result<()> {
    nix::unistd::setsid()?;
    std::env::set_current_dir("/")?;
    // SAFETY: the calls take numbers and a null pointer; nothing has been opened by us yet, so what
    // close_range closes are descriptors that the agent failed to keep from its children.
    unsafe {
        libc::close_range(3, u32::MAX, 0);
        if libc::setgroups(0, std::ptr::null()) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    prctl::set_child_subreaper(true)?;
    // Only for those who list processes.
    let _ = prctl::set_name(c"mesh-shim");
    // Not permitted in some nested containers; then the shim is as killable as its container.
    if let Ok(mut file) = File::create("/proc/self/oom_score_adj") {
        let _ = file.write_all(OOM_SCORE.as_bytes());
    }
    Ok(())
}

fn listen(run: &Path) -> io::Result<UnixListener> {
    let directory = fds::open_directory(run)?;
    let path = fds::short_path(directory.as_fd(), wire::SOCKET);
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Whether `poll` said there is something to do for `fd`.
fn ready(polled: &[libc::pollfd], fd: &impl AsRawFd) -> bool {
    let fd = fd.as_raw_fd();
    polled.iter().any(|p| p.fd == fd && p.revents != 0)
}
