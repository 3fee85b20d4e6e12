//! The process that encrypts in user space, as the agent sees it: how it is found, started, ended and asked, over a socket and
//! with one line of JSON each way.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::UdpSocket,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, getsockopt, recv, sockopt},
};

use crate::{Error, PROTOCOL, Request, Setup, Status, control::Reply};

/// How long the helper may take to answer, or to end. One that takes longer is killed, and its keys with it.
const DEADLINE: Duration = Duration::from_secs(5);
/// Longest complaint of a helper that is read.
const MAX_REPORT: u64 = 4096;

/// A helper that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Helper {
    socket: PathBuf,
}

impl Helper {
    /// The one at `socket`, if it runs. Asking blocks, for no longer than five seconds.
    pub fn find(socket: &Path) -> Option<Self> {
        UnixStream::connect(socket).ok()?;
        Some(Self {
            socket: socket.to_owned(),
        })
    }

    /// The one that runs, if it is as `setup` says, or could not be because its port is another's. Any other is ended.
    ///
    /// # Errors
    /// What keeps that from ending.
    pub(crate) fn find_as(setup: &Setup) -> Result<Option<Self>, Error> {
        let Some(found) = Self::find(&setup.socket) else {
            return Ok(None);
        };
        match found.ask(&Request::Status) {
            Ok(status)
                if (status.protocol, status.address) == (PROTOCOL, setup.address.into())
                    && (status.port == setup.port || is_taken(setup)) =>
            {
                return Ok(Some(found));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "the process that encrypts is killed and started anew")
            }
        }
        found.end()?;
        Ok(None)
    }

    /// A new one, from the program at `exe`; `why` it is not the kernel that encrypts. Blocks.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub(crate) fn start(setup: &Setup, exe: &Path, why: &str) -> Result<Self, Error> {
        start(setup, exe, why)?;
        Ok(Self {
            socket: setup.socket.clone(),
        })
    }

    /// Asks for something.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub fn ask(&self, request: &Request) -> Result<Status, Error> {
        let failed = |source| Error::Ask {
            path: self.socket.clone(),
            source,
        };
        let line = self.talk(request).map_err(failed)?;
        let reply: Reply = serde_json::from_str(&line).map_err(|e| failed(e.into()))?;
        reply.map_err(Error::Refused)
    }

    /// Kills it, and waits until it has ended, its device gone. One that is gone already is no error.
    ///
    /// # Errors
    /// The kernel does not let go of it.
    pub fn end(&self) -> Result<(), Error> {
        self.end_and_wait().map_err(|source| Error::End {
            path: self.socket.clone(),
            source,
        })
    }

    fn end_and_wait(&self) -> io::Result<()> {
        if let Ok(stream) = UnixStream::connect(&self.socket)
            && let Some(process) = process_of(&stream)?
        {
            kill(&process)?;
            let mut ended = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            let deadline = PollTimeout::try_from(DEADLINE).map_err(io::Error::other)?;
            if poll(&mut ended, deadline)? == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        match fs::remove_file(&self.socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The answer's line; empty if there is none.
    fn talk(&self, request: &Request) -> io::Result<String> {
        let stream = UnixStream::connect(&self.socket)?;
        say(&stream, request)?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer)
    }
}

/// Whether the port that is asked for is another's.
fn is_taken(setup: &Setup) -> bool {
    if setup.used.contains_key(&setup.port) {
        return true;
    }
    let bound = UdpSocket::bind((setup.address, setup.port));
    bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// The process at the other end; `None` if it has ended.
fn process_of(stream: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let pid = getsockopt(stream, sockopt::PeerCredentials)?.pid();
    // SAFETY: takes numbers.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let process = match Errno::result(process) {
        Ok(process) => process as RawFd,
        Err(Errno::ESRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // SAFETY: the call before has opened it, for us alone.
    let process = unsafe { OwnedFd::from_raw_fd(process) };
    // As long as the other end is open the number has not become another process's.
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let is_open = recv(stream.as_raw_fd(), &mut [0], flags) == Err(Errno::EAGAIN);
    Ok(is_open.then_some(process))
}

/// Not an error if it has ended.
fn kill(process: &OwnedFd) -> io::Result<()> {
    let no_details = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: takes numbers, and no details of the signal.
    let killed = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            libc::SIGKILL,
            no_details,
            0,
        )
    };
    match Errno::result(killed) {
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Sends a request, after which an answer is waited for no longer than the deadline.
fn say(mut stream: &UnixStream, request: &Request) -> io::Result<()> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Starts a helper, and waits until it listens.
fn start(setup: &Setup, exe: &Path, why: &str) -> Result<(), Error> {
    let mut child = Command::new(exe)
        .arg0("mesh-agent")
        .arg("wireguard")
        .arg(&setup.socket)
        .args([setup.address.to_string(), setup.port.to_string()])
        .args([&setup.epoch.to_string(), why])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(Error::Start)?;
    let mut report = String::new();
    let read = child.stdout.take().map_or(Ok(0), |stdout| {
        stdout.take(MAX_REPORT).read_to_string(&mut report)
    });
    // The process we started has forked the helper and ended.
    child.wait().map_err(Error::Start)?;
    read.map_err(Error::Start)?;
    match report.trim() {
        crate::serve::READY => Ok(()),
        "" => Err(Error::Refused(
            "the process that encrypts ended without a word".to_owned(),
        )),
        why => Err(Error::Refused(why.to_owned())),
    }
}
