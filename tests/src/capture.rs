//! Everything that is sent in a namespace, as a tap on the wire sees it.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket,
        sockopt,
    },
};

/// Bytes of frames that may wait to be looked at.
const QUEUE: usize = 64 << 20;
/// Bytes of the largest frame, offloads included.
const LARGEST: usize = 1 << 17;

/// A packet socket that hears every interface of the namespace it was opened in.
#[derive(Debug)]
pub struct Capture(OwnedFd);

impl Capture {
    /// Hears everything from now on, in the calling thread's namespace.
    ///
    /// # Errors
    /// When we are not root.
    pub fn open() -> Result<Self> {
        let fd = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::EthAll,
        )
        .context("open a packet socket")?;
        setsockopt(&fd, sockopt::RcvBufForce, &QUEUE)?;
        Ok(Self(fd))
    }

    /// The frames that were sent since the last call.
    ///
    /// # Errors
    /// When the socket is broken.
    pub fn take(&self) -> Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; LARGEST];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => frames.push(buffer[..length].to_vec()),
                Err(Errno::EAGAIN) => return Ok(frames),
                Err(error) => return Err(error).context("read a packet socket"),
            }
        }
    }
}
