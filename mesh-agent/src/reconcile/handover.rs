//! What a task is handed, for as long as its container is being made: files in a file system in memory. The container's
//! own mounts keep each file once it is there, for as long as the task's processes live; nothing of it stays here.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use mesh_api::Sensitive;
use mesh_runtime::{BindMount, Mount};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::container::Handed;

/// The files of one task; dropping it takes them away from here.
#[derive(Debug)]
pub(super) struct Handover {
    at: PathBuf,
    mounts: Vec<Mount>,
}

impl Handover {
    /// Makes the files in a file system of their own at `at`.
    ///
    /// # Errors
    /// When it cannot be mounted or written; nothing is left then.
    pub(super) fn make<'a>(
        at: &Path,
        files: impl IntoIterator<Item = (&'a Handed, &'a Sensitive)>,
    ) -> io::Result<Self> {
        // What an agent that was killed left.
        remove(at)?;
        fs::create_dir_all(at)?;
        let mut made = Self {
            at: at.to_owned(),
            mounts: Vec::new(),
        };
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some("mode=0700"))?;
        for (number, (file, data)) in files.into_iter().enumerate() {
            let source = at.join(number.to_string());
            let mut out = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&source)?;
            out.write_all(data.reveal())?;
            // The owner first: a change of it takes bits away.
            fchown(&out, Some(file.uid), Some(file.gid))?;
            out.set_permissions(Permissions::from_mode(file.mode))?;
            made.mounts.push(Mount::Bind(BindMount {
                source,
                target: file.target.clone(),
                read_only: true,
                ..BindMount::default()
            }));
        }
        Ok(made)
    }

    /// What shows the files in the task.
    pub(super) fn mounts(&self) -> impl Iterator<Item = Mount> + '_ {
        self.mounts.iter().cloned()
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.at) {
            tracing::warn!(at = %self.at.display(), %error, "files for a task are left");
        }
    }
}

/// Takes away what agents that were killed have left in `dir`.
///
/// # Errors
/// When something cannot be removed.
pub(super) fn sweep(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        remove(&entry?.path())?;
    }
    Ok(())
}

fn remove(at: &Path) -> io::Result<()> {
    use nix::errno::Errno;
    // Detached: a container that is being made may still look.
    match umount2(at, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_dir(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
