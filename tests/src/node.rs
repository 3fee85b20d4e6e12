//! A node: its namespace, its folders, its agent process, and `mesh-ctl` on its socket.

use std::{
    fs::{self, OpenOptions},
    net::Ipv4Addr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{SigHandler, Signal, kill, signal},
    unistd::Pid,
};

use crate::{ctl::Answer, engine::Engine, netns::NetNs, wait::eventually};

/// How long an agent may take until its socket answers.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long an agent may take to stop when asked to.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// The library that turns an agent's clock.
static CLOCK: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libclock.so"));
/// The one that slows down its disk.
static SYNC: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libsync.so"));

/// A node of the rig.
#[derive(Debug)]
pub struct Node {
    /// "n1" and so on; the host name too.
    pub name: String,
    /// Its namespace.
    pub ns: NetNs,
    /// Its address on the LAN.
    pub address: Ipv4Addr,
    /// Data and run folders are below this one.
    pub dir: PathBuf,
    /// Name of the agent's kernel objects.
    pub instance: String,
    /// Name of its port on the LAN's bridge.
    pub port: String,
    /// Further arguments of the agent.
    pub args: Vec<String>,
    /// An agent that is started from now on gets a mount namespace of its own, as by systemd's `PrivateTmp`.
    pub own_mounts: bool,
    /// By how much the clock of an agent is ahead that is started from now on.
    pub clock_ahead: Duration,
    /// By how much it is behind.
    pub clock_behind: Duration,
    /// The disk of an agent that is started from now on can be [slowed down](Self::set_sync_delay).
    pub may_be_slow: bool,
    agent: Option<Child>,
}

impl Node {
    pub(crate) fn new(
        name: &str,
        ns: NetNs,
        address: Ipv4Addr,
        dir: PathBuf,
        instance: String,
    ) -> Self {
        Self {
            name: name.to_owned(),
            ns,
            address,
            dir,
            instance,
            port: format!("{name}p"),
            args: Vec::new(),
            own_mounts: false,
            clock_ahead: Duration::ZERO,
            clock_behind: Duration::ZERO,
            may_be_slow: false,
            agent: None,
        }
    }

