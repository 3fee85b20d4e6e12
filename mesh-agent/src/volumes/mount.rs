//! Mounting and unmounting in a process of its own: a file server that does not answer may hold such a call for minutes, and
//! only a process can be killed then.

use std::{
    ffi::OsString,
    io::{Read, Write},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Duration,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, umount2},
    sys::{prctl, signal::Signal},
    unistd::getppid,
};
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::options::Source;

/// The first argument that makes the agent's program this helper.
pub const HELPER: &str = "mount";

/// Longest time for one mount; one that takes longer is given up.
const MOUNT_LIMIT: Duration = Duration::from_secs(60);

/// Longest time for an unmount; then the mount is detached, and goes once nobody uses it.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(10);

/// Longest wait for a killed helper: one in the kernel's hands may not end at once.
const REAP_LIMIT: Duration = Duration::from_secs(2);

/// Flags that say how mounts spread, and take a call of their own.
const PROPAGATION: MsFlags = MsFlags::MS_SHARED
    .union(MsFlags::MS_PRIVATE)
    .union(MsFlags::MS_SLAVE)
    .union(MsFlags::MS_UNBINDABLE);

/// What the helper is to do, and for whom.
#[derive(Serialize, Deserialize)]
struct Request {
    /// The process that asks: without it nothing is done.
    parent: u32,
    what: What,
}

#[derive(Serialize, Deserialize)]
enum What {
    Mount {
        source: Source,
        at: PathBuf,
    },
    Unmount {
        at: PathBuf,
    },
    /// Takes the mount out of the tree; it goes once nobody uses it.
    Detach {
        at: PathBuf,
    },
}

/// Why something is not mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub(super) enum MountError {
    /// The kernel's answer.
    #[error("{}", lower(*.0))]
    Refused(Errno),
    /// No answer.
    #[error("no answer within {} s: check the server's address and the network", .0.as_secs())]
    TimedOut(Duration),
    /// The helper cannot be run.
    #[error("the mount helper: {0}")]
    Helper(std::io::Error),
}

/// Go's words, which begin in lower case.
fn lower(errno: Errno) -> String {
    let text = errno.desc();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) if !text.starts_with("RPC") => first.to_lowercase().chain(letters).collect(),
        _ => text.to_owned(),
    }
}

/// Mounts; the helper is killed if it takes too long, or nobody waits any more.
pub(super) async fn mount(helper: &Path, source: Source, at: &Path) -> Result<(), MountError> {
    let at = at.to_owned();
    ask(helper, What::Mount { source, at }, MOUNT_LIMIT).await
}

/// Unmounts. A file server that does not answer keeps nobody: its mount is detached.
pub(super) async fn unmount(helper: &Path, at: &Path) -> Result<(), MountError> {
    let at = at.to_owned();
    let unmount = What::Unmount { at: at.clone() };
    let done = match ask(helper, unmount, UNMOUNT_LIMIT).await {
        // Where nobody uses it, this waits for the server as well.
        Err(MountError::TimedOut(_)) => ask(helper, What::Detach { at }, UNMOUNT_LIMIT).await,
        done => done,
    };
    match done {
        // Not a mount (any more).
        Err(MountError::Refused(Errno::EINVAL | Errno::ENOENT)) => Ok(()),
        done => done,
    }
}

async fn ask(helper: &Path, what: What, limit: Duration) -> Result<(), MountError> {
    let parent = std::process::id();
    let body = serde_json::to_vec(&Request { parent, what });
    let body = body.map_err(|e| MountError::Helper(e.into()))?;
    let mut child = Command::new(helper)
        .arg(HELPER)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(MountError::Helper)?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let talk = async {
        if let Some(mut stdin) = stdin {
            stdin.write_all(&body).await?;
        }
        let mut answer = String::new();
        if let Some(mut stdout) = stdout {
            tokio::io::AsyncReadExt::read_to_string(&mut stdout, &mut answer).await?;
        }
        let status = child.wait().await?;
        Ok::<_, std::io::Error>((status, answer))
    };
    let answered = timeout(limit, talk).await;
    let (status, answer) = match answered {
        Ok(answered) => answered.map_err(MountError::Helper)?,
        Err(_) => {
            let killed = timeout(REAP_LIMIT, child.kill()).await;
            tracing::debug!(?killed, "a mount helper is given up");
            return Err(MountError::TimedOut(limit));
        }
    };
    match answer.trim().parse() {
        _ if status.success() => Ok(()),
        Ok(errno) => Err(MountError::Refused(Errno::from_raw(errno))),
        Err(_) => Err(MountError::Helper(std::io::Error::other(format!(
            "it ended with {status}"
        )))),
    }
}

