//! The agent's end of a shim's control socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use crate::fds;
use crate::wire::{self, Reply, Request};

/// How long a shim may take to accept a connection or to answer. Starting waits for the kernel to
/// read the command's file, so it is generous.
const DEADLINE: Duration = Duration::from_secs(90);

/// A connection carrying one request.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    attached: Vec<OwnedFd>,
}

impl Connection {
    /// Connects to the shim whose run directory is `run` and sends `request`.
    pub(super) async fn open(
        run: &Path,
        request: &Request,
        attached: &[RawFd],
    ) -> io::Result<Self> {
        let directory = fds::open_directory(run)?;
        let path = fds::short_path(directory.as_fd(), wire::SOCKET);
        let stream = within(UnixStream::connect(path)).await?;
        let connection = Self {
            stream,
            input: Vec::new(),
            attached: Vec::new(),
        };
        within(connection.send(&wire::to_line(request), attached)).await?;
        Ok(connection)
    }

    async fn send(&self, line: &[u8], attached: &[RawFd]) -> io::Result<()> {
        let mut rest = line;
        let mut attached = attached;
        while !rest.is_empty() {
            let count = self
                .stream
                .async_io(Interest::WRITABLE, || {
                    fds::send(self.stream.as_fd(), rest, attached)
                })
                .await?;
            rest = &rest[count..];
            attached = &[];
        }
        Ok(())
    }

    /// The next reply; `UnexpectedEof` when the shim has gone.
    pub(super) async fn next(&mut self) -> io::Result<Reply> {
        loop {
            if let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                return Ok(serde_json::from_slice(&line)?);
            }
            let mut buffer = [0; 4096];
            let (stream, attached) = (&self.stream, &mut self.attached);
            let count = stream
                .async_io(Interest::READABLE, || {
                    fds::receive(stream.as_fd(), &mut buffer, attached)
                })
                .await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.input.extend_from_slice(&buffer[..count]);
        }
    }

    /// The next reply, which the shim owes at once.
    pub(super) async fn answer(&mut self) -> io::Result<Reply> {
        within(self.next()).await
    }

    /// Says that nothing more will be asked; replies still come.
    pub(super) async fn close(&mut self) {
        // A shim that is gone needs not be told.
        let _ = self.stream.shutdown().await;
    }

    /// A descriptor that came with the replies so far.
    pub(super) fn take_attached(&mut self) -> Option<OwnedFd> {
        self.attached.pop()
    }
}

async fn within<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