    /// Where the agent keeps what outlives a reboot.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Where the agent keeps sockets and namespaces.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The Engine API socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("mesh.sock")
    }

    /// The Engine API, exchange by exchange.
    pub fn engine(&self) -> Engine {
        Engine::at(self.socket())
    }

    /// The agent's log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// The agent's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.agent.as_ref().map(Child::id)
    }

    /// Starts the agent and waits until its socket answers.
    ///
    /// # Errors
    /// When it ends at once or does not answer; the message holds the end of its log.
    pub fn start(&mut self) -> Result<()> {
        if self.agent.is_some() {
            bail!("the agent of {} runs already", self.name);
        }
        fs::create_dir_all(&self.dir)
            .with_context(|| format!("cannot make {}", self.dir.display()))?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())?;
        let agent = program("mesh-agent")?;
        let agent = agent.to_string_lossy();
        let mut argv = vec![&*agent];
        if self.own_mounts {
            argv.splice(..0, ["unshare", "--mount", "--propagation", "slave"]);
        }
        let mut command = self.ns.command(argv[0], Some(&self.name))?;
        command
            .args(&argv[1..])
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--run-dir")
            .arg(self.run_dir())
            .args(["--instance", &self.instance])
            .args(["--node-name", &self.name])
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut libraries = Vec::new();
        let [ahead, behind] = [self.clock_ahead, self.clock_behind].map(|by| by.as_secs());
        if ahead != behind {
            libraries.push(self.library("clock.so", CLOCK)?);
            let ahead = i128::from(ahead) - i128::from(behind);
            command.env("MESH_TEST_CLOCK_AHEAD", ahead.to_string());
        }
        if self.may_be_slow {
            libraries.push(self.library("sync.so", SYNC)?);
            command.env("MESH_TEST_SYNC_DELAY", self.sync_delay());
        }
        if !libraries.is_empty() {
            command.env("LD_PRELOAD", libraries.join(":"));
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {agent}"))?;
        self.agent = Some(child);
        let limit = START_LIMIT;
        let up = eventually("the agent's socket", limit, || {
            if let Some(status) = self.agent.as_mut().and_then(|it| it.try_wait().ok()?) {
                // No use in waiting on; the text is told below.
                return Ok(Err(anyhow::anyhow!("the agent ended with {status}")));
            }
            std::os::unix::net::UnixStream::connect(self.socket())?;
            Ok(Ok(()))
        });
        up.and_then(|inner| inner)
            .with_context(|| format!("agent of {}: {}", self.name, self.log_tail(15)))
    }

    /// Writes a library that is to be loaded into the agent.
    fn library(&self, name: &str, library: &[u8]) -> Result<String> {
        let path = self.dir.join(name);
        // An agent that runs on has the one before.
        let scratch = path.with_extension("new");
        fs::write(&scratch, library)?;
        fs::rename(&scratch, &path)?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn sync_delay(&self) -> PathBuf {
        self.dir.join("sync-delay")
    }

    /// How much longer it takes from now on until what the agent writes is kept, if its disk
    /// [may be slow](Self::may_be_slow).
    ///
    /// # Errors
    /// It cannot be told.
    pub fn set_sync_delay(&self, delay: Duration) -> Result<()> {
        let path = self.sync_delay();
        let scratch = path.with_extension("new");
        fs::write(&scratch, delay.as_millis().to_string())?;
        fs::rename(&scratch, &path).context("slow down the disk")
    }

    /// The last lines of the agent's log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Links and nftables tables of an agent in the node's namespace, one line each, in words.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn network_left(&self) -> Result<Vec<String>> {
        let links = self.ns.sh(&["ip", "-o", "link"])?;
        let tables = self.ns.sh(&["nft", "list", "tables"])?;
        let ours = |line: &&str| line.contains(": mv") || line.contains("mesh");
        Ok(links
            .lines()
            .chain(tables.lines())
            .filter(ours)
            .map(|line| format!("in {}: {line}", self.name))
            .collect())
    }

    /// Has the agent stand still; it does once this returns.
    ///
    /// # Errors
    /// When it does not run, or goes on.
    pub fn pause(&self) -> Result<()> {
        let pid = self.signal(Signal::SIGSTOP)?;
        eventually("the agent to stand still", STOP_LIMIT, || {
            // A thread that has not seen the signal yet still answers.
            for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
                let status = fs::read_to_string(thread?.path().join("status"))?;
                ensure!(status.contains("\nState:\tT"), "{status}");
            }
            Ok(())
        })
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT).map(drop)
    }

    fn signal(&self, signal: Signal) -> Result<Pid> {
        let pid = self.pid().context("the agent does not run")?;
        let pid = Pid::from_raw(pid.cast_signed());
        kill(pid, signal)?;
        Ok(pid)
    }

    /// Ends the agent as a power cut would: no clean-up. Its tasks run on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.agent.take().context("the agent does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Waits for the end of an agent that was made to end.
    ///
    /// # Errors
    /// When it does not run, or runs on.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let mut child = self.agent.take().context("the agent does not run")?;
        let ended = eventually("the agent to end", STOP_LIMIT, || {
            child.try_wait()?.context("it runs on")
        });
        if ended.is_err() {
            self.agent = Some(child);
        }
        ended
    }

    /// Asks the agent to stop, as a service manager does, and waits.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.agent.take() else {
            return Ok(());
        };
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
        let ended = eventually("the agent to stop", STOP_LIMIT, || {
            child.try_wait()?.context("it runs on")
        });
        if ended.is_err() {
            child.kill()?;
            child.wait()?;
        }
        ended.map(drop)
    }

    /// Leaves the process to itself: dropping the rig must not wait for it.
    pub(crate) fn forget_agent(&mut self) {
        self.agent = None;
    }

    /// `mesh-ctl` with these arguments on this node's socket.
    ///
    /// # Errors
    /// When it cannot be started. A refusal is an [`Answer`].
    pub fn ctl(&self, args: &[&str]) -> Result<Answer> {
        let line = format!("mesh-ctl {}", args.join(" "));
        let output = self
            .ctl_command()?
            .args(args)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run `{line}`"))?;
        Ok(Answer::of(line, &output))
    }

    /// `mesh-ctl` on this node's socket, to add arguments to. It heeds Ctrl-C also where the tests run in the background of a
    /// shell, which has what it starts there ignore that.
    ///
    /// # Errors
    /// When the program was not built.
    pub fn ctl_command(&self) -> Result<Command> {
        let mut command = Command::new(program("mesh-ctl")?);
        command.env("MESH_HOST", format!("unix://{}", self.socket().display()));
        command.env_remove("DOCKER_HOST");
        let heed = || {
            // SAFETY: no handler of ours is set.
            unsafe { signal(Signal::SIGINT, SigHandler::SigDfl) }?;
            Ok(())
        };
        // SAFETY: it makes one system call, which may be made between fork and exec.
        unsafe { command.pre_exec(heed) };
        Ok(command)
    }

    /// As [`ctl`](Self::ctl), for a command that has to succeed; gives its standard output.
    ///
    /// # Errors
    /// When it fails.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        self.ctl(args)?
            .ok()
            .with_context(|| format!("on {}", self.name))
    }
}

/// A program of this workspace, built beside the one that runs.
///
/// # Errors
/// When it was not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "{name} is not built beside {}: run `cargo xtask build`",
                own.display()
            )
        })
}

/// Reads a small file, such as one in /proc, as text.
pub(crate) fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// The processes of the machine.
pub(crate) fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}
