//! A command run in a container that is already there, seen from the agent.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::{Notify, watch};

use super::client::Connection;
use super::container::ContainerRef;
use crate::error::{Result, RuntimeError};
use crate::fds;
use crate::oci;
use crate::spec::ExecSpec;
use crate::wire::{ExecRequest, Reply, Request};

/// Bytes a process writes.
pub type ByteSource = Box<dyn AsyncRead + Send + Unpin>;
/// Bytes a process reads; dropping it closes the process's standard input.
pub type ByteSink = Box<dyn AsyncWrite + Send + Unpin>;

/// The two ends of a running exec. Streams and handle may be taken apart and moved to different
/// tasks.
pub struct ExecSession {
    /// Standard input, when asked for.
    pub stdin: Option<ByteSink>,
    /// Standard output, or the terminal.
    pub stdout: Option<ByteSource>,
    /// Standard error; `None` with a terminal.
    pub stderr: Option<ByteSource>,
    /// Exit code and terminal size.
    pub handle: ExecHandle,
}

/// Controls a running exec. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ExecHandle {
    id: String,
    pid: u32,
    terminal: Option<Arc<AsyncFd<OwnedFd>>>,
    outcome: watch::Receiver<Option<i32>>,
    end: Arc<Notify>,
}

impl ExecHandle {
    /// Process id on the host.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the exit code; 128 + n when signal n ended the command.
    ///
    /// # Errors
    /// When the shim went away before it could tell.
    pub async fn wait(&self) -> Result<i32> {
        let mut outcome = self.outcome.clone();
        let code = outcome
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|c| *c);
        code.ok_or_else(|| self.error(io::ErrorKind::UnexpectedEof.into()))
    }

    /// The exit code if the command has ended.
    pub fn exit_code(&self) -> Option<i32> {
        *self.outcome.borrow()
    }

    /// Kills the command and what it has started, if it was started as [bound](ExecSpec::bound); [`wait`](Self::wait)
    /// tells when the command is gone.
    pub fn end(&self) {
        self.end.notify_one();
    }

    /// Sets the terminal's size; without a terminal it does nothing.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        match &self.terminal {
            Some(terminal) => fds::set_window_size(terminal.as_fd(), rows, columns)
                .map_err(|error| self.error(error)),
            None => Ok(()),
        }
    }

    fn error(&self, source: io::Error) -> RuntimeError {
        RuntimeError::ShimGone {
            id: self.id.clone(),
            source,
        }
    }
}

/// Runs `spec` in `container`.
pub(super) async fn start(
    container: &ContainerRef,
    spec: &ExecSpec,
    host: &oci::Host,
) -> Result<ExecSession> {
    let of = &container.record.spec;
    let user = if spec.user.is_empty() {
        &of.user
    } else {
        &spec.user
    };
    // As Docker has it: an exec that cannot be begun ends with 126, whatever the reason.
    let refused = |error| match error {
        RuntimeError::InvalidSpec { reason } => RuntimeError::NotExecutable { message: reason },
        other => other,
    };
    let user = oci::user::resolve(&container.info().rootfs(), user, &of.groups).map_err(refused)?;
    let request = Request::Exec(ExecRequest {
        process: oci::exec_process(of, spec, &user, host).map_err(refused)?,
        tty: spec.tty,
        size: spec.size,
        seccomp: !of.seccomp_unconfined && !spec.privileged,
        bound: spec.bound,
    });
    let local = |error: io::Error| RuntimeError::Shim {
        id: container.id().to_owned(),
        reason: format!("cannot make pipes: {error}"),
    };
    let pipes = if spec.tty {
        None
    } else {
        Some(Pipes::new(spec.stdin).map_err(local)?)
    };
    let theirs = pipes.as_ref().map(Pipes::theirs).unwrap_or_default();
    let mut connection = container.connect(&request, &theirs).await?;
    let pid = match connection.answer().await {
        Ok(Reply::Started { pid }) => pid,
        Ok(Reply::Failed(failure)) => return Err(container.failed(failure)),
        Ok(_) => return Err(container.gone(io::ErrorKind::InvalidData.into())),
        Err(error) => return Err(container.gone(error)),
    };
    let terminal = match connection.take_attached() {
        Some(fd) => Some(Arc::new(nonblocking(fd).map_err(local)?)),
        None => None,
    };
    let end = Arc::new(Notify::new());
    let handle = ExecHandle {
        id: container.id().to_owned(),
        pid: pid as u32,
        terminal: terminal.clone(),
        outcome: follow(connection, Arc::clone(&end)),
        end,
    };
    let session = match (pipes, terminal) {
        (Some(pipes), _) => pipes.into_session(handle).map_err(local)?,
        (None, Some(terminal)) => ExecSession {
            stdin: spec
                .stdin
                .then(|| Box::new(Terminal(terminal.clone())) as ByteSink),
            stdout: Some(Box::new(Terminal(terminal))),
            stderr: None,
            handle,
        },
        (None, None) => return Err(container.gone(io::ErrorKind::InvalidData.into())),
    };
    Ok(session)
}

