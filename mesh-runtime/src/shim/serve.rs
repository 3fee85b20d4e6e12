//! The shim's one loop: output to the log, requests from the agent, children that end.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use chrono::{DateTime, Utc};
use nix::sys::signal::kill;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::execs::Execs;
use super::log::LogWriter;
use super::{Shim, launch, ready, refused};
use crate::runtime::{ContainerState, ExitStatus};
use crate::wire::{self, ExitRecord, Failure, Reply, Request};
use crate::{cgroup, fds, pages};

/// Longest request line; an exec's environment may be large.
const MAX_REQUEST: usize = 4 << 20;
/// How long the kernel may take to execute a command (its file may be on a slow disk).
const EXEC_DEADLINE: Duration = Duration::from_secs(60);

/// A connection from an agent.
pub(super) struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    attached: Vec<OwnedFd>,
    role: Role,
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

enum Role {
    /// Its request has not arrived in full.
    Asking,
    /// Wants to know when the command ends.
    Watching,
}

impl Client {
    /// Sends one reply. An agent that is gone or does not read loses it; it asks again.
    pub(super) fn reply(&self, reply: &Reply, attached: &[RawFd]) {
        let line = wire::to_line(reply);
        let mut rest = line.as_slice();
        let mut attached = attached;
        while !rest.is_empty() {
            match fds::send(self.stream.as_fd(), rest, attached) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            }
            attached = &[];
        }
    }
}

/// What changes while the shim runs.
struct Server {
    shim: Shim,
    log: LogWriter,
    clients: Vec<Client>,
    execs: Execs,
    started_at: Option<DateTime<Utc>>,
    start_failure: Option<String>,
}

impl Shim {
    /// Runs until the container's command has ended and its exit status is on disk.
    pub(super) fn serve(self) {
        let log = LogWriter::open(&self.state_dir, self.config.log.clone());
        let server = Server {
            shim: self,
            log,
            clients: Vec::new(),
            execs: Execs::default(),
            started_at: None,
            start_failure: None,
        };
        server.run();
    }
}

impl Server {
    fn run(mut self) {
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = match SignalFd::with_flags(&self.shim.signals, flags) {
            Ok(signals) => signals,
            Err(error) => {
                eprintln!("signalfd: {error}");
                return;
            }
        };
        loop {
            let polled = self.poll(&signals);
            if ready(&polled, &signals) {
                // Termination signals are read and dropped: a shim ends with its container.
                while let Ok(Some(_)) = signals.read_signal() {}
                if let Some(status) = self.reap() {
                    self.finish(status);
                    return;
                }
            }
            for source in &mut self.shim.outputs {
                if source.is_open() && ready(&polled, source) {
                    self.log.pump(source);
                }
            }
            if ready(&polled, &self.shim.listener) {
                self.accept();
            }
            self.serve_clients(&polled);
            self.execs.hang_up(&polled);
            self.execs.progress(&polled, &self.shim);
        }
    }

