//! Root file systems of containers: an overlayfs mount over an image's layers.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::files::{self, Files, layer_key};
use super::scratch::Scratch;
use super::state::Container;
use crate::error::{ImageError, Result};

/// Longest container id; ids are directory names.
const MAX_ID: usize = 128;
/// Bytes of mount options: one page, less the final NUL and some room.
const MAX_OPTIONS: usize = 4000;

/// Refuses ids that are not plain directory names.
pub(super) fn check_id(id: &str) -> Result<()> {
    let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if (1..=MAX_ID).contains(&id.len()) && !id.starts_with('.') && id.bytes().all(valid) {
        return Ok(());
    }
    Err(ImageError::InvalidContainerId {
        id: id.chars().take(200).collect(),
    })
}

impl Files {
    /// Containers that have a directory here. Directories without a readable `container.json`
    /// were never finished and are removed.
    pub(super) fn find_containers(&self) -> Result<Vec<(String, Container)>> {
        let mut found = Vec::new();
        for name in files::list(&self.containers())? {
            let Ok(id) = name.into_string() else { continue };
            let path = self.container(&id).join("container.json");
            let container =
                files::read(&path).and_then(|bytes| crate::spec::parse("container", &bytes));
            match container {
                Ok(container) => found.push((id, container)),
                Err(error) => {
                    tracing::warn!(container = id, %error, "unfinished root file system removed");
                    drop(self.remove_container(&id)?);
                }
            }
        }
        Ok(found)
    }

    /// Writes down what the container is made of. Before the mount, so that nothing it needs is
    /// collected.
    pub(super) fn create_container(&self, id: &str, container: &Container) -> Result<()> {
        let dir = self.container(id);
        files::make_dir(&dir)?;
        self.write_json(&dir.join("container.json"), container)
    }

    /// Mounts the container's root file system, unless it is mounted; returns where.
    pub(super) fn mount_container(&self, id: &str, container: &Container) -> Result<PathBuf> {
        let dir = self.container(id);
        let target = dir.join("rootfs");
        for name in ["upper", "work", "rootfs"] {
            files::make_dir(&dir.join(name))?;
        }
        if is_mount(&target).map_err(|e| ImageError::io("look at", &target, e))? {
            return Ok(target);
        }
        let top = container
            .chain
            .last()
            .map(|top| self.layer(top).join("diff"));
        copy_top(top.as_deref(), &dir.join("upper"))?;
        let mut lower: Vec<String> = container
            .chain
            .iter()
            .rev()
            .map(|c| format!("{}/diff", layer_key(c)))
            .collect();
        if lower.is_empty() {
            // An image without layers: overlayfs wants at least one directory below.
            let empty = dir.join("empty");
            files::make_dir(&empty)?;
            lower.push(format!("../containers/{id}/empty"));
        }
        let options = format!(
            "lowerdir={},upperdir=../containers/{id}/upper,workdir=../containers/{id}/work",
            lower.join(":")
        );
        if options.len() > MAX_OPTIONS {
            return Err(ImageError::TooLarge {
                what: format!("the overlay of {} layers", lower.len()),
                limit: format!("{MAX_OPTIONS} bytes of mount options"),
            });
        }
        mount_overlay(&self.layers(), &target, &options).map_err(|cause| ImageError::Mount {
            container: id.to_owned(),
            cause,
        })?;
        Ok(target)
    }

    /// Unmounts a container's directory and takes it out of the store; dropping the result deletes
    /// it. Missing is fine.
    pub(super) fn remove_container(&self, id: &str) -> Result<Option<Scratch>> {
        let dir = self.container(id);
        let target = dir.join("rootfs");
        loop {
            match umount2(&target, MntFlags::MNT_DETACH) {
                Ok(()) => {}
                // Not a mount (any more), or never made.
                Err(Errno::EINVAL | Errno::ENOENT) => break,
                Err(Errno::EPERM) if !nix::unistd::geteuid().is_root() => break,
                Err(e) => return Err(ImageError::io("unmount", target, e.into())),
            }
        }
        // Renamed away first: a half-deleted directory must never look like a container.
        self.discard(&dir)
    }
}

/// The mount's top directory shows the upper directory's owner and mode: those of the image.
fn copy_top(from: Option<&Path>, upper: &Path) -> Result<()> {
    let (mode, uid, gid) = match from {
        Some(from) => {
            let meta = fs::metadata(from).map_err(|e| ImageError::io("look at", from, e))?;
            (meta.mode() & 0o7777, meta.uid(), meta.gid())
        }
        None => (0o755, 0, 0),
    };
    std::os::unix::fs::chown(upper, Some(uid), Some(gid))
        .and_then(|()| {
            fs::set_permissions(upper, std::os::unix::fs::PermissionsExt::from_mode(mode))
        })
        .map_err(|e| ImageError::io("change", upper, e))
}

/// Mounts with paths relative to `base`, which keeps the options short however deep the store
/// lies. The working directory belongs to the process, so a thread with its own one does it.
fn mount_overlay(base: &Path, target: &Path, options: &str) -> io::Result<()> {
    let work = || -> io::Result<()> {
        unshare(CloneFlags::CLONE_FS)?;
        std::env::set_current_dir(base)?;
        mount(
            Some("overlay"),
            target,
            Some("overlay"),
            MsFlags::empty(),
            Some(options),
        )?;
        Ok(())
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("mount".into())
            .spawn_scoped(scope, work)?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the mounting thread panicked")))
    })
}

/// Whether something is mounted on this directory.
fn is_mount(path: &Path) -> io::Result<bool> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    Ok(fs::symlink_metadata(path)?.dev() != fs::symlink_metadata(parent)?.dev())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_ids_are_plain_names() {
        for good in ["a", "web.1.x2k", &"a".repeat(128)] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            ".x",
            "a/b",
            "a,b",
            "a:b",
            "é",
            &"a".repeat(129),
        ] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }
}
