//! The control groups that this agent's containers were put under, removed once they are empty.

use std::path::{Path, PathBuf};

/// Mount points of all cgroup hierarchies, of either version, in a mount table.
fn hierarchies(mounts: &str) -> Vec<PathBuf> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let point = fields.nth(1)?;
            matches!(fields.next()?, "cgroup" | "cgroup2").then(|| point.into())
        })
        .collect()
}

/// Removes the empty groups below and including `parent` (as `mesh/<instance>`), and what is above
/// it while nobody else uses it.
pub(super) fn remove(parent: &str) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for hierarchy in hierarchies(&mounts) {
        remove_tree(&hierarchy.join(parent));
        for above in Path::new(parent)
            .ancestors()
            .skip(1)
            .filter(|p| !p.as_os_str().is_empty())
        {
            // Fails while other agents have groups in it, which is what is wanted.
            let _ = std::fs::remove_dir(hierarchy.join(above));
        }
    }
}

fn remove_tree(group: &Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    if let Err(error) = std::fs::remove_dir(group)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(group = %group.display(), %error, "control group not removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_found() {
        let mounts = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\ncgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\ntmpfs /sys/fs/cgroup tmpfs rw 0 0\n";
        let found = hierarchies(mounts);
        assert_eq!(
            found,
            [
                PathBuf::from("/sys/fs/cgroup/unified"),
                PathBuf::from("/sys/fs/cgroup/pids")
            ]
        );
    }
}
