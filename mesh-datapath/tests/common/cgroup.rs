//! The cgroup whose sockets the programs see.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A cgroup2 directory that this process is in, until dropped.
pub(crate) struct Cgroup {
    /// Its path.
    pub(crate) directory: PathBuf,
    before: PathBuf,
}

impl Cgroup {
    pub(crate) fn enter() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("the mount table");
        let root = mounts
            .lines()
            .filter(|line| line.split(' ').nth(2) == Some("cgroup2"))
            .find_map(|line| line.split(' ').nth(1))
            .expect("cgroup2 is mounted");
        let own = fs::read_to_string("/proc/self/cgroup").expect("the own cgroup");
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .expect("the own cgroup2");
        let before = Path::new(root).join(own);
        let directory = Path::new(root).join(format!("mesh-test-{}", std::process::id()));
        fs::create_dir(&directory).expect("a cgroup");
        join(&directory);
        Self { directory, before }
    }
}

fn join(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), "0").expect("enter the cgroup");
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        join(&self.before);
        let _ = fs::remove_dir(&self.directory);
    }
}
