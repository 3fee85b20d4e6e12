//! The mounts of a container: what every container has, and what its specification asks for.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Host, invalid};
use crate::error::Result;
use crate::spec::{ContainerSpec, Mount};

/// Paths of /proc and /sys that say or do too much; hidden.
pub(super) const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths of /proc that may be read but not written.
const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What is mounted read-only after everything else. libcontainer mounts cgroup v1 hierarchies
/// writable, which would let a container lift its own limits.
pub(super) fn read_only(host: &Host) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = READ_ONLY.iter().map(PathBuf::from).collect();
    if !host.cgroup_v1_mounts.is_empty() {
        paths.push("/sys/fs/cgroup".into());
        paths.extend(host.cgroup_v1_mounts.iter().cloned());
    }
    paths
}

const PROPAGATIONS: &[&str] = &[
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
];

/// All mounts, in the order they are made.
///
/// # Errors
/// A target that is not absolute, a bind source that is not there, an unknown propagation.
pub(super) fn build(spec: &ContainerSpec) -> Result<Vec<Value>> {
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", "ro"],
        ),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ),
        mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &[
                "nosuid",
                "noexec",
                "nodev",
                "mode=1777",
                // As Docker has it.
                "size=65536k",
            ],
        ),
    ];
    let mut wanted = Vec::new();
    for file in &spec.extra_files {
        absolute(&file.target)?;
        present(&file.source)?;
        let access = if file.read_only { "ro" } else { "rw" };
        let bind = json!({
            "destination": file.target, "type": "bind", "source": file.source,
            "options": ["rbind", "rprivate", access],
        });
        wanted.push((file.target.as_path(), bind));
    }
    for entry in &spec.mounts {
        let target = match entry {
            Mount::Bind(bind) => &bind.target,
            Mount::Tmpfs(tmpfs) => &tmpfs.target,
        };
        wanted.push((target, requested(entry)?));
    }
    // What is mounted at a path would hide what is mounted below it already.
    wanted.sort_by_key(|(target, _)| target.components().count());
    mounts.extend(wanted.into_iter().map(|(_, mount)| mount));
    Ok(mounts)
}

fn requested(entry: &Mount) -> Result<Value> {
    match entry {
        Mount::Bind(bind) => {
            absolute(&bind.target)?;
            present(&bind.source)?;
            let propagation = match bind.propagation.as_str() {
                "" => "rprivate",
                known if PROPAGATIONS.contains(&known) => known,
                other => return Err(invalid(format!("unknown mount propagation \"{other}\""))),
            };
            let kind = if bind.non_recursive { "bind" } else { "rbind" };
            let access = if bind.read_only { "ro" } else { "rw" };
            Ok(json!({
                "destination": bind.target, "type": "bind", "source": bind.source,
                "options": [kind, propagation, access],
            }))
        }
        Mount::Tmpfs(tmpfs) => {
            absolute(&tmpfs.target)?;
            let mode = if tmpfs.mode == 0 { 0o1777 } else { tmpfs.mode };
            let mut options = vec![
                "nosuid".to_owned(),
                "nodev".to_owned(),
                "noexec".to_owned(),
                format!("mode={mode:o}"),
            ];
            if tmpfs.size > 0 {
                options.push(format!("size={}", tmpfs.size));
            }
            if tmpfs.read_only {
                options.push("ro".to_owned());
            }
            Ok(json!({
                "destination": tmpfs.target, "type": "tmpfs", "source": "tmpfs",
                "options": options,
            }))
        }
    }
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": source, "options": options})
}

fn absolute(target: &Path) -> Result<()> {
    if target.is_absolute() && target != Path::new("/") {
        return Ok(());
    }
    Err(invalid(format!(
        "invalid mount target \"{}\": must be an absolute path below /",
        target.display()
    )))
}

fn present(source: &Path) -> Result<()> {
    if source.is_absolute() && source.exists() {
        return Ok(());
    }
    Err(invalid(format!(
        "invalid mount config for type \"bind\": bind source path does not exist: {}",
        source.display()
    )))
}