/// The helper: does what standard input says, and writes the number of the kernel's error, if there is one. It ends with the
/// process that asks, so that nothing is mounted that nobody knows of.
pub fn helper_main() -> ExitCode {
    if let Err(error) = prctl::set_pdeathsig(Signal::SIGKILL) {
        eprintln!("mesh-agent {HELPER}: {error}");
        return ExitCode::FAILURE;
    }
    let mut input = Vec::new();
    let request = std::io::stdin()
        .read_to_end(&mut input)
        .map_err(anyhow::Error::from)
        .and_then(|_| asked(&input));
    let done = match request {
        Ok(What::Mount { source, at }) => mount_here(&source, &at),
        Ok(What::Unmount { at }) => umount2(&at, MntFlags::UMOUNT_NOFOLLOW),
        Ok(What::Detach { at }) => umount2(&at, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH),
        Err(error) => {
            eprintln!("mesh-agent {HELPER}: {error}");
            return ExitCode::FAILURE;
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(errno) => {
            // Who has killed this needs no answer.
            let _ = write!(std::io::stdout(), "{}", errno as i32);
            ExitCode::FAILURE
        }
    }
}

/// What is asked, if who asks is still there: it may have ended before this process was to end with it.
fn asked(input: &[u8]) -> anyhow::Result<What> {
    let Request { parent, what } = serde_json::from_slice(input)?;
    anyhow::ensure!(
        u32::try_from(getppid().as_raw()) == Ok(parent),
        "who asks has ended"
    );
    Ok(what)
}

fn mount_here(source: &Source, at: &Path) -> nix::Result<()> {
    let flags = MsFlags::from_bits_truncate(source.flags);
    let kind = Some(source.kind.as_str());
    let data = Some(source.data.as_str()).filter(|data| !data.is_empty());
    let first = flags - PROPAGATION;
    let none = None::<&str>;
    nix::mount::mount(Some(source.device.as_str()), at, kind, first, data)?;
    let rest = || {
        if flags.intersects(PROPAGATION) {
            let spread = flags & (PROPAGATION | MsFlags::MS_REC);
            nix::mount::mount(none, at, none, spread, none)?;
        }
        // A bind mount takes no other flag at first.
        if first.contains(MsFlags::MS_BIND) && first != MsFlags::MS_BIND {
            nix::mount::mount(none, at, none, first | MsFlags::MS_REMOUNT, none)?;
        }
        Ok(())
    };
    let done = rest();
    if done.is_err() {
        // Half of it is nothing to go on with.
        let _ = umount2(at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    }
    done
}

/// The ids of the mounts at each path that is `at` or below it, the topmost mount last.
pub(super) fn mounted(at: &Path) -> std::io::Result<Vec<(PathBuf, u64)>> {
    Ok(below(&std::fs::read("/proc/self/mountinfo")?, at))
}

/// Paths are bytes to the kernel: those of others need not be text.
fn below(mountinfo: &[u8], at: &Path) -> Vec<(PathBuf, u64)> {
    let read = |line: &[u8]| {
        let mut words = line.split(|byte| *byte == b' ');
        let id = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
        let path = PathBuf::from(unescape(words.nth(3)?));
        path.starts_with(at).then_some((path, id))
    };
    mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(read)
        .collect()
}

/// Takes the octal numbers out of a path: the kernel writes blanks, tabs, line ends and backslashes so.
fn unescape(text: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(text.len());
    let mut left = text;
    while let Some((&byte, rest)) = left.split_first() {
        let digits = rest.get(..3).filter(|_| byte == b'\\');
        let number = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(number.unwrap_or(byte));
        left = if number.is_some() { &rest[3..] } else { rest };
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn mounts_are_found_by_path() {
        let text = b"22 1 0:21 / / rw shared:1 - ext4 /dev/sda1 rw\n\
                    30 22 0:30 / /v/a/_data rw - nfs4 h:/x rw\n\
                    31 30 0:31 / /v/a/_data rw - tmpfs tmpfs rw\n\
                    32 22 0:32 / /v/ab rw - tmpfs tmpfs rw\n\
                    33 22 0:33 / /v/with\\040blank/_data rw - tmpfs tmpfs rw\n\
                    34 22 0:34 / /v/\xff\\134\\x rw - tmpfs tmpfs rw\n";
        let ids = |at: &[u8]| {
            let at = Path::new(std::ffi::OsStr::from_bytes(at));
            let found = below(text, at).into_iter();
            found.map(|(_, id)| id).collect::<Vec<_>>()
        };
        assert_eq!(ids(b"/v/a"), [30, 31]);
        assert_eq!(ids(b"/v/a/_data"), [30, 31]);
        assert_eq!(ids(b"/v/with blank"), [33]);
        assert_eq!(ids(b"/v/\xff\\\\x"), [34]);
        assert_eq!(ids(b"/v/b"), [] as [u64; 0]);
    }

    #[test]
    fn nothing_is_done_for_who_has_ended() {
        let request = |parent| {
            let at = "/x".into();
            serde_json::to_vec(&Request {
                parent,
                what: What::Unmount { at },
            })
            .expect("written")
        };
        asked(&request(std::os::unix::process::parent_id())).expect("it is there");
        asked(&request(std::process::id()))
            .map(drop)
            .expect_err("not who asks");
    }

    #[test]
    fn errors_are_in_gos_words() {
        for (errno, words) in [
            (Errno::ENOENT, "no such file or directory"),
            (Errno::EINVAL, "invalid argument"),
            (Errno::ECONNREFUSED, "connection refused"),
        ] {
            assert_eq!(MountError::Refused(errno).to_string(), words);
        }
    }

    #[tokio::test]
    async fn a_helper_that_fails_says_so() {
        let source = Source {
            device: "tmpfs".into(),
            kind: "tmpfs".into(),
            flags: 0,
            data: String::new(),
        };
        let failed = mount(Path::new("/bin/false"), source.clone(), Path::new("/x")).await;
        assert!(matches!(failed, Err(MountError::Helper(_))), "{failed:?}");
        let missing = mount(Path::new("/nowhere"), source, Path::new("/x")).await;
        assert!(matches!(missing, Err(MountError::Helper(_))), "{missing:?}");
    }
}
