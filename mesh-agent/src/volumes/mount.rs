//! Mounting and unmounting in a process of its own: a file server that does not answer may hold such a call for minutes, and
//! only a process can be killed then.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Duration,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, umount2},
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

/// What the helper is to do.
#[derive(Serialize, Deserialize)]
enum Request {
    Mount { source: Source, at: PathBuf },
    Unmount { at: PathBuf },
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
    ask(helper, &Request::Mount { source, at }, MOUNT_LIMIT).await
}

/// Unmounts. A file server that does not answer keeps nobody: its mount is detached.
pub(super) async fn unmount(helper: &Path, at: &Path) -> Result<(), MountError> {
    let request = Request::Unmount { at: at.to_owned() };
    match ask(helper, &request, UNMOUNT_LIMIT).await {
        Err(MountError::TimedOut(_)) => {
            let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
            umount2(at, flags).map_err(MountError::Refused)
        }
        // Not a mount (any more).
        Err(MountError::Refused(Errno::EINVAL | Errno::ENOENT)) => Ok(()),
        done => done,
    }
}

async fn ask(helper: &Path, request: &Request, limit: Duration) -> Result<(), MountError> {
    let body = serde_json::to_vec(request).map_err(|e| MountError::Helper(e.into()))?;
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

/// The helper: does what standard input says, and writes the number of the kernel's error, if there is one.
pub fn helper_main() -> ExitCode {
    let mut input = Vec::new();
    let request = std::io::stdin()
        .read_to_end(&mut input)
        .map_err(anyhow::Error::from)
        .and_then(|_| Ok(serde_json::from_slice(&input)?));
    let done = match request {
        Ok(Request::Mount { source, at }) => mount_here(&source, &at),
        Ok(Request::Unmount { at }) => umount2(&at, MntFlags::UMOUNT_NOFOLLOW),
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
    Ok(below(&std::fs::read_to_string("/proc/self/mountinfo")?, at))
}

fn below(mountinfo: &str, at: &Path) -> Vec<(PathBuf, u64)> {
    let read = |line: &str| {
        let mut words = line.split(' ');
        let id = words.next()?.parse().ok()?;
        let path = PathBuf::from(unescape(words.nth(3)?));
        path.starts_with(at).then_some((path, id))
    };
    mountinfo.lines().filter_map(read).collect()
}

/// Takes the octal numbers out of a path: the kernel writes blanks, tabs, line ends and backslashes so.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let number = part.get(..3).and_then(|n| u8::from_str_radix(n, 8).ok());
        match number {
            Some(byte) => {
                out.push(char::from(byte));
                out.push_str(&part[3..]);
            }
            None => {
                out.push('\\');
                out.push_str(part);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_path() {
        let text = "22 1 0:21 / / rw shared:1 - ext4 /dev/sda1 rw\n\
                    30 22 0:30 / /v/a/_data rw - nfs4 h:/x rw\n\
                    31 30 0:31 / /v/a/_data rw - tmpfs tmpfs rw\n\
                    32 22 0:32 / /v/ab rw - tmpfs tmpfs rw\n\
                    33 22 0:33 / /v/with\\040blank/_data rw - tmpfs tmpfs rw\n";
        let ids = |at: &str| {
            let found = below(text, Path::new(at)).into_iter();
            found.map(|(_, id)| id).collect::<Vec<_>>()
        };
        assert_eq!(ids("/v/a"), [30, 31]);
        assert_eq!(ids("/v/a/_data"), [30, 31]);
        assert_eq!(ids("/v/with blank"), [33]);
        assert_eq!(ids("/v/b"), [] as [u64; 0]);
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
