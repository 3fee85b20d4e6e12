//! The executable shims are started from, protected from what runs in containers.
//!
//! A process that enters a container can be reached as `/proc/<pid>/exe` from inside, and a
//! container's root could overwrite the agent's binary through it. So shims are executed from a
//! read-only clone of the mount the binary is on: the clone is attached nowhere and goes away with
//! the last process executed from it. It also pins the binary, so that replacing it for an upgrade
//! does not mix versions within one agent's life.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Default)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

const MOUNT_ATTR_RDONLY: u64 = 1;
const OPEN_TREE_CLONE: libc::c_long = 1;

/// What to execute for a shim.
#[derive(Debug)]
pub(super) enum ShimExe {
    /// A read-only clone (Linux 5.12 and newer).
    Sealed(OwnedFd),
    /// The file itself, where the kernel or our privileges do not allow a clone.
    Plain(PathBuf),
}

impl ShimExe {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if !path.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        match clone_read_only(path) {
            Ok(fd) => Ok(Self::Sealed(fd)),
            Err(error) => {
                tracing::warn!(
                    path = %path.display(), %error,
                    "cannot make a read-only clone of the shim's executable; \
                     containers running as root are not kept from overwriting it"
                );
                Ok(Self::Plain(path.to_owned()))
            }
        }
    }

    /// The path to execute; valid while `self` lives.
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::Sealed(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
            Self::Plain(path) => path.clone(),
        }
    }
}

fn clone_read_only(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path outlives the call; a non-negative result is a new descriptor of ours.
    let tree = unsafe {
        let fd = libc::syscall(
            libc::SYS_open_tree,
            libc::AT_FDCWD,
            path.as_ptr(),
            OPEN_TREE_CLONE | libc::c_long::from(libc::O_CLOEXEC),
        );
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd as i32)
    };
    let attributes = MountAttributes {
        set: MOUNT_ATTR_RDONLY,
        ..MountAttributes::default()
    };
    // SAFETY: all pointers outlive the call and the size is that of the structure.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(tree)
}
