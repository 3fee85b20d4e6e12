//! The last steps inside the container before its command runs.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, RawFd};

use libcontainer::oci_spec::runtime::{LinuxSeccomp, Spec};
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::errno::Errno;

use crate::oci::capabilities;
use crate::wire::Failure;

/// Begins the part of an error text that is ours; libcontainer puts its own words around it.
const MARK: &str = "\u{1}mesh-exec ";

/// Runs the command of a container (or of an exec) the way Docker's users expect.
#[derive(Clone)]
pub(super) struct MeshExecutor {
    /// Run our init as process 1.
    pub(super) init: bool,
    /// Where to write why the command could not be executed; closed on success.
    pub(super) error_fd: Option<RawFd>,
    /// Where to write "0" to get into a cgroup before anything else is done.
    pub(super) cgroup: Option<RawFd>,
    /// For an exec, to which libcontainer applies no filter: load this one, then keep only these
    /// capabilities.
    pub(super) confine: Option<Confinement>,
    /// Working directory, if libcontainer is not to go there itself: it loses the reason why it cannot.
    pub(super) directory: Option<String>,
    /// Rows and columns of the terminal, which the command must find set when it looks.
    pub(super) window: Option<(u16, u16)>,
}

/// What an exec must give up last.
#[derive(Clone)]
pub(super) struct Confinement {
    pub(super) filter: Option<LinuxSeccomp>,
    pub(super) capabilities: Vec<String>,
}

impl Executor for MeshExecutor {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        self.enter_directory()
            .and_then(|()| Command::from_spec(spec)?.resolve())
            .map(drop)
            .map_err(|failure| ExecutorValidationError::ArgValidationError(marked(&failure)))
    }

    /// The environment is handed to `execve` as it is; this process needs none.
    fn setup_envs(&self, _envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let failure = match self.run(spec) {
            Ok(never) => match never {},
            Err(failure) => failure,
        };
        if let Some(fd) = self.error_fd {
            let line = crate::wire::to_line(&failure);
            // SAFETY: the descriptor was opened by the shim for this very process.
            let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
            let _ = crate::fds::write(fd, &line);
            // SAFETY: nothing of this process shall run on; _exit takes a number.
            unsafe { libc::_exit(failure.code) };
        }
        Err(ExecutorError::Other(marked(&failure)))
    }
}

impl MeshExecutor {
    fn enter_directory(&self) -> Result<(), Failure> {
        let Some(directory) = &self.directory else {
            return Ok(());
        };
        nix::unistd::chdir(directory.as_str()).map_err(|errno| Failure {
            code: 126,
            message: format!(
                "chdir to cwd (\"{directory}\") failed: {}",
                errno.desc().to_lowercase()
            ),
        })
    }

    fn run(&self, spec: &Spec) -> Result<std::convert::Infallible, Failure> {
        let command = Command::from_spec(spec)?;
        let path = command.resolve()?;
        if let Some(fd) = self.cgroup {
            // SAFETY: the helper that began this process keeps the descriptor open for it.
            let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
            crate::fds::write(fd, b"0").map_err(|error| Failure {
                code: 126,
                message: format!("cannot enter the cgroup of the command: {error}"),
            })?;
        }
        if let Some((rows, columns)) = self.window {
            // A terminal that keeps its size is no reason not to run.
            let _ = crate::fds::set_window_size(io::stdin().as_fd(), rows, columns);
        }
        if let Some(confinement) = &self.confine {
            confinement.apply().map_err(|reason| Failure {
                code: 126,
                message: format!("cannot confine the command: {reason}"),
            })?;
        }
        reset_signals();
        if self.init {
            super::init::become_init();
        }
        let errno = command.execute(&path);
        Err(command.not_executable(errno))
    }
}

impl Confinement {
    fn apply(&self) -> Result<(), String> {
        if let Some(filter) = &self.filter {
            libcontainer::seccomp::initialize_seccomp(filter).map_err(|e| e.to_string())?;
        }
        let mut keep = 0u64;
        for name in &self.capabilities {
            if let Some(number) = capabilities::number(name) {
                keep |= 1 << number;
            }
        }
        // SAFETY: prctl takes numbers; capset reads two structures that outlive the call.
        unsafe {
            for number in 0..64 {
                if keep & (1 << number) == 0
                    && libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) == 1
                    && libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) < 0
                {
                    return Err(format!("drop capability {number}: {}", Errno::last()));
                }
            }
            let header = CapabilityHeader {
                version: CAPABILITY_VERSION_3,
                pid: 0,
            };
            let half = |bits: u64| CapabilityData {
                effective: bits as u32,
                permitted: bits as u32,
                inheritable: 0,
            };
            let data = [half(keep), half(keep >> 32)];
            if libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) < 0 {
                return Err(format!("set capabilities: {}", Errno::last()));
            }
        }
        Ok(())
    }
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// What `execve` needs.
struct Command {
    name: String,
    args: Vec<CString>,
    env: Vec<CString>,
    search: String,
}

