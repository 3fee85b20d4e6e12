//! What an image has at a path, copied into a directory: the first content of a volume.
//!
//! It is copied to a draft beside its place, and moved there once all of it is copied: what is broken off, or done by two at
//! once, leaves no file cut short. The source is a root file system that nobody runs in yet. The copy may be a volume that a
//! running container writes to: nothing is followed there, and every operation names an open directory and one name in it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, open, openat, readlinkat, renameat, renameat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, futimens, mkdirat, mknodat};
use nix::unistd::{linkat, symlinkat};
use pathrs::Root;
use pathrs::error::ErrorKind;
use pathrs::flags::OpenFlags;
use xattr::FileExt;

use crate::error::{ImageError, Result};
use crate::store::remove_tree_at;
use crate::unpack::{Meta, copy_sparse, time_spec};

/// Deepest directory that is copied, below the first one; each level holds two open files.
const MAX_DEPTH: usize = 256;

const DIRECTORY: OFlag = OFlag::O_DIRECTORY
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// A directory of an image, as a container sees it.
#[derive(Debug)]
pub struct Content {
    source: OwnedFd,
    /// Where the container sees it.
    target: PathBuf,
}

impl Content {
    /// The directory that a container with this root file system sees at `target`, if there is one.
    ///
    /// # Errors
    /// When `target` is there and no directory, or cannot be read.
    pub fn find(rootfs: &Path, target: &Path) -> Result<Option<Self>> {
        let root = Root::open(rootfs).map_err(|e| failed("open", rootfs, io::Error::other(e)))?;
        let found = match root.resolve(Path::new("/").join(target)) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::OsError(Some(libc::ENOENT)) => {
                return Ok(None);
            }
            Err(error) => return Err(failed("open", target, io::Error::other(error))),
        };
        let target = target.to_path_buf();
        match found.reopen(OpenFlags::O_DIRECTORY) {
            Ok(source) => Ok(Some(Self {
                source: source.into(),
                target,
            })),
            Err(error) if error.kind() == ErrorKind::OsError(Some(libc::ENOTDIR)) => {
                Err(ImageError::NotADirectory { path: target })
            }
            Err(error) => Err(failed("open", target, io::Error::other(error))),
        }
    }

    /// Copies it to `draft`, a new directory in `into`: what is in it, and its owner, mode, times and extended attributes.
    /// [`publish`] puts it into its place.
    ///
    /// # Errors
    /// When something cannot be read or written; what is copied by then is left.
    pub fn copy(self, into: &Path, draft: &str) -> Result<()> {
        let root = Root::open(into).map_err(|e| failed("open", into, io::Error::other(e)))?;
        let make = || {
            let top = directory(&root, Path::new("/"))?;
            mkdirat(&top, draft, Mode::S_IRWXU)?;
            Ok(openat(&top, draft, DIRECTORY, Mode::empty())?)
        };
        let copy = make().map_err(|e| failed("make a directory in", into, e))?;
        Copy {
            root,
            draft: draft.into(),
            links: HashMap::new(),
        }
        .all(self.source, copy, &self.target)
    }
}

/// Moves what is in `draft`, a directory in `into` that [`Content::copy`] has made, to `into`, which gets its owner, mode,
/// times and extended attributes. What has one of the names already stays as it is. Then there is no draft any more; this may
/// be done again after it was broken off.
///
/// # Errors
/// When something cannot be moved.
pub fn publish(into: &Path, draft: &str) -> Result<()> {
    let move_all = || {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let top = open(into, flags, Mode::empty())?;
        let from = match openat(&top, draft, DIRECTORY, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(()),
            from => File::from(from?),
        };
        let meta = directory_meta(&from)?;
        let from = from.into();
        for name in names(&from)? {
            move_new(&from, &top, &name)?;
        }
        meta.set(&top, true)?;
        remove_tree_at(&top, OsStr::new(draft))?;
        let time = time_spec(meta.mtime);
        Ok(futimens(&top, &time, &time)?)
    };
    move_all().map_err(|error| failed("move the copy to", into, error))
}

