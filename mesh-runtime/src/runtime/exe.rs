//! The executable shims are started from, of this version and protected from what runs in containers.
//!
//! A process that enters a container can be reached as `/proc/<pid>/exe` from inside, and a
//! container's root could overwrite the binary through it. So shims are executed from a
//! read-only clone of the mount the binary is on: the clone is attached nowhere and goes away with
//! the last process executed from it. It also pins the binary, so that replacing it for an upgrade
//! does not mix versions within one agent's life.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::RuntimeConfig;
use crate::fds;
use crate::wire::{SHIM_VERSION, SHIM_VERSION_FLAG};

/// How long a program may take to say which version it is.
const VERSION_DEADLINE: Duration = Duration::from_secs(30);

/// What to execute for a shim.
#[derive(Debug)]
pub(super) struct ShimExe {
    /// First word of its command line, for those who list processes.
    name: OsString,
    program: Program,
}

#[derive(Debug)]
enum Program {
    /// A read-only clone (Linux 5.12 and newer).
    Sealed(OwnedFd),
    /// The file itself, where the kernel or our privileges do not allow a clone.
    Plain(PathBuf),
}

impl ShimExe {
    /// The shim's program if it is of this version, else the one to use in its place.
    ///
    /// # Errors
    /// When the one is missing, cannot be executed or is of another version, and there is no other.
    pub(super) async fn open(config: &RuntimeConfig) -> io::Result<Self> {
        let path = &config.shim_exe;
        match (Self::of_this_version(path).await, &config.agent_exe) {
            (Ok(exe), _) => Ok(exe),
            (Err(error), Some(agent)) => {
                tracing::warn!(
                    path = %path.display(), %error,
                    "the agent's own program is the tasks' shim: it takes more memory"
                );
                Self::protected(agent)
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn of_this_version(path: &Path) -> io::Result<Self> {
        let exe = Self::protected(path)?;
        let asked = exe
            .command()
            .arg(SHIM_VERSION_FLAG)
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .output();
        let answer = tokio::time::timeout(VERSION_DEADLINE, asked).await??;
        if answer.stdout.trim_ascii() == SHIM_VERSION.as_bytes() {
            return Ok(exe);
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it is not a shim of version {SHIM_VERSION}"),
        ))
    }

    fn protected(path: &Path) -> io::Result<Self> {
        if !path.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let program = match clone_read_only(path) {
            Ok(fd) => Program::Sealed(fd),
            Err(error) => {
                tracing::warn!(
                    path = %path.display(), %error,
                    "cannot make a read-only clone of the shim's executable; \
                     containers running as root are not kept from overwriting it"
                );
                Program::Plain(path.to_owned())
            }
        };
        let name = path.file_name().unwrap_or_default().to_owned();
        Ok(Self { name, program })
    }

    /// `<program> shim`, which finds nothing of the agent's: no environment, folder or input.
    pub(super) fn command(&self) -> Command {
        let path = match &self.program {
            Program::Sealed(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
            Program::Plain(path) => path.clone(),
        };
        let mut command = Command::new(path);
        command
            .arg0(&self.name)
            .arg("shim")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null());
        command
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