    fn poll(&self, signals: &SignalFd) -> Vec<libc::pollfd> {
        let mut wanted = vec![signals.as_fd().as_raw_fd(), self.shim.listener.as_raw_fd()];
        wanted.extend(
            self.shim
                .outputs
                .iter()
                .filter(|source| source.is_open())
                .map(AsRawFd::as_raw_fd),
        );
        wanted.extend(self.clients.iter().map(|client| client.stream.as_raw_fd()));
        wanted.extend(self.execs.waiting());
        let mut polled: Vec<_> = wanted
            .into_iter()
            .map(|fd| libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            })
            .collect();
        // SAFETY: the array is valid for its length; an interrupted call leaves revents at zero.
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, -1) };
        polled
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.shim.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client {
                    stream,
                    input: Vec::new(),
                    attached: Vec::new(),
                    role: Role::Asking,
                });
            }
        }
    }

    fn serve_clients(&mut self, polled: &[libc::pollfd]) {
        for mut client in std::mem::take(&mut self.clients) {
            if !ready(polled, &client.stream) {
                self.clients.push(client);
                continue;
            }
            match read_request(&mut client) {
                Ok(Some(request)) => self.handle(client, request),
                Ok(None) => self.clients.push(client),
                // The agent hung up, or does not speak our language.
                Err(_) => {}
            }
        }
    }

    fn handle(&mut self, mut client: Client, request: Request) {
        match request {
            Request::Watch => {
                client.reply(&self.status(), &[]);
                client.role = Role::Watching;
                self.clients.push(client);
            }
            Request::Start => match self.start() {
                Ok(()) => client.reply(&Reply::Done, &[]),
                Err(failure) => client.reply(&Reply::Failed(failure), &[]),
            },
            Request::Signal { signal } => match self.signal(signal) {
                Ok(()) => client.reply(&Reply::Done, &[]),
                Err(failure) => client.reply(&Reply::Failed(failure), &[]),
            },
            Request::Resize { rows, columns } => match &self.shim.terminal {
                Some(terminal) => match fds::set_window_size(terminal.as_fd(), rows, columns) {
                    Ok(()) => client.reply(&Reply::Done, &[]),
                    Err(error) => {
                        client.reply(&Reply::Failed(refused(error.to_string())), &[]);
                    }
                },
                None => client.reply(
                    &Reply::Failed(refused("the container has no terminal".to_owned())),
                    &[],
                ),
            },
            Request::Exec(request) => {
                if self.started_at.is_none() {
                    let failure = refused("the container is not running".to_owned());
                    client.reply(&Reply::Failed(failure), &[]);
                    return;
                }
                let stdio = std::mem::take(&mut client.attached);
                self.execs.launch(&self.shim, client, &request, stdio);
            }
        }
    }

    fn status(&self) -> Reply {
        Reply::Status {
            state: if self.started_at.is_some() {
                ContainerState::Running
            } else {
                ContainerState::Created
            },
            pid: self.shim.init_pid.as_raw(),
            shim_pid: nix::unistd::getpid().as_raw(),
            started_at: self.started_at,
        }
    }

    fn start(&mut self) -> Result<(), Failure> {
        if self.started_at.is_some() {
            return Err(refused("the container runs already".to_owned()));
        }
        launch::start(&self.shim.config, &self.shim.run_dir)?;
        self.started_at = Some(Utc::now());
        let Some(channel) = self.shim.exec_error.take() else {
            return Ok(());
        };
        match await_exec(&channel) {
            None => {
                // Only memory is at stake.
                let _ = pages::release();
                Ok(())
            }
            Some(failure) => {
                self.start_failure = Some(failure.message.clone());
                Err(failure)
            }
        }
    }

    fn signal(&self, signal: i32) -> Result<(), Failure> {
        let signal = nix::sys::signal::Signal::try_from(signal)
            .map_err(|_| refused(format!("invalid signal number {signal}")))?;
        kill(self.shim.init_pid, signal).map_err(|e| refused(format!("send {signal}: {e}")))
    }

    /// Collects children that ended; the command's status once it is among them.
    fn reap(&mut self) -> Option<WaitStatus> {
        let mut ended = None;
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(_) => return ended,
                Ok(status) if status.pid() == Some(self.shim.init_pid) => ended = Some(status),
                Ok(status) => {
                    if let Some(pid) = status.pid() {
                        self.execs.ended(pid, exit_code(&status).0);
                    }
                }
            }
        }
    }

    fn finish(mut self, status: WaitStatus) {
        for source in &mut self.shim.outputs {
            self.log.drain(source);
        }
        let (code, signal) = exit_code(&status);
        let oom_killed = self
            .shim
            .config
            .oom_file
            .as_deref()
            .is_some_and(|file| cgroup::oom_kills(file) > 0);
        let record = ExitRecord {
            started_at: self.started_at,
            status: ExitStatus {
                code,
                signal,
                oom_killed,
                at: Utc::now(),
                error: self.start_failure.take(),
            },
        };
        let path = self.shim.state_dir.join(wire::EXIT_FILE);
        let bytes = serde_json::to_vec(&record).unwrap_or_default();
        if let Err(error) = wire::write_atomically(&path, &bytes) {
            eprintln!("write {}: {error}", path.display());
        }
        self.execs.abandon();
        // From here on the exit file answers for us.
        let _ = fs::remove_file(self.shim.run_dir.join(wire::SOCKET));
        for client in &self.clients {
            if matches!(client.role, Role::Watching) {
                client.reply(&Reply::Ended(record.clone()), &[]);
            }
        }
    }
}

/// The rest of a request: `Ok(None)` while it is not complete.
fn read_request(client: &mut Client) -> io::Result<Option<Request>> {
    let mut buffer = [0; 16 << 10];
    loop {
        match fds::receive(client.stream.as_fd(), &mut buffer, &mut client.attached) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => client.input.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        if matches!(client.role, Role::Watching) {
            client.input.clear();
            continue;
        }
        if client.input.ends_with(b"\n") {
            let input = std::mem::take(&mut client.input);
            return Ok(Some(serde_json::from_slice(&input)?));
        }
        if client.input.len() > MAX_REQUEST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
}

/// Waits until the kernel has executed the command, which closes the other end; or until what went
/// wrong has been written to it.
fn await_exec(channel: &OwnedFd) -> Option<Failure> {
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let mut poll = libc::pollfd {
            fd: channel.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid entry.
        let count = unsafe { libc::poll(&raw mut poll, 1, EXEC_DEADLINE.as_millis() as i32) };
        if count == 0 {
            return Some(refused(
                "the kernel did not execute the command in time".to_owned(),
            ));
        }
        match fds::read(channel.as_fd(), &mut buffer) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    serde_json::from_slice(&text).ok()
}

/// A wait status as the shell's exit code, and the signal.
fn exit_code(status: &WaitStatus) -> (i32, Option<i32>) {
    match status {
        WaitStatus::Exited(_, code) => (*code, None),
        WaitStatus::Signaled(_, signal, _) => (128 + *signal as i32, Some(*signal as i32)),
        _ => (255, None),
    }
}
