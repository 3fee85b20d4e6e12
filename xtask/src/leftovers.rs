//! Whether tests cleared up after themselves: what is on the machine before a run and after it.
//!
//! What was there before is nobody's fault. What came meanwhile may be another run's: a process is told apart by a
//! variable that only this run's processes inherit, a container or a thing without processes by its name, which holds
//! the number of the test program that made it. This run's programs have all ended when the second look is taken. A demo
//! or bench that somebody starts meanwhile has no such number, nor have new tasks of a mesh that was there before: they are
//! named as if they were left behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Marks the processes of a run: set to the number of the xtask that began it.
const MARK: &str = "MESH_TEST_RUN";

/// How long what is on its way out may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything that a test could have left, as it was before the run.
pub(crate) struct Leftovers {
    before: BTreeSet<String>,
}

impl Leftovers {
    /// The look before the run.
    pub(crate) fn look() -> Self {
        Self {
            before: things().into_keys().collect(),
        }
    }

    /// Has everything that this command starts known as this run's.
    pub(crate) fn mark(command: &mut Command) {
        command.env(MARK, std::process::id().to_string());
    }

    /// The look after the run.
    ///
    /// # Errors
    /// When something came that stays; it is named.
    pub(crate) fn check(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.left();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("tests left behind:\n  {}", left.join("\n  "));
            }
            thread::sleep(Duration::from_millis(250));
        }
    }

    fn left(&self) -> Vec<String> {
        things()
            .into_iter()
            .filter(|(thing, _)| !self.before.contains(thing))
            .filter(|(_, maker)| !maker.as_deref().is_some_and(is_of_another_run))
            .map(|(thing, _)| thing)
            .collect()
    }
}

/// What could be a test's, in words, and what tells who made it; nothing where it is surely this run's.
fn things() -> BTreeMap<String, Option<String>> {
    let mut found = BTreeMap::new();
    let mut add = |kind: &str, path: &Path| {
        let path = path.display().to_string();
        found.insert(format!("{kind} {path}"), Some(path));
    };
    for path in entries(Path::new("/run/netns")) {
        add("namespace", &path);
    }
    for pins in ours(Path::new("/sys/fs/bpf")) {
        for path in within(pins) {
            add("pins", &path);
        }
    }
    for mount in mounts() {
        if mount.kind.starts_with("cgroup") {
            for parent in ours(&mount.at) {
                for path in within(parent) {
                    add("cgroup", &path);
                }
            }
        } else if bases().iter().any(|base| mount.at.starts_with(base)) {
            add("mount", &mount.at);
        }
    }
    for base in bases() {
        for path in ours(&base).into_iter().filter(|path| path.is_dir()) {
            add("folder", &path);
        }
    }
    found.extend(processes());
    found
}

/// Where tests keep their folders.
fn bases() -> [PathBuf; 2] {
    [std::env::temp_dir(), "/var/tmp".into()]
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// What is called as tests and agents call their things.
fn ours(dir: &Path) -> Vec<PathBuf> {
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let starts = ["mesh-", "rt-", "mdp-"];
        name == "mesh" || starts.iter().any(|start| name.starts_with(start))
    };
    entries(dir).into_iter().filter(is_ours).collect()
}

/// The folders in one that agents or tests share; else the folder itself.
fn within(path: PathBuf) -> Vec<PathBuf> {
    if path.ends_with("mesh") || path.ends_with("mesh-test") {
        entries(&path)
            .into_iter()
            .filter(|path| path.is_dir())
            .collect()
    } else {
        vec![path]
    }
}

struct Mount {
    at: PathBuf,
    kind: String,
}

fn mounts() -> Vec<Mount> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mount = |line: &str| {
        let mut words = line.split(' ').skip(1);
        Some(Mount {
            at: words.next()?.into(),
            kind: words.next()?.to_owned(),
        })
    };
    text.lines().filter_map(mount).collect()
}

/// Processes with the mark, shims and containers (whose environment is not inherited).
fn processes() -> BTreeMap<String, Option<String>> {
    let mark = format!("{MARK}={}", std::process::id());
    let mut found = BTreeMap::new();
    for dir in entries(Path::new("/proc")) {
        let read = |name: &str| {
            let bytes = fs::read(dir.join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let Some(pid) = number(&dir) else { continue };
        // One that has ended and that nobody has waited for is whoever's should have.
        let stat = read("stat");
        if stat
            .rsplit_once(')')
            .is_some_and(|(_, rest)| rest.starts_with(" Z"))
        {
            continue;
        }
        let line = read("cmdline").replace('\0', " ");
        let is_marked = read("environ").split('\0').any(|variable| variable == mark);
        let groups = read("cgroup");
        let is_inside = ["/mesh/", "/mesh-test/"]
            .iter()
            .any(|part| groups.contains(part));
        let is_shim = ["mesh-shim shim ", "mesh-agent shim "]
            .iter()
            .any(|start| line.starts_with(start));
        if is_marked || is_inside || is_shim {
            let maker = (!is_marked).then(|| format!("{line} {groups}"));
            found.insert(format!("process {pid}: {}", line.trim()), maker);
        }
    }
    found
}

fn number(proc: &Path) -> Option<u32> {
    proc.file_name()?.to_str()?.parse().ok()
}

/// Whether a name holds the number of a test program that runs now.
fn is_of_another_run(name: &str) -> bool {
    name.split(|c: char| !c.is_ascii_digit())
        .filter(|digits| !digits.is_empty())
        .any(|digits| {
            let exe = fs::read_link(format!("/proc/{digits}/exe")).unwrap_or_default();
            exe.parent().is_some_and(|dir| dir.ends_with("deps"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_and_what_others_make_is_not_left_behind() {
        let new = format!("mesh-t{}x", u32::MAX);
        // This test program runs, as another run's would.
        let others = format!("mesh-t{}x", std::process::id());
        let is_left =
            |look: &Leftovers, name: &str| look.left().iter().any(|line| line.contains(name));
        let dirs = [&new, &others].map(|name| std::env::temp_dir().join(name));
        let before = Leftovers::look();
        for dir in &dirs {
            fs::create_dir_all(dir).unwrap();
        }
        let left = [&new, &others].map(|name| is_left(&before, name));
        let tolerated = !is_left(&Leftovers::look(), &new);
        for dir in &dirs {
            fs::remove_dir(dir).unwrap();
        }
        assert_eq!(left, [true, false]);
        assert!(tolerated);
    }

    #[test]
    fn a_marked_process_is_this_runs() {
        let mut command = Command::new("sleep");
        command.arg("1000");
        Leftovers::mark(&mut command);
        let mut child = command.spawn().unwrap();
        let name = format!("process {}: sleep 1000", child.id());
        let seen = Instant::now() + PATIENCE;
        while !processes().contains_key(&name) {
            assert!(Instant::now() < seen, "{:?}", processes());
        }
        assert_eq!(processes().get(&name), Some(&None));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!processes().contains_key(&name));
    }
}
