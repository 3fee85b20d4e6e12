//! Temporary directories, and their removal however deep what came into them is.
//!
//! The content is an image's or a container's, and so may be deeper than a stack, a path or the limit of open files
//! allows: nothing here recurses, and two directories are open at most.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use tempfile::TempDir;

/// A directory that is removed, with all that has come into it, when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes one in `parent`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn new_in(parent: &Path) -> io::Result<Self> {
        Ok(Self {
            path: TempDir::new_in(parent)?.keep(),
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            let path = self.path.display();
            tracing::warn!(%path, %error, "cannot delete, will try at next start");
        }
    }
}

/// Removes a file or a whole directory; symbolic links are removed, not followed. Missing is fine.
///
/// # Errors
/// When something cannot be removed.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    match open(parent, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(parent) => remove_tree_at(&parent, name),
        Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// As [`remove_tree`], of a name in an open directory.
///
/// # Errors
/// When something cannot be removed.
pub(crate) fn remove_tree_at(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    if remove(parent, name)? {
        return Ok(());
    }
    clear(&openat(parent, name, DIRECTORY, Mode::empty())?)?;
    Ok(unlinkat(parent, name, UnlinkatFlags::RemoveDir)?)
}

const DIRECTORY: OFlag = OFlag::O_DIRECTORY
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Removes all that is in `top`. The directories of a directory move up to `top` before it is removed.
fn clear(top: &OwnedFd) -> io::Result<()> {
    let mut moved = 0_u64;
    loop {
        let found = names(top)?;
        if found.is_empty() {
            return Ok(());
        }
        for name in found {
            if remove(top, &name)? {
                continue;
            }
            let dir = openat(top, name.as_os_str(), DIRECTORY, Mode::empty())?;
            for inner in names(&dir)? {
                if !remove(&dir, &inner)? {
                    move_up(&dir, &inner, top, &mut moved)?;
                }
            }
            unlinkat(top, name.as_os_str(), UnlinkatFlags::RemoveDir)?;
        }
    }
}

fn names(dir: &OwnedFd) -> io::Result<Vec<OsString>> {
    // The standard library lists by path only.
    fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()))?
        .map(|entry| Ok(entry?.file_name()))
        .collect()
}

/// Removes a name; false for a directory that is not empty.
fn remove(dir: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(true),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(error) => return Err(error.into()),
    }
    match unlinkat(dir, name, UnlinkatFlags::RemoveDir) {
        Ok(()) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Moves a directory with content to `top` under a name that is free there: it takes the place of an empty directory at most.
/// Network file systems know no renames that replace nothing.
fn move_up(dir: &OwnedFd, name: &OsStr, top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        let to = format!("moved-{moved}");
        match renameat(dir, name, top, to.as_str()) {
            Ok(()) => return Ok(()),
            Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::mkdirat;

    use super::*;

    /// Deeper than a thread's stack, a path or the usual limit of open files lets recursion go.
    const DEPTH: usize = 5_000;

    #[test]
    fn a_tree_of_any_depth_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::new_in(parent.path()).unwrap();
        fs::write(scratch.path().join("file"), "x").unwrap();
        fs::create_dir(scratch.path().join("moved-1")).unwrap();
        let mut dir = open(scratch.path(), DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..DEPTH {
            mkdirat(&dir, "d", Mode::S_IRWXU).unwrap();
            dir = openat(&dir, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        drop(scratch);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_are_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let outside = parent.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        let inside = parent.path().join("inside");
        fs::create_dir_all(inside.join("a")).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("a/link")).unwrap();
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        for gone in [&inside, &link, &parent.path().join("absent")] {
            remove_tree(gone).unwrap();
            assert!(gone.symlink_metadata().is_err());
        }
        assert!(outside.join("kept").exists());
    }
}
