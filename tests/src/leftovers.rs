//! Finding, and by force removing, what a rig left behind: processes, mounts, pins, cgroups, namespaces.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    netns::run,
    node::{pids, text},
    wait::eventually,
};

/// What tells a rig's things from anybody else's.
#[derive(Debug, Clone)]
pub struct Traces {
    /// Everything of the rig on disk is below it.
    pub dir: PathBuf,
    /// Instance names of the agents: parts of pin paths and cgroup names.
    pub instances: Vec<String>,
    /// Names of the network namespaces.
    pub namespaces: Vec<String>,
}

/// Where agents pin programs and maps.
const PINS: &str = "/sys/fs/bpf/mesh";

/// How long processes that were killed may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(30);

impl Traces {
    /// Everything that is there, one line each, in words.
    pub fn find(&self) -> Vec<String> {
        let mut found = Vec::new();
        for pid in self.processes() {
            let line = text(&PathBuf::from(format!("/proc/{pid}/cmdline"))).replace('\0', " ");
            found.push(format!("process {pid}: {}", line.trim()));
        }
        found.extend(
            self.mounts()
                .iter()
                .map(|at| format!("mount {}", at.display())),
        );
        found.extend(self.pins().iter().map(|at| format!("pin {}", at.display())));
        found.extend(
            self.cgroups()
                .iter()
                .map(|at| format!("cgroup {}", at.display())),
        );
        for name in &self.namespaces {
            if Path::new("/run/netns").join(name).exists() {
                found.push(format!("namespace {name}"));
            }
        }
        if self.dir.exists() {
            found.push(format!("folder {}", self.dir.display()));
        }
        found
    }

    /// As [`find`](Self::find) without the namespaces, what lives only inside them, and the folder: what an agent that left
    /// its cluster and stopped must have cleared up itself.
    pub fn find_of_agents(&self) -> Vec<String> {
        self.find()
            .into_iter()
            .filter(|line| !line.starts_with("namespace ") && !line.starts_with("folder "))
            .collect()
    }

    /// Processes started for the rig: those in its namespaces or cgroups, or with its folder on their command line.
    pub fn processes(&self) -> Vec<u32> {
        let contained: BTreeSet<u32> = self
            .cgroups()
            .iter()
            .flat_map(|at| cgroup_members(at))
            .collect();
        let spaces: BTreeSet<u64> = self
            .namespaces
            .iter()
            .filter_map(|name| fs::metadata(Path::new("/run/netns").join(name)).ok())
            .map(|meta| meta.ino())
            .chain(self.task_namespaces())
            .collect();
        // With the slash: one name may be the start of another.
        let dir = format!("{}/", self.dir.display());
        let own = std::process::id();
        pids()
            .filter(|&pid| pid != own)
            .filter(|pid| {
                let proc = PathBuf::from(format!("/proc/{pid}"));
                let inside = fs::metadata(proc.join("ns/net"))
                    .is_ok_and(|meta| spaces.contains(&meta.ino()));
                inside || contained.contains(pid) || text(&proc.join("cmdline")).contains(&dir)
            })
            .collect()
    }

    /// Inodes of the namespaces that agents made for tasks: files under `<dir>/<node>/run/netns`.
    fn task_namespaces(&self) -> Vec<u64> {
        let nodes = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        nodes
            .filter_map(|node| fs::read_dir(node.path().join("run/netns")).ok())
            .flat_map(|files| files.flatten())
            .filter_map(|file| file.metadata().ok())
            .map(|meta| meta.ino())
            .collect()
    }

    fn mounts(&self) -> Vec<PathBuf> {
        let text = text(Path::new("/proc/self/mounts"));
        text.lines()
            .filter_map(|line| line.split(' ').nth(1))
            .map(PathBuf::from)
            .filter(|at| at.starts_with(&self.dir))
            .collect()
    }

    fn pins(&self) -> Vec<PathBuf> {
        self.instances
            .iter()
            .map(|name| Path::new(PINS).join(name))
            .filter(|at| at.exists())
            .collect()
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        self.walk_cgroups(Path::new("/sys/fs/cgroup"), &mut found);
        found
    }

    /// Agents keep theirs below `mesh`, by their instance's name.
    fn walk_cgroups(&self, dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let is_ours = dir.ends_with("mesh")
                && self
                    .instances
                    .iter()
                    .any(|instance| entry.file_name() == instance.as_str());
            if is_ours {
                found.push(entry.path());
            } else {
                self.walk_cgroups(&entry.path(), found);
            }
        }
    }

    /// Removes everything by force, goes on past errors.
    pub fn remove(&self) {
        let _ = eventually("processes to end", KILL_LIMIT, || {
            let left = self.processes();
            for pid in &left {
                let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            }
            anyhow::ensure!(left.is_empty(), "processes {left:?} are still there");
            Ok(())
        })
        .inspect_err(|error| eprintln!("rig: {error:#}"));
        // Inner mounts come later in the list: undo them first.
        for at in self.mounts().iter().rev() {
            let _ = umount2(at, MntFlags::MNT_DETACH);
        }
        for at in self.pins() {
            let _ = fs::remove_dir_all(at);
        }
        let _ = fs::remove_dir(PINS);
        for at in self.cgroups() {
            remove_cgroup(&at);
        }
        for name in &self.namespaces {
            if Path::new("/run/netns").join(name).exists() {
                let _ = run("ip", &["netns", "del", name]);
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Processes of a cgroup and of all below it.
fn cgroup_members(dir: &Path) -> Vec<u32> {
    let members = text(&dir.join("cgroup.procs"));
    let below = fs::read_dir(dir).into_iter().flatten().flatten();
    members
        .lines()
        .filter_map(|pid| pid.parse().ok())
        .chain(
            below
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .flat_map(|entry| cgroup_members(&entry.path())),
        )
        .collect()
}

fn remove_cgroup(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}
