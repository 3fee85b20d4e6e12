//! The directory a layer is unpacked to: every operation names a parent, which is resolved inside
//! the directory, and a last component, which is never followed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    FileStat, Mode, SFlag, fchmod, fstat, fstatat, futimens, makedev, mkdirat, mknodat,
};
use nix::unistd::{linkat, symlinkat};
use pathrs::Root;
use pathrs::flags::OpenFlags;

use super::content::{copy_sparse, set_xattr};
use super::meta::{Meta, time_spec};
use super::too_large;
use crate::error::{ImageError, Result};
use crate::store::remove_tree_at;

/// Mode of a directory that a layer only implies and no layer below has.
const IMPLIED_DIR_MODE: u32 = 0o755;

/// A layer being unpacked.
pub(super) struct Tree {
    path: PathBuf,
    root: Root,
    parents: Vec<Root>,
    /// The directory used last: archives list a directory's files one after the other.
    recent: Option<(PathBuf, OwnedFd)>,
    /// Directory times, set last because making a file in a directory changes them.
    times: Vec<(PathBuf, (i64, i64))>,
    /// Without root, ownership is skipped and overlayfs attributes are the `user.` ones.
    privileged: bool,
}

impl Tree {
    pub(super) fn open(path: &Path, parents: &[PathBuf]) -> Result<Self> {
        let open = |path: &Path| {
            Root::open(path).map_err(|e| ImageError::io("open", path, io::Error::other(e)))
        };
        Ok(Self {
            path: path.to_path_buf(),
            root: open(path)?,
            parents: parents
                .iter()
                .map(|path| open(path))
                .collect::<Result<_>>()?,
            recent: None,
            times: Vec::new(),
            privileged: nix::unistd::geteuid().is_root(),
        })
    }

    /// Applies the metadata of the entry for the layer's own top directory.
    pub(super) fn set_root(&mut self, meta: &Meta) -> Result<()> {
        let dir = self.dir(Path::new(""))?;
        meta.set(&dir, self.privileged)
            .map_err(|e| self.fail("set attributes of", "", e))?;
        self.times.push((PathBuf::new(), meta.mtime));
        Ok(())
    }

    pub(super) fn directory(&mut self, parent: &Path, name: &OsStr, meta: &Meta) -> Result<()> {
        let dir = self.dir(parent)?;
        let path = parent.join(name);
        let before = self.stat(&dir, name)?;
        if !before.as_ref().is_some_and(is_dir) {
            if before.is_some() {
                self.clear(&dir, &path)?;
            }
            mkdirat(&dir, name, Mode::S_IRWXU).map_err(|e| self.fail("create", &path, e))?;
        }
        let made = open_dir(&dir, name).map_err(|e| self.fail("open", &path, e))?;
        meta.set(&made, self.privileged)
            .map_err(|e| self.fail("set attributes of", &path, e))?;
        if before.as_ref().is_some_and(is_whiteout) {
            self.opaque(&made)
                .map_err(|e| self.fail("make opaque", &path, e))?;
        }
        self.times.push((path, meta.mtime));
        Ok(())
    }

    /// Writes a file; returns its size.
    pub(super) fn file(
        &mut self,
        parent: &Path,
        name: &OsStr,
        meta: &Meta,
        content: &mut impl Read,
        budget: u64,
    ) -> Result<u64> {
        let dir = self.dir(parent)?;
        let path = parent.join(name);
        self.replace(&dir, &path)?;
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let fd = openat(&dir, name, flags | OFlag::O_CLOEXEC, mode)
            .map_err(|e| self.fail("create", &path, e))?;
        let mut file = File::from(fd);
        let size = match copy_sparse(content, &mut file, budget) {
            Ok(Some(size)) => size,
            Ok(None) => return Err(too_large()),
            Err(e) => return Err(ImageError::io("write", self.path.join(&path), e)),
        };
        meta.set(&file, self.privileged)
            .map_err(|e| self.fail("set attributes of", &path, e))?;
        let time = time_spec(meta.mtime);
        futimens(&file, &time, &time).map_err(|e| self.fail("set times of", &path, e))?;
        Ok(size)
    }