/// Moves a name to another directory, unless that has it.
fn move_new(from: &OwnedFd, to: &OwnedFd, name: &OsStr) -> nix::Result<()> {
    match renameat2(from, name, to, name, RenameFlags::RENAME_NOREPLACE) {
        Err(Errno::EEXIST) => Ok(()),
        // Network file systems know no such rename.
        Err(Errno::EINVAL | Errno::ENOSYS) => {
            match fstatat(to, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) => renameat(from, name, to, name),
                found => found.map(drop),
            }
        }
        moved => moved,
    }
}

struct Copy {
    /// What the draft is in.
    root: Root,
    draft: PathBuf,
    /// Where the first name of a file with several is, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

/// A directory whose content is being copied.
struct Level {
    source: OwnedFd,
    copy: OwnedFd,
    /// Below the first directory.
    path: PathBuf,
    left: std::vec::IntoIter<OsString>,
}

impl Level {
    fn new(source: OwnedFd, copy: OwnedFd, path: PathBuf) -> io::Result<Self> {
        let left = names(&source)?.into_iter();
        Ok(Self {
            source,
            copy,
            path,
            left,
        })
    }
}

impl Copy {
    fn all(mut self, source: OwnedFd, copy: OwnedFd, shown: &Path) -> Result<()> {
        let fail = |path: &Path| {
            let path = shown.join(path);
            move |cause: io::Error| failed("copy", path, cause)
        };
        let first = Level::new(source, copy, PathBuf::new()).map_err(fail(Path::new("")))?;
        let mut levels = vec![first];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.left.next() else {
                finish(level).map_err(fail(&level.path))?;
                levels.pop();
                continue;
            };
            let path = level.path.join(&name);
            if let Some(next) = self.one(level, &name, &path).map_err(fail(&path))? {
                levels.push(next);
            }
            if levels.len() > MAX_DEPTH {
                return Err(ImageError::TooLarge {
                    what: format!("the depth of {}", shown.display()),
                    limit: format!("{MAX_DEPTH} directories"),
                });
            }
        }
        Ok(())
    }

    /// Copies what has this name; a directory is made, and is the next level.
    fn one(&mut self, level: &Level, name: &OsStr, path: &Path) -> io::Result<Option<Level>> {
        let stat = fstatat(&level.source, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let kind = SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT);
        if kind == SFlag::S_IFDIR {
            mkdirat(&level.copy, name, Mode::S_IRWXU)?;
            let source = openat(&level.source, name, DIRECTORY, Mode::empty())?;
            let copy = openat(&level.copy, name, DIRECTORY, Mode::empty())?;
            return Level::new(source, copy, path.to_path_buf()).map(Some);
        }
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key) {
                self.link(first, level, name)?;
                return Ok(None);
            }
            self.links.insert(key, path.to_path_buf());
        }
        let meta = meta_of(&stat);
        match kind {
            SFlag::S_IFREG => file(level, name, meta)?,
            SFlag::S_IFLNK => {
                let target = readlinkat(&level.source, name)?;
                symlinkat(target.as_os_str(), &level.copy, name)?;
                meta.set_named(&level.copy, name, false, true)?;
            }
            // Whoever listened there is gone.
            SFlag::S_IFSOCK => {}
            _ => {
                mknodat(&level.copy, name, kind, Mode::S_IRUSR, stat.st_rdev)?;
                let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let made = openat(&level.copy, name, flags, Mode::empty())?;
                meta.set_named(&level.copy, name, false, true)?;
                // The only way to a mode that follows no link.
                let itself = format!("/proc/self/fd/{}", made.as_raw_fd());
                fs::set_permissions(itself, Permissions::from_mode(meta.mode))?;
            }
        }
        Ok(None)
    }

    /// One more name for a file that is copied already.
    fn link(&self, first: &Path, level: &Level, name: &OsStr) -> io::Result<()> {
        let parent = first.parent().unwrap_or(Path::new(""));
        let parent = directory(&self.root, &Path::new("/").join(&self.draft).join(parent))?;
        let first = first.file_name().unwrap_or_default();
        Ok(linkat(&parent, first, &level.copy, name, AtFlags::empty())?)
    }
}

