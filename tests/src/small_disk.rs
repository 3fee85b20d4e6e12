//! Small file systems for nodes to live on: they can be full, or read-only.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Room for two images, the log and what containers write.
const SIZE: &str = "size=64m";

/// A small file system of its own at a directory, until it is dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts an empty one.
    ///
    /// # Errors
    /// It cannot be mounted there.
    pub fn mount(at: &Path, flags: MsFlags) -> Result<Self> {
        mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(SIZE))
            .context("mount a small file system")?;
        Ok(Self(at.to_owned()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes all that is left.
    ///
    /// # Errors
    /// Something else than a lack of room.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.filler())?;
        for block in [vec![0; 1 << 16], vec![0]] {
            loop {
                match file.write_all(&block) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => bail!(error),
                }
            }
        }
        Ok(())
    }

    /// Gives back what [`fill`](Self::fill) took.
    ///
    /// # Errors
    /// It took nothing.
    pub fn make_room(&self) -> Result<()> {
        fs::remove_file(self.filler()).context("make room")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
