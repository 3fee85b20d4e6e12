//! A cgroup of its own, below the container's, for an exec that has to end as a whole: no process that it has started
//! gets out of it, whatever its parent or session is by then.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// The cgroup of one exec. Removed with the container if not before.
#[derive(Debug)]
pub(super) struct Leaf {
    directory: PathBuf,
}

impl Leaf {
    /// Makes one below the container's cgroup2 directory.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn new(container: &Path, serial: u64) -> io::Result<Self> {
        let directory = container.join(format!("exec-{serial}"));
        fs::create_dir(&directory)?;
        Ok(Self { directory })
    }

    /// What a process writes "0" to in order to enter it. The right to do so is looked up at the opening: the process may
    /// have given up its own by then.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn entry(&self) -> io::Result<File> {
        let path = self.directory.join("cgroup.procs");
        OpenOptions::new().write(true).open(path)
    }

    /// Kills every process in it.
    pub(super) fn kill(&self) {
        if let Err(error) = fs::write(self.directory.join("cgroup.kill"), b"1") {
            eprintln!("kill {}: {error}", self.directory.display());
        }
    }

    /// Removes it; fails while something in it is still dying.
    pub(super) fn remove(&self) -> bool {
        let removed = fs::remove_dir(&self.directory);
        removed.map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |()| true)
    }
}