fn file(level: &Level, name: &OsStr, mut meta: Meta) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut source = File::from(openat(&level.source, name, flags, Mode::empty())?);
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let mut copy = File::from(openat(&level.copy, name, flags, mode)?);
    copy_sparse(&mut source, &mut copy, u64::MAX)?;
    meta.xattrs = attributes(&source)?;
    meta.set(&copy, true)?;
    let time = time_spec(meta.mtime);
    Ok(futimens(&copy, &time, &time)?)
}

/// Gives a directory, now that all is in it, what its source has.
fn finish(level: &Level) -> io::Result<()> {
    let meta = directory_meta(&File::from(level.source.try_clone()?))?;
    meta.set(&level.copy, true)?;
    let time = time_spec(meta.mtime);
    Ok(futimens(&level.copy, &time, &time)?)
}

fn directory_meta(directory: &File) -> io::Result<Meta> {
    Ok(Meta {
        xattrs: attributes(directory)?,
        ..meta_of(&fstat(directory)?)
    })
}

fn meta_of(stat: &FileStat) -> Meta {
    Meta {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, stat.st_mtime_nsec),
        ..Meta::default()
    }
}

/// Extended attributes, but for a host's own labels.
fn attributes(source: &File) -> io::Result<Vec<(std::ffi::CString, Vec<u8>)>> {
    let all = match source.list_xattr() {
        Err(error) if error.raw_os_error() == Some(Errno::ENOTSUP as i32) => return Ok(Vec::new()),
        all => all?,
    };
    let mut kept = Vec::new();
    for name in all {
        let is_host = name == "security.selinux" || name.as_bytes().starts_with(b"trusted.");
        if !is_host && let Some(value) = source.get_xattr(&name)? {
            kept.push((std::ffi::CString::new(name.as_bytes())?, value));
        }
    }
    Ok(kept)
}

/// The directory at `path` in `root`, open for reading.
fn directory(root: &Root, path: &Path) -> io::Result<OwnedFd> {
    let found = root.resolve(path).map_err(io::Error::other)?;
    let open = found.reopen(OpenFlags::O_DIRECTORY);
    Ok(open.map_err(io::Error::other)?.into())
}

fn names(dir: &impl AsFd) -> io::Result<Vec<OsString>> {
    // The standard library lists by path only.
    fs::read_dir(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()))?
        .map(|entry| Ok(entry?.file_name()))
        .collect()
}

