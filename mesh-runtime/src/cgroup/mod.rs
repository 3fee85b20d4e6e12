//! Where a container's cgroups are, on hosts with v1 controllers, with cgroup2 only, and with both.

pub(crate) mod device;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Result, RuntimeError};

/// How long the kernel may take to let go of a cgroup whose processes are dead.
const REMOVE_DEADLINE: Duration = Duration::from_secs(5);

/// The cgroup hierarchies of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    /// Mount points of v1 hierarchies with a controller, e.g. `/sys/fs/cgroup/memory`.
    v1: Vec<PathBuf>,
    /// Mount point of cgroup2.
    v2: Option<PathBuf>,
    /// Mount points of v1 hierarchies without a controller, e.g. `/sys/fs/cgroup/systemd`.
    named: Vec<PathBuf>,
}

impl Hierarchies {
    /// Reads them from this process's mount table.
    ///
    /// # Errors
    /// When the mount table cannot be read, or no hierarchy is mounted.
    pub(crate) fn detect() -> Result<Self> {
        let path = "/proc/self/mountinfo";
        let table = fs::read_to_string(path).map_err(RuntimeError::io("read", path))?;
        let found = Self::parse(&table);
        if found.v1.is_empty() && found.v2.is_none() {
            return Err(RuntimeError::InvalidSpec {
                reason: "no cgroup hierarchy is mounted here; mount cgroup2 on /sys/fs/cgroup \
                         (`ip netns exec` hides it, `nsenter --net` does not)"
                    .to_owned(),
            });
        }
        Ok(found)
    }

    fn parse(table: &str) -> Self {
        let mut found = Self {
            v1: Vec::new(),
            v2: None,
            named: Vec::new(),
        };
        for line in table.lines() {
            let Some((before, after)) = line.split_once(" - ") else {
                continue;
            };
            let (Some(point), Some(kind)) = (before.split(' ').nth(4), after.split(' ').next())
            else {
                continue;
            };
            let point = PathBuf::from(point);
            if !point.starts_with("/sys/fs/cgroup") {
                continue;
            }
            match kind {
                // libcontainer puts no process into these.
                "cgroup" if after.contains("name=") => found.named.push(point),
                "cgroup" if !found.v1.contains(&point) => {
                    found.v1.push(point);
                }
                "cgroup2" if found.v2.is_none() => found.v2 = Some(point),
                _ => {}
            }
        }
        found
    }

    /// Whether the controllers live in v1 hierarchies.
    pub(crate) fn has_v1(&self) -> bool {
        !self.v1.is_empty()
    }

    /// Mount points of all v1 hierarchies.
    pub(crate) fn v1_mounts(&self) -> Vec<PathBuf> {
        self.v1.iter().chain(&self.named).cloned().collect()
    }

    /// The cgroup2 directory of `path` (relative to the root of the hierarchy).
    pub(crate) fn v2_path(&self, path: &str) -> Option<PathBuf> {
        self.v2.as_ref().map(|root| root.join(path))
    }

    /// The file whose `oom_kill` line counts kills in the cgroup `path`.
    pub(crate) fn oom_file(&self, path: &str) -> Option<PathBuf> {
        if self.has_v1() {
            self.v1_named("memory")
                .map(|root| root.join(path).join("memory.oom_control"))
        } else {
            self.v2_path(path).map(|dir| dir.join("memory.events"))
        }
    }

    fn v1_named(&self, controller: &str) -> Option<&PathBuf> {
        self.v1.iter().find(|point| {
            point
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.split(',').any(|part| part == controller))
        })
    }

    /// Every directory the cgroup `path` may have.
    fn directories(&self, path: &str) -> impl Iterator<Item = PathBuf> {
        self.v1
            .iter()
            .chain(&self.v2)
            .map(move |root| root.join(path))
    }

    /// Processes in the cgroup, in whichever hierarchy has it.
    pub(crate) fn pids(&self, path: &str) -> Vec<u32> {
        let mut pids = Vec::new();
        for directory in self.directories(path) {
            collect_pids(&directory, &mut pids);
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Kills everything in the cgroup, until it is empty.
    ///
    /// # Errors
    /// When processes are left after [`REMOVE_DEADLINE`].
    pub(crate) fn kill_all(&self, path: &str) -> Result<()> {
        let begin = Instant::now();
        loop {
            let pids = self.pids(path);
            if pids.is_empty() {
                return Ok(());
            }
            for pid in pids {
                let pid = nix::unistd::Pid::from_raw(pid as i32);
                // A process that is gone already is what we want.
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL);
            }
            if begin.elapsed() > REMOVE_DEADLINE {
                return Err(RuntimeError::Io {
                    action: "kill the processes of cgroup",
                    path: path.into(),
                    source: io::ErrorKind::TimedOut.into(),
                });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Removes the cgroup in every hierarchy. One that is not there counts as removed.
    ///
    /// # Errors
    /// The last directory that could not be removed; the others have been tried.
    pub(crate) fn remove(&self, path: &str) -> Result<()> {
        let mut result = Ok(());
        for directory in self.directories(path) {
            if let Err(source) = remove_tree(&directory) {
                result = Err(RuntimeError::Io {
                    action: "remove cgroup",
                    path: directory,
                    source,
                });
            }
        }
        result
    }

    /// Removes the directories of `path` and of its ancestors, as far as they are empty.
    pub(crate) fn prune(&self, path: &str) {
        for root in self.v1.iter().chain(&self.v2) {
            let mut directory = root.join(path);
            // What is above may be in use by other agents.
            while directory != *root && (!directory.exists() || fs::remove_dir(&directory).is_ok())
            {
                directory.pop();
            }
        }
    }
}

fn collect_pids(directory: &Path, pids: &mut Vec<u32>) {
    if let Ok(text) = fs::read_to_string(directory.join("cgroup.procs")) {
        pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    }
    for child in children(directory) {
        collect_pids(&child, pids);
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    for child in children(directory) {
        remove_tree(&child)?;
    }
    let begin = Instant::now();
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The kernel empties a cgroup a moment after its last process was reaped.
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY)
                    && begin.elapsed() < REMOVE_DEADLINE =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error),
        }
    }
}

/// The number on the `oom_kill` line of `memory.oom_control` (v1) or `memory.events` (v2).
pub(crate) fn oom_kills(file: &Path) -> u64 {
    let Ok(text) = fs::read_to_string(file) else {
        return 0;
    };
    text.lines()
        .filter_map(|line| line.strip_prefix("oom_kill "))
        .find_map(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXED: &str = "\
30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:7 - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
    const PURE: &str = "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_mixed_host_has_controllers_in_v1_and_a_bare_v2() {
        let found = Hierarchies::parse(MIXED);
        assert!(found.has_v1());
        assert_eq!(found.v1.len(), 2);
        assert_eq!(
            found.oom_file("mesh/a").unwrap(),
            Path::new("/sys/fs/cgroup/memory/mesh/a/memory.oom_control")
        );
        assert_eq!(
            found.v2_path("mesh/a").unwrap(),
            Path::new("/sys/fs/cgroup/unified/mesh/a")
        );
        assert!(found.v1_named("cpuacct").is_some());
    }

    #[test]
    fn a_pure_v2_host_has_everything_in_one_place() {
        let found = Hierarchies::parse(PURE);
        assert!(!found.has_v1());
        assert_eq!(
            found.oom_file("mesh/a").unwrap(),
            Path::new("/sys/fs/cgroup/mesh/a/memory.events")
        );
    }
}