    pub(super) fn symlink(
        &mut self,
        parent: &Path,
        name: &OsStr,
        meta: &Meta,
        target: &OsStr,
    ) -> Result<()> {
        let dir = self.dir(parent)?;
        let path = parent.join(name);
        self.replace(&dir, &path)?;
        symlinkat(target, &dir, name).map_err(|e| self.fail("create", &path, e))?;
        meta.set_named(&dir, name, false, self.privileged)
            .map_err(|e| self.fail("set attributes of", &path, e))
    }

    /// Makes `name` another name of `target`, which is inside the tree and not followed.
    pub(super) fn hard_link(&mut self, parent: &Path, name: &OsStr, target: &Path) -> Result<()> {
        let missing = || ImageError::UnsafeEntry {
            path: parent.join(name).display().to_string(),
            reason: format!(
                "hard link to \"{}\", which is not a file here",
                target.display()
            ),
        };
        let target_name = target.file_name().ok_or_else(missing)?.to_owned();
        let target_parent = target.parent().unwrap_or(Path::new(""));
        let from = self
            .root
            .resolve(Path::new("/").join(target_parent))
            .and_then(|handle| handle.reopen(OpenFlags::O_DIRECTORY))
            .map_err(|_| missing())?;
        let linked = self.stat(&from, &target_name)?;
        let linked = linked.filter(|stat| !is_dir(stat)).ok_or_else(missing)?;
        let dir = self.dir(parent)?;
        let path = parent.join(name);
        if self
            .stat(&dir, name)?
            .is_some_and(|now| same_file(&now, &linked))
        {
            return Ok(());
        }
        self.replace(&dir, &path)?;
        linkat(&from, target_name.as_os_str(), &dir, name, AtFlags::empty())
            .map_err(|e| self.fail("link", &path, e))
    }

    /// Makes a device (`Some((major, minor))`) or a fifo.
    pub(super) fn node(
        &mut self,
        parent: &Path,
        name: &OsStr,
        meta: &Meta,
        block: bool,
        device: Option<(u32, u32)>,
    ) -> Result<()> {
        let dir = self.dir(parent)?;
        let path = parent.join(name);
        self.replace(&dir, &path)?;
        let (kind, number) = match device {
            None => (SFlag::S_IFIFO, 0),
            Some((major, minor)) if block => (SFlag::S_IFBLK, makedev(major.into(), minor.into())),
            Some((major, minor)) => (SFlag::S_IFCHR, makedev(major.into(), minor.into())),
        };
        mknodat(&dir, name, kind, Mode::S_IRUSR | Mode::S_IWUSR, number)
            .map_err(|e| self.fail("create", &path, e))?;
        meta.set_named(&dir, name, true, self.privileged)
            .map_err(|e| self.fail("set attributes of", &path, e))
    }

    /// Hides `name` of the layers below. What this very layer has by that name stays.
    pub(super) fn whiteout(&mut self, parent: &Path, name: &OsStr) -> Result<()> {
        let dir = self.dir(parent)?;
        let path = parent.join(name);
        match self.stat(&dir, name)? {
            None => mknodat(&dir, name, SFlag::S_IFCHR, Mode::empty(), 0)
                .map_err(|e| self.fail("create whiteout", &path, e)),
            Some(stat) if is_dir(&stat) => open_dir(&dir, name)
                .and_then(|dir| self.opaque(&dir))
                .map_err(|e| self.fail("make opaque", &path, e)),
            Some(_) => Ok(()),
        }
    }

    /// Hides everything the layers below have in `path`.
    pub(super) fn make_opaque(&mut self, path: &Path) -> Result<()> {
        let dir = self.dir(path)?;
        self.opaque(&dir)
            .map_err(|e| self.fail("make opaque", path, e))
    }

    /// Sets directory times; the tree is complete after it.
    pub(super) fn finish(self) -> Result<()> {
        for (path, mtime) in self.times.iter().rev() {
            // A later entry may have replaced the directory.
            let Ok(handle) = self.root.resolve_nofollow(Path::new("/").join(path)) else {
                continue;
            };
            let Ok(dir) = handle.reopen(OpenFlags::O_DIRECTORY | OpenFlags::O_NOFOLLOW) else {
                continue;
            };
            let time = time_spec(*mtime);
            futimens(&dir, &time, &time).map_err(|e| self.fail("set times of", path, e))?;
        }
        Ok(())
    }

