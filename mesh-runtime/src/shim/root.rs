//! A shim below a `chroot`. Whoever enters a container (an exec, a terminal) joins its mount namespace and stands
//! at that namespace's root. `pivot_root` makes this the container's root folder, but below a `chroot` it only
//! exchanges a folder further down, and an exec would find itself in the host's file system.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::fds;

const NAMESPACE: &str = "/proc/self/ns/mnt";
const ROOT: &CStr = c"/";
const HERE: &CStr = c"";

/// Makes this process's root folder the root of its mount namespace: of its own one, if it is not so already.
/// Needs a process with one thread.
///
/// # Errors
/// What the kernel says: it must have `open_tree` and `move_mount` (Linux 5.2).
pub(super) fn settle() -> nix::Result<()> {
    let before = File::open("/").map_err(errno)?;
    let namespace = File::open(NAMESPACE).map_err(errno)?;
    // Joining one's own namespace leads to its root.
    setns(&namespace, CloneFlags::CLONE_NEWNS)?;
    let after = File::open("/").map_err(errno)?;
    if place(&before)? == place(&after)? {
        return Ok(());
    }
    nix::unistd::fchdir(&before)?;
    nix::unistd::chroot(".")?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let namespace = File::open(NAMESPACE).map_err(errno)?;
    let tree = fds::clone_mount(ROOT, libc::AT_RECURSIVE as u32)?;
    setns(&namespace, CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    put_on_root(&tree)?;
    setns(&namespace, CloneFlags::CLONE_NEWNS)
}

/// What tells one folder from another.
fn place(folder: &File) -> nix::Result<(u64, u64)> {
    let data = folder.metadata().map_err(errno)?;
    Ok((data.dev(), data.ino()))
}

/// Mounts the tree over this process's root.
fn put_on_root(tree: &OwnedFd) -> nix::Result<()> {
    // SAFETY: both paths are C strings that outlive the call, the descriptor is open.
    let moved = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            HERE.as_ptr(),
            libc::AT_FDCWD,
            ROOT.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    Errno::result(moved).map(drop)
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