impl Command {
    fn from_spec(spec: &Spec) -> Result<Self, Failure> {
        let invalid = |message: &str| Failure {
            code: 126,
            message: message.to_owned(),
        };
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| invalid("no process"))?;
        let args = process.args().as_deref().unwrap_or_default();
        let env = process.env().as_deref().unwrap_or_default();
        let strings = |list: &[String]| {
            list.iter()
                .map(|text| CString::new(text.as_bytes()))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| invalid("a NUL byte in an argument or in the environment"))
        };
        Ok(Self {
            name: args.first().cloned().unwrap_or_default(),
            args: strings(args)?,
            env: strings(env)?,
            search: env
                .iter()
                .find_map(|entry| entry.strip_prefix("PATH="))
                .unwrap_or_default()
                .to_owned(),
        })
    }

    /// Finds the executable as this process's user sees it.
    fn resolve(&self) -> Result<CString, Failure> {
        let candidates: Vec<String> = if self.name.contains('/') {
            vec![self.name.clone()]
        } else {
            self.search
                .split(':')
                .map(|directory| match directory {
                    "" => format!("./{}", self.name),
                    directory => format!("{directory}/{}", self.name),
                })
                .collect()
        };
        let mut denied = None;
        for candidate in candidates {
            let Ok(path) = CString::new(candidate.as_bytes()) else {
                continue;
            };
            match nix::unistd::access(path.as_c_str(), nix::unistd::AccessFlags::X_OK) {
                Ok(()) if std::path::Path::new(&candidate).is_dir() => {
                    denied.get_or_insert(Errno::EISDIR);
                }
                Ok(()) => return Ok(path),
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(errno) => {
                    denied.get_or_insert(errno);
                }
            }
        }
        match denied {
            Some(errno) => Err(self.not_executable(errno)),
            None if self.name.contains('/') => Err(Failure {
                code: 127,
                message: format!(
                    "exec: \"{0}\": stat {0}: no such file or directory",
                    self.name
                ),
            }),
            None => Err(Failure {
                code: 127,
                message: format!(
                    "exec: \"{}\": executable file not found in $PATH",
                    self.name
                ),
            }),
        }
    }

    fn execute(&self, path: &CString) -> Errno {
        match nix::unistd::execve(path, &self.args, &self.env) {
            Ok(never) => match never {},
            Err(errno) => errno,
        }
    }

    fn not_executable(&self, errno: Errno) -> Failure {
        let reason = match errno {
            Errno::ENOEXEC => "exec format error".to_owned(),
            Errno::EACCES => "permission denied".to_owned(),
            Errno::EISDIR => "is a directory".to_owned(),
            // The file is there, so it is its interpreter that is not.
            Errno::ENOENT => {
                "no such file or directory (missing interpreter or library loader)".to_owned()
            }
            other => io::Error::from(other).to_string(),
        };
        Failure {
            code: if errno == Errno::ENOENT { 127 } else { 126 },
            message: format!("exec: \"{}\": {reason}", self.name),
        }
    }
}

/// The command starts with nothing blocked and nothing ignored; the shim has both.
fn reset_signals() {
    // SAFETY: sets default dispositions and an empty mask in a process about to be replaced.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut empty: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut empty);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut());
    }
}

fn marked(failure: &Failure) -> String {
    let text = serde_json::to_string(failure).unwrap_or_default();
    format!("{MARK}{text}")
}

/// Finds our own failure in the text libcontainer made of it.
pub(super) fn unmark(text: &str) -> Option<Failure> {
    let (_, rest) = text.split_once(MARK)?;
    let mut stream = serde_json::Deserializer::from_str(rest).into_iter();
    stream.next()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_being_wrapped() {
        let failure = Failure {
            code: 127,
            message: "exec: \"x\": not found".to_owned(),
        };
        let wrapped = format!("failed to create: {}\", trailing", marked(&failure));
        let found = unmark(&wrapped).unwrap();
        assert_eq!((found.code, found.message), (127, failure.message));
        assert!(unmark("something else").is_none());
    }
}