    /// The directory `path`, made if it is not there.
    fn dir(&mut self, path: &Path) -> Result<OwnedFd> {
        if let Some((recent, fd)) = &self.recent
            && recent == path
        {
            return fd
                .try_clone()
                .map_err(|e| ImageError::io("open", self.path.join(path), e));
        }
        let fd = self.find_or_make(path)?;
        let copy = fd
            .try_clone()
            .map_err(|e| ImageError::io("open", self.path.join(path), e))?;
        self.recent = Some((path.to_path_buf(), copy));
        Ok(fd)
    }

    fn find_or_make(&self, path: &Path) -> Result<OwnedFd> {
        let mut missing: Vec<OsString> = Vec::new();
        let mut existing = path;
        let mut dir = loop {
            match self.root.resolve(Path::new("/").join(existing)) {
                Ok(handle) => {
                    break handle.reopen(OpenFlags::O_DIRECTORY).map_err(|e| {
                        ImageError::UnsafeEntry {
                            path: path.display().to_string(),
                            reason: format!("a part of its path is not a directory: {e}"),
                        }
                    })?;
                }
                Err(error) => {
                    let (Some(parent), Some(name)) = (existing.parent(), existing.file_name())
                    else {
                        let error = io::Error::other(error);
                        return Err(ImageError::io("open", self.path.join(path), error));
                    };
                    missing.push(name.to_owned());
                    existing = parent;
                }
            }
        };
        let mut so_far = existing.to_path_buf();
        while let Some(name) = missing.pop() {
            so_far.push(&name);
            // EEXIST here is a symbolic link that leads nowhere.
            mkdirat(&dir, name.as_os_str(), Mode::S_IRWXU).map_err(|e| {
                ImageError::UnsafeEntry {
                    path: path.display().to_string(),
                    reason: format!("cannot make the directory \"{}\": {e}", so_far.display()),
                }
            })?;
            let made = open_dir(&dir, &name).map_err(|e| self.fail("open", &so_far, e))?;
            self.inherit(&made, &so_far)
                .map_err(|e| self.fail("set attributes of", &so_far, e))?;
            dir = File::from(made);
        }
        Ok(dir.into())
    }

    /// Gives an implied directory the owner, mode and time it has in the nearest layer below.
    fn inherit(&self, dir: &OwnedFd, path: &Path) -> nix::Result<()> {
        for parent in &self.parents {
            let Ok(handle) = parent.resolve_nofollow(Path::new("/").join(path)) else {
                continue;
            };
            let Ok(below) = handle.reopen(OpenFlags::O_DIRECTORY | OpenFlags::O_NOFOLLOW) else {
                break;
            };
            let stat = fstat(&below)?;
            let meta = Meta {
                mode: stat.st_mode & 0o7777,
                uid: stat.st_uid,
                gid: stat.st_gid,
                ..Meta::default()
            };
            return meta.set(dir, self.privileged);
        }
        fchmod(dir, Mode::from_bits_truncate(IMPLIED_DIR_MODE))
    }

    /// Removes what has this name already, whiteouts included.
    fn replace(&mut self, dir: &OwnedFd, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default();
        if self.stat(dir, name)?.is_none() {
            return Ok(());
        }
        self.clear(dir, path)
    }

    fn clear(&mut self, dir: &OwnedFd, path: &Path) -> Result<()> {
        self.recent = None;
        let name = path.file_name().unwrap_or_default();
        remove_tree_at(dir, name).map_err(|e| ImageError::io("remove", self.path.join(path), e))
    }

    fn stat(&self, dir: &impl AsFd, name: &OsStr) -> Result<Option<FileStat>> {
        match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(self.fail("look at", name, e)),
        }
    }

    fn opaque(&self, dir: &impl AsFd) -> nix::Result<()> {
        let name = if self.privileged {
            c"trusted.overlay.opaque"
        } else {
            c"user.overlay.opaque"
        };
        set_xattr(dir, name, b"y")
    }

    fn fail(&self, action: &'static str, path: impl AsRef<Path>, errno: Errno) -> ImageError {
        ImageError::io(action, self.path.join(path), errno.into())
    }
}

fn open_dir(dir: &impl AsFd, name: &OsStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

fn is_dir(stat: &FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFDIR
}

fn is_whiteout(stat: &FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == 0
}

fn same_file(a: &FileStat, b: &FileStat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}
