//! Making a container: its directories, its OCI configuration, its shim.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use nix::sys::resource::{Resource, getrlimit};
use tokio::io::AsyncReadExt;

use super::container::Record;
use super::exe::ShimExe;
use crate::cgroup::Hierarchies;
use crate::error::{Result, RuntimeError};
use crate::oci;
use crate::spec::ContainerSpec;
use crate::wire::{self, Ready, ShimConfig};

/// Longest report of a shim that is read.
const MAX_REPORT: u64 = 64 << 10;

/// Writes what the shim reads into `state`.
///
/// # Errors
/// An invalid specification, or a file that cannot be written.
pub(super) fn prepare(
    record: &Record,
    hierarchies: &Hierarchies,
    state: &Path,
    run: &Path,
) -> Result<()> {
    let spec = &record.spec;
    let user = oci::user::resolve(&spec.rootfs, &spec.user, &spec.groups)?;
    let configuration = oci::configuration(spec, &user, &record.cgroup, &host(hierarchies))?;
    make_working_directory(spec)?;
    let oci_state = run.join(wire::OCI_STATE_DIR);
    fs::create_dir_all(&oci_state).map_err(RuntimeError::io("create", oci_state))?;
    let shim = ShimConfig {
        id: spec.id.clone(),
        tty: spec.tty,
        init: spec.init,
        log: spec.log.clone(),
        cgroup_v2: hierarchies.v2_path(&record.cgroup),
        join_cgroup_v2: hierarchies.has_v1(),
        oom_file: hierarchies.oom_file(&record.cgroup),
    };
    write(state, wire::OCI_CONFIG, &configuration)?;
    write(state, wire::SHIM_CONFIG, &shim)?;
    write(state, wire::RECORD, record)
}

/// What the OCI configuration depends on besides the specification.
pub(super) fn host(hierarchies: &Hierarchies) -> oci::Host {
    oci::Host {
        cgroup_v1_mounts: hierarchies.v1_mounts(),
        capabilities: oci::capabilities::bounding_set(),
        open_files: getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard),
    }
}

fn write<T: serde::Serialize>(state: &Path, name: &str, value: &T) -> Result<()> {
    let path = state.join(name);
    let bytes = serde_json::to_vec(value).map_err(|error| RuntimeError::InvalidSpec {
        reason: format!("cannot be written as JSON: {error}"),
    })?;
    fs::write(&path, bytes).map_err(RuntimeError::io("write", path))
}

/// As Docker does, a working directory that the image lacks is made.
fn make_working_directory(spec: &ContainerSpec) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if spec.cwd.is_empty() || spec.cwd == "/" {
        return Ok(());
    }
    let covered = |target: &Path| Path::new(&spec.cwd).starts_with(target);
    let mounted = spec.mounts.iter().any(|mount| match mount {
        crate::spec::Mount::Bind(bind) => covered(&bind.target),
        crate::spec::Mount::Tmpfs(tmpfs) => covered(&tmpfs.target),
    });
    if mounted {
        return Ok(());
    }
    let made = pathrs::Root::open(&spec.rootfs)
        .and_then(|root| root.mkdir_all(&spec.cwd, &fs::Permissions::from_mode(0o755)));
    match made {
        Ok(_) => Ok(()),
        Err(error) => Err(RuntimeError::InvalidSpec {
            reason: format!(
                "cannot make the working directory \"{}\": {error}",
                spec.cwd
            ),
        }),
    }
}

/// Starts the shim and waits until the container waits; the process ids of command and shim.
///
/// # Errors
/// What the shim reports.
pub(super) async fn shim(exe: &ShimExe, id: &str, state: &Path, run: &Path) -> Result<(i32, i32)> {
    let path = state.join(wire::SHIM_LOG);
    let complaints = fs::File::create(&path).map_err(RuntimeError::io("create", &path))?;
    let create_error = |reason: String| RuntimeError::Create {
        id: id.to_owned(),
        reason,
    };
    let mut child = exe
        .command()
        .args([state, run])
        .stdout(Stdio::piped())
        .stderr(complaints)
        .spawn()
        .map_err(|error| create_error(format!("cannot start the shim: {error}")))?;
    let mut report = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(MAX_REPORT)
            .read_to_end(&mut report)
            .await
            .map_err(|error| create_error(format!("cannot read the shim's report: {error}")))?;
    }
    // The process we started has forked the shim and ended.
    let _ = child.wait().await;
    match serde_json::from_slice(&report) {
        Ok(Ready::Created { pid, shim_pid }) => Ok((pid, shim_pid)),
        Ok(Ready::Failed(failure)) => Err(failure.into_error(create_error)),
        Err(_) => {
            let words = fs::read_to_string(&path).unwrap_or_default();
            let words = words.trim();
            Err(create_error(if words.is_empty() {
                "the shim ended without a word".to_owned()
            } else {
                format!("the shim ended: {words}")
            }))
        }
    }
}
