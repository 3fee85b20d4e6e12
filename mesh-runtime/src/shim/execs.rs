//! Execs in flight: helpers that start them, processes that run, agents that wait for them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::launch::{self, Outcome};
use super::leaf::Leaf;
use super::serve::Client;
use super::{Shim, ready, refused};
use crate::wire::{ExecRequest, Reply};

#[derive(Default)]
pub(super) struct Execs {
    serial: u64,
    starting: Vec<Starting>,
    running: Vec<Running>,
    /// Helpers that have not been reaped; their exit codes mean nothing.
    helpers: Vec<Pid>,
    /// Processes that ended before their helper had told whose they were.
    unclaimed: Vec<(Pid, i32)>,
    /// Cgroups in which something may still be dying.
    leaving: Vec<Leaf>,
}

struct Starting {
    channel: UnixStream,
    client: Client,
    bound: Bound,
}

struct Running {
    pid: Pid,
    client: Client,
    bound: Bound,
}

/// Whether an exec ends with its connection, and what with.
enum Bound {
    /// It does not.
    No,
    /// Alone: this host has no cgroup2.
    Alone,
    /// With all that it has started.
    Whole(Leaf),
    /// It has been killed.
    Killed(Option<Leaf>),
}

impl Bound {
    fn new(shim: &Shim, request: &ExecRequest, serial: u64) -> io::Result<Self> {
        match &shim.config.cgroup_v2 {
            _ if !request.bound => Ok(Self::No),
            None => Ok(Self::Alone),
            Some(container) => Leaf::new(container, serial).map(Self::Whole),
        }
    }

    fn leaf(&self) -> Option<&Leaf> {
        match self {
            Self::Whole(leaf) => Some(leaf),
            _ => None,
        }
    }

    fn into_leaf(self) -> Option<Leaf> {
        match self {
            Self::No | Self::Alone => None,
            Self::Whole(leaf) => Some(leaf),
            Self::Killed(leaf) => leaf,
        }
    }

    /// Whether the end of the connection means anything any more.
    fn is_awaited(&self) -> bool {
        matches!(self, Self::Alone | Self::Whole(_))
    }

    /// Kills the exec, whose first process this is.
    fn kill(self, pid: Pid) -> Self {
        match self {
            Self::Whole(leaf) => {
                leaf.kill();
                Self::Killed(Some(leaf))
            }
            Self::Alone => {
                // It is our child and not reaped, so the number is still its own.
                let _ = kill(pid, Signal::SIGKILL);
                Self::Killed(None)
            }
            other => other,
        }
    }
}

impl Execs {
    /// Starts `request` for `client`.
    pub(super) fn launch(
        &mut self,
        shim: &Shim,
        client: Client,
        request: &ExecRequest,
        stdio: Vec<OwnedFd>,
    ) {
        self.serial += 1;
        self.leaving.retain(|leaf| !leaf.remove());
        let fail = |client: &Client, action: &str, error: io::Error| {
            client.reply(&Reply::Failed(refused(format!("{action}: {error}"))), &[]);
        };
        let bound = match Bound::new(shim, request, self.serial) {
            Ok(bound) => bound,
            Err(error) => return fail(&client, "make a cgroup", error),
        };
        let (state, run, leaf) = (&shim.state_dir, &shim.run_dir, bound.leaf());
        match launch::exec(&shim.config, state, run, self.serial, request, stdio, leaf) {
            Ok((helper, channel)) => {
                self.helpers.push(helper);
                self.starting.push(Starting {
                    channel,
                    client,
                    bound,
                });
            }
            Err(error) => {
                fail(&client, "fork", error);
                self.leave(bound);
            }
        }
    }

    /// Descriptors that become readable when a helper reports, or when an agent lets go of a bound exec.
    pub(super) fn waiting(&self) -> impl Iterator<Item = RawFd> {
        let starting = self.starting.iter().map(|exec| exec.channel.as_raw_fd());
        let running = self.running.iter().filter(|exec| exec.bound.is_awaited());
        starting.chain(running.map(|exec| exec.client.as_raw_fd()))
    }

    /// Ends what agents have let go of.
    pub(super) fn hang_up(&mut self, polled: &[libc::pollfd]) {
        for exec in &mut self.running {
            if exec.bound.is_awaited() && ready(polled, &exec.client) {
                exec.bound = std::mem::replace(&mut exec.bound, Bound::No).kill(exec.pid);
            }
        }
    }

    /// An exec is over: so is what it has started, if it was bound.
    fn leave(&mut self, bound: Bound) {
        if let Some(leaf) = bound.into_leaf()
            && !leaf.remove()
        {
            leaf.kill();
            self.leaving.push(leaf);
        }
    }

    /// Takes reports of helpers.
    pub(super) fn progress(&mut self, polled: &[libc::pollfd], shim: &Shim) {
        if self.starting.is_empty() {
            return;
        }
        for exec in std::mem::take(&mut self.starting) {
            if !ready(polled, &exec.channel) {
                self.starting.push(exec);
                continue;
            }
            match launch::receive_outcome(&exec.channel) {
                Ok((Outcome::Running(pid), terminal)) => {
                    let attached: Vec<_> = terminal.iter().map(AsRawFd::as_raw_fd).collect();
                    exec.client.reply(&Reply::Started { pid }, &attached);
                    self.run(Pid::from_raw(pid), exec.client, exec.bound);
                }
                Ok((Outcome::Failed(failure), _)) => {
                    exec.client.reply(&Reply::Failed(failure), &[]);
                    self.leave(exec.bound);
                }
                Err(error) => {
                    let failure = refused(format!("the helper that runs the exec died: {error}"));
                    exec.client.reply(&Reply::Failed(failure), &[]);
                    self.leave(exec.bound);
                }
            }
        }
        if self.starting.is_empty() {
            // Nobody will ask for these, and their process ids will be used again.
            self.unclaimed.clear();
            launch::sweep(&shim.config, &shim.run_dir);
        }
    }

    fn run(&mut self, pid: Pid, client: Client, bound: Bound) {
        match self.unclaimed.iter().position(|(known, _)| *known == pid) {
            Some(index) => {
                let (_, code) = self.unclaimed.swap_remove(index);
                client.reply(&Reply::Exited { code }, &[]);
                self.leave(bound);
            }
            None => self.running.push(Running { pid, client, bound }),
        }
    }

    /// A child that is not the container's command has ended.
    pub(super) fn ended(&mut self, pid: Pid, code: i32) {
        if let Some(index) = self.helpers.iter().position(|helper| *helper == pid) {
            self.helpers.swap_remove(index);
        } else if let Some(index) = self.running.iter().position(|exec| exec.pid == pid) {
            let exec = self.running.swap_remove(index);
            exec.client.reply(&Reply::Exited { code }, &[]);
            self.leave(exec.bound);
        } else if !self.starting.is_empty() {
            self.unclaimed.push((pid, code));
        }
    }

    /// The container has ended, and with it every process in it.
    pub(super) fn abandon(&mut self) {
        for exec in self.running.drain(..) {
            exec.client.reply(&Reply::Exited { code: 137 }, &[]);
        }
        for exec in self.starting.drain(..) {
            let failure = refused("the container ended".to_owned());
            exec.client.reply(&Reply::Failed(failure), &[]);
        }
    }
}
