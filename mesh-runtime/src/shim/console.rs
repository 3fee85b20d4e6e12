//! Receiving the terminal libcontainer makes inside a container.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::fds;

/// The socket over which libcontainer hands out the terminal it made inside the container.
pub(super) struct Console {
    listener: Option<(UnixListener, PathBuf)>,
}

impl Console {
    pub(super) fn new(tty: bool, run: &Path, name: &str) -> io::Result<Self> {
        if !tty {
            return Ok(Self { listener: None });
        }
        let file = format!("{name}.tty");
        let directory = fds::open_directory(run)?;
        let listener = UnixListener::bind(fds::short_path(directory.as_fd(), &file))?;
        Ok(Self {
            listener: Some((listener, run.join(file))),
        })
    }

    pub(super) fn path(&self) -> Option<PathBuf> {
        self.listener.as_ref().map(|(_, path)| path.clone())
    }

    pub(super) fn receive(self) -> io::Result<Option<OwnedFd>> {
        let Some((listener, path)) = self.listener else {
            return Ok(None);
        };
        let (stream, _) = listener.accept()?;
        let _ = fs::remove_file(path);
        let (mut buffer, mut attached) = ([0; 64], Vec::new());
        fds::receive(stream.as_fd(), &mut buffer, &mut attached)?;
        match attached.pop() {
            Some(fd) => Ok(Some(fd)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
