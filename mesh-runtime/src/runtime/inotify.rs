//! Waiting for a log to grow or to be rotated.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use crate::fds;

/// How often to look where the kernel does not tell.
const INTERVAL: Duration = Duration::from_millis(200);

/// Tells that something in a directory changed.
#[derive(Debug)]
pub(super) struct DirectoryWatch {
    /// `None` once the kernel's limit of watches (128 by default) is reached.
    fd: Option<AsyncFd<OwnedFd>>,
}

impl DirectoryWatch {
    /// Watches writes to files of `directory` and files moved or made in it, from now on.
    ///
    /// # Errors
    /// When the directory is gone.
    pub(super) fn new(directory: &Path) -> io::Result<Self> {
        match Self::watch(directory) {
            Ok(fd) => Ok(Self { fd: Some(fd) }),
            Err(error) => match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENOSPC) => Ok(Self { fd: None }),
                _ => Err(error),
            },
        }
    }

    fn watch(directory: &Path) -> io::Result<AsyncFd<OwnedFd>> {
        let path = CString::new(directory.as_os_str().as_bytes())?;
        // SAFETY: the first call takes a number, and its result is a new descriptor of ours; the
        // second reads a string that outlives it.
        let fd = unsafe {
            let raw = libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK);
            if raw < 0 {
                return Err(io::Error::last_os_error());
            }
            let fd = OwnedFd::from_raw_fd(raw);
            let mask = libc::IN_MODIFY | libc::IN_CREATE | libc::IN_MOVED_TO;
            if libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), mask) < 0 {
                return Err(io::Error::last_os_error());
            }
            fd
        };
        super::exec::register(fd)
    }

    /// Waits for a change since the last call. May return without one.
    ///
    /// # Errors
    /// What reading the kernel's queue says.
    pub(super) async fn changed(&self) -> io::Result<()> {
        let Some(fd) = &self.fd else {
            tokio::time::sleep(INTERVAL).await;
            return Ok(());
        };
        let mut events = [0; 4096];
        loop {
            let mut guard = fd.readable().await?;
            if let Ok(result) = guard.try_io(|fd| fds::read(fd.as_fd(), &mut events)) {
                return result.map(|_| ());
            }
        }
    }
}
