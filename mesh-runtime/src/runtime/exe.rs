//! The executable shims are started from, protected from what runs in containers.
//!
//! A process that enters a container can be reached as `/proc/<pid>/exe` from inside, and a
//! container's root could overwrite the agent's binary through it. So shims are executed from a
//! read-only clone of the mount the binary is on: the clone is attached nowhere and goes away with
//! the last process executed from it. It also pins the binary, so that replacing it for an upgrade
//! does not mix versions within one agent's life.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::fds;

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
    let tree = fds::clone_mount(&path, 0)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: all pointers outlive the call and the size is that of the structure.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(tree)
}
