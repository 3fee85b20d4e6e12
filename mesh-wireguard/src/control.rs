//! What the agent asks of the helper process over its socket, one line of JSON each way; and starting it.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr},
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
use serde::{Deserialize, Serialize};

/// Version of what is said here. A helper that speaks another one is replaced.
pub const PROTOCOL: u32 = 1;
/// How long the helper may take to answer, or to end. One that takes longer is killed, and its keys with it.
const DEADLINE: Duration = Duration::from_secs(5);
/// Longest complaint of a helper that is read.
const MAX_REPORT: u64 = 4096;

/// How the helper is to be; it is replaced if it is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Its socket.
    pub socket: PathBuf,
    /// The node's tunnel end point.
    pub address: Ipv4Addr,
    /// UDP port, host byte order.
    pub port: u16,
}

/// What the agent asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Only the status.
    Status,
    /// Bring the device up.
    Set {
        /// Bytes of the largest packet.
        mtu: u32,
        /// The other nodes, by tunnel end point.
        peers: BTreeMap<Ipv4Addr, Peer>,
    },
    /// Make a new key, and keep the one before until no node needs it.
    Rotate,
}

/// Another node's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its present public key, base64.
    pub key: String,
    /// Its UDP port, host byte order.
    pub port: u16,
}

/// What the helper answers: how things are afterwards, or why not.
pub(crate) type Reply = Result<Status, String>;

/// How things are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`PROTOCOL`] of the helper.
    pub protocol: u32,
    /// As in [`Setup`].
    pub address: IpAddr,
    /// As in [`Setup`].
    pub port: u16,
    /// Interface index of the device.
    pub ifindex: u32,
    /// The node's present public key, base64.
    pub key: String,
    /// Its age in seconds.
    pub key_age_s: u64,
    /// The key before is still there.
    pub rotating: bool,
    /// Datagrams and packets that were no node's, or not from the address they should be.
    pub refused: u64,
    /// The other nodes.
    pub peers: Vec<PeerStatus>,
}

impl Status {
    /// Whether it is time for a new key. One change waits for the other; but a node that never learns of it (it is down)
    /// holds it up for no longer than until the next is due, if any other has.
    pub fn is_rotation_due(&self, period: Duration) -> bool {
        let period = period.as_secs().max(1);
        self.key_age_s >= period
            && (!self.rotating
                || (self.key_age_s >= 2 * period && self.peers.iter().any(|peer| peer.proved)))
    }
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its tunnel end point.
    pub address: Ipv4Addr,
    /// Its public key, base64.
    pub key: String,
    /// It has answered with that key, to our present one.
    pub proved: bool,
    /// Seconds since the last handshake, where there is a session.
    pub handshake_s: Option<u64>,
    /// Bytes of packets encrypted for it.
    pub sent: u64,
    /// Bytes of packets that it had encrypted.
    pub received: u64,
}

/// Why the helper did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process could not be started.
    #[error("start the process that encrypts: {0}")]
    Start(#[source] io::Error),
    /// It does not answer.
    #[error("ask the process that encrypts, at {path}: {source}")]
    Ask {
        /// Its socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It does not end.
    #[error("end the process that encrypts, at {path}: {source}")]
    End {
        /// Its socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It could not do it.
    #[error("{0}")]
    Refused(String),
}

/// A helper that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handle {
    socket: PathBuf,
}

impl Handle {
    /// The one at `socket`, if it runs. Asking blocks, for no longer than five seconds.
    pub fn find(socket: &Path) -> Option<Self> {
        UnixStream::connect(socket).ok()?;
        Some(Self {
            socket: socket.to_owned(),
        })
    }

    /// The one that runs, if it is as `setup` says; else a new one, from the program at `exe`. Blocks.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub fn ensure(setup: &Setup, exe: &Path) -> Result<Self, Error> {
        if let Some(found) = Self::find(&setup.socket) {
            match found.ask(&Request::Status) {
                Ok(status)
                    if (status.protocol, status.address, status.port)
                        == (PROTOCOL, IpAddr::V4(setup.address), setup.port) =>
                {
                    return Ok(found);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "the process that encrypts is killed and started anew")
                }
            }
            found.end()?;
        }
        start(setup, exe)?;
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
fn start(setup: &Setup, exe: &Path) -> Result<(), Error> {
    let mut child = Command::new(exe)
        .arg0("mesh-agent")
        .arg("wireguard")
        .arg(&setup.socket)
        .args([setup.address.to_string(), setup.port.to_string()])
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
        crate::helper::READY => Ok(()),
        "" => Err(Error::Refused(
            "the process that encrypts ended without a word".to_owned(),
        )),
        why => Err(Error::Refused(why.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_change_of_keys_waits_for_the_other() {
        let peer = PeerStatus {
            address: Ipv4Addr::LOCALHOST,
            key: String::new(),
            proved: true,
            handshake_s: None,
            sent: 0,
            received: 0,
        };
        let status = |key_age_s, rotating, peers: &[PeerStatus]| Status {
            protocol: PROTOCOL,
            address: Ipv4Addr::LOCALHOST.into(),
            port: 1,
            ifindex: 1,
            key: String::new(),
            key_age_s,
            rotating,
            refused: 0,
            peers: peers.to_vec(),
        };
        let due = |status: Status| status.is_rotation_due(Duration::from_secs(100));
        assert!(!due(status(99, false, &[])));
        assert!(due(status(100, false, &[])));
        assert!(!due(status(100, true, std::slice::from_ref(&peer))));
        assert!(due(status(200, true, std::slice::from_ref(&peer))));
        // Nobody has heard of the last one: there is no manager to tell it.
        let deaf = PeerStatus {
            proved: false,
            ..peer
        };
        assert!(!due(status(1000, true, &[deaf])));
    }
}