/// Waits for the exit code in a task of its own, for as long as anybody wants to know it.
fn follow(mut connection: Connection, end: Arc<Notify>) -> watch::Receiver<Option<i32>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        loop {
            let reply = tokio::select! {
                reply = connection.next() => reply,
                () = end.notified() => {
                    connection.close().await;
                    continue;
                }
                () = sender.closed() => return,
            };
            match reply {
                Ok(Reply::Exited { code }) => {
                    sender.send_replace(Some(code));
                    return;
                }
                Ok(_) => {}
                // Dropping the sender tells those who wait.
                Err(_) => return,
            }
        }
    });
    receiver
}

fn nonblocking(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    fds::set_nonblocking(fd.as_fd())?;
    register(fd)
}

/// Hands a descriptor to the reactor.
///
/// # Errors
/// When it cannot be polled.
pub(super) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is the same open descriptor for as long as it lives.
    let registered = unsafe { AsyncFd::register(fd) };
    Ok(registered?)
}

/// Both ends of the three streams of an exec without terminal.
struct Pipes {
    stdin: (OwnedFd, Option<std::io::PipeWriter>),
    stdout: (std::io::PipeReader, OwnedFd),
    stderr: (std::io::PipeReader, OwnedFd),
}

impl Pipes {
    fn new(with_stdin: bool) -> io::Result<Self> {
        let stdin = if with_stdin {
            let (reader, writer) = io::pipe()?;
            (reader.into(), Some(writer))
        } else {
            (
                OpenOptions::new().read(true).open("/dev/null")?.into(),
                None,
            )
        };
        let (stdout, stdout_theirs) = io::pipe()?;
        let (stderr, stderr_theirs) = io::pipe()?;
        Ok(Self {
            stdin,
            stdout: (stdout, stdout_theirs.into()),
            stderr: (stderr, stderr_theirs.into()),
        })
    }

    fn theirs(&self) -> Vec<std::os::fd::RawFd> {
        vec![
            self.stdin.0.as_raw_fd(),
            self.stdout.1.as_raw_fd(),
            self.stderr.1.as_raw_fd(),
        ]
    }

    /// Closes the command's ends and makes ours asynchronous.
    fn into_session(self, handle: ExecHandle) -> io::Result<ExecSession> {
        let source = |reader: std::io::PipeReader| -> io::Result<Option<ByteSource>> {
            let fd = OwnedFd::from(reader);
            fds::set_nonblocking(fd.as_fd())?;
            Ok(Some(Box::new(pipe::Receiver::from_owned_fd(fd)?)))
        };
        let stdin: Option<ByteSink> = match self.stdin.1 {
            Some(writer) => {
                let fd = OwnedFd::from(writer);
                fds::set_nonblocking(fd.as_fd())?;
                Some(Box::new(pipe::Sender::from_owned_fd(fd)?))
            }
            None => None,
        };
        Ok(ExecSession {
            stdin,
            stdout: source(self.stdout.0)?,
            stderr: source(self.stderr.0)?,
            handle,
        })
    }
}

/// A terminal's master side.
struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let space = buffer.initialize_unfilled();
            match guard.try_io(|fd| fds::read(fd.as_fd(), space)) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // EIO is how a terminal says that nobody has its other side open any more.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            match guard.try_io(|fd| fds::write(fd.as_fd(), bytes)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A terminal is not closed for reading alone; the end-of-file character says the same.
        self.poll_write(context, &[4]).map_ok(|_| ())
    }
}
