//! Execs in flight: helpers that start them, processes that run, agents that wait for them.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::unistd::Pid;

use super::launch::{self, Outcome};
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
}

struct Starting {
    channel: UnixStream,
    client: Client,
}

struct Running {
    pid: Pid,
    client: Client,
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
        let (state, run) = (&shim.state_dir, &shim.run_dir);
        match launch::exec(&shim.config, state, run, self.serial, request, stdio) {
            Ok((helper, channel)) => {
                self.helpers.push(helper);
                self.starting.push(Starting { channel, client });
            }
            Err(error) => {
                let failure = refused(format!("fork: {error}"));
                client.reply(&Reply::Failed(failure), &[]);
            }
        }
    }

    /// Descriptors that become readable when a helper reports.
    pub(super) fn waiting(&self) -> impl Iterator<Item = RawFd> {
        self.starting.iter().map(|exec| exec.channel.as_raw_fd())
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
                    self.run(Pid::from_raw(pid), exec.client);
                }
                Ok((Outcome::Failed(failure), _)) => {
                    exec.client.reply(&Reply::Failed(failure), &[]);
                }
                Err(error) => {
                    let failure = refused(format!("the helper that runs the exec died: {error}"));
                    exec.client.reply(&Reply::Failed(failure), &[]);
                }
            }
        }
        if self.starting.is_empty() {
            // Nobody will ask for these, and their process ids will be used again.
            self.unclaimed.clear();
            launch::sweep(&shim.config, &shim.run_dir);
        }
    }

    fn run(&mut self, pid: Pid, client: Client) {
        match self.unclaimed.iter().position(|(known, _)| *known == pid) {
            Some(index) => {
                let (_, code) = self.unclaimed.swap_remove(index);
                client.reply(&Reply::Exited { code }, &[]);
            }
            None => self.running.push(Running { pid, client }),
        }
    }

    /// A child that is not the container's command has ended.
    pub(super) fn ended(&mut self, pid: Pid, code: i32) {
        if let Some(index) = self.helpers.iter().position(|helper| *helper == pid) {
            self.helpers.swap_remove(index);
        } else if let Some(index) = self.running.iter().position(|exec| exec.pid == pid) {
            let exec = self.running.swap_remove(index);
            exec.client.reply(&Reply::Exited { code }, &[]);
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