fn failed(action: &'static str, path: impl AsRef<Path>, cause: io::Error) -> ImageError {
    ImageError::io(action, path, cause)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    /// A root file system with `/srv/data`, and an empty directory.
    fn world() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let base = tempfile::tempdir().unwrap();
        let (rootfs, into) = (base.path().join("rootfs"), base.path().join("volume"));
        fs::create_dir_all(rootfs.join("srv/data/deep/er")).unwrap();
        fs::create_dir(&into).unwrap();
        (base, rootfs, into)
    }

    const DRAFT: &str = ".draft";

    /// Copies what is at `target`; false if nothing is there.
    fn copy(rootfs: &Path, target: &str, into: &Path) -> Result<bool> {
        let Some(content) = Content::find(rootfs, Path::new(target))? else {
            return Ok(false);
        };
        content.copy(into, DRAFT)?;
        publish(into, DRAFT)?;
        Ok(true)
    }

    #[test]
    fn everything_is_copied() {
        let (_base, rootfs, into) = world();
        let data = rootfs.join("srv/data");
        fs::write(data.join("a"), "hello").unwrap();
        fs::set_permissions(data.join("a"), Permissions::from_mode(0o4751)).unwrap();
        fs::hard_link(data.join("a"), data.join("deep/b")).unwrap();
        symlink("/etc/passwd", data.join("link")).unwrap();
        fs::write(data.join("deep/er/c"), [0; 200_000]).unwrap();
        let fifo = Mode::from_bits_truncate(0o640);
        nix::unistd::mkfifo(&data.join("fifo"), fifo).unwrap();
        fs::set_permissions(&data, Permissions::from_mode(0o1777)).unwrap();

        assert!(copy(&rootfs, "/srv/data", &into).unwrap());
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(fs::read(into.join("a")).unwrap(), b"hello");
        assert_eq!(mode(&into.join("a")), 0o4751);
        assert_eq!(mode(&into), 0o1777);
        assert_eq!(mode(&into.join("fifo")), mode(&data.join("fifo")));
        let inode = |path: &str| fs::metadata(into.join(path)).unwrap().ino();
        assert_eq!(inode("a"), inode("deep/b"));
        let link = fs::read_link(into.join("link")).unwrap();
        assert_eq!(link, Path::new("/etc/passwd"));
        assert_eq!(fs::metadata(into.join("deep/er/c")).unwrap().len(), 200_000);
        let time = |path: PathBuf| fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(time(into.join("deep")), time(data.join("deep")));
    }

    #[test]
    fn what_is_there_stays_and_the_rest_comes() {
        let (_base, rootfs, into) = world();
        for name in ["a", "b"] {
            fs::write(rootfs.join("srv/data").join(name), "the image's").unwrap();
        }
        let content = Content::find(&rootfs, Path::new("/srv/data")).unwrap();
        content.unwrap().copy(&into, DRAFT).unwrap();
        // Nothing of it shows before all of it is there; meanwhile somebody else is at it.
        assert_eq!(fs::read_dir(&into).unwrap().count(), 1);
        fs::create_dir(into.join("deep")).unwrap();
        fs::write(into.join("a"), "theirs").unwrap();
        publish(&into, DRAFT).unwrap();
        assert_eq!(fs::read(into.join("a")).unwrap(), b"theirs");
        assert_eq!(fs::read(into.join("b")).unwrap(), b"the image's");
        assert!(!into.join("deep/er").exists() && !into.join(DRAFT).exists());
        // Broken off before it was noted that it is done.
        publish(&into, DRAFT).unwrap();
    }

    #[test]
    fn two_copies_at_once_are_one() {
        let (_base, rootfs, into) = world();
        fs::write(rootfs.join("srv/data/deep/a"), "whole").unwrap();
        for draft in [".one", ".two"] {
            let content = Content::find(&rootfs, Path::new("/srv/data")).unwrap();
            content.unwrap().copy(&into, draft).unwrap();
        }
        for draft in [".one", ".two"] {
            publish(&into, draft).unwrap();
        }
        assert_eq!(fs::read(into.join("deep/a")).unwrap(), b"whole");
        assert_eq!(fs::read_dir(&into).unwrap().count(), 1);
    }

    #[test]
    fn links_of_the_image_lead_nowhere_else() {
        let (_base, rootfs, into) = world();
        // As a container would see it, this is its own /srv/data.
        symlink("/srv", rootfs.join("l")).unwrap();
        assert!(copy(&rootfs, "/l/data", &into).unwrap());
        assert!(into.join("deep/er").is_dir());
    }

    #[test]
    fn files_and_nothing() {
        let (_base, rootfs, into) = world();
        assert!(!copy(&rootfs, "/nothing", &into).unwrap());
        fs::write(rootfs.join("srv/file"), "").unwrap();
        let error = copy(&rootfs, "/srv/file", &into).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot mount volume over existing file, file exists /srv/file"
        );
    }

    #[test]
    fn what_is_too_deep_is_refused() {
        let (_base, rootfs, into) = world();
        let mut path = rootfs.join("srv/data");
        for _ in 0..=MAX_DEPTH {
            path.push("d");
        }
        fs::create_dir_all(path).unwrap();
        let error = copy(&rootfs, "/srv/data", &into).unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { .. }), "{error}");
    }
}
