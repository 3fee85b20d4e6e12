//! What an image has at a path, copied into an empty directory: the first content of a volume.
//!
//! The source is a root file system that nobody runs in yet. The copy may be a volume that a running container writes to:
//! nothing is followed there, and every operation names an open directory and one name in it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, futimens, mkdirat, mknodat};
use nix::unistd::{linkat, symlinkat};
use pathrs::Root;
use pathrs::error::ErrorKind;
use pathrs::flags::OpenFlags;
use xattr::FileExt;

use crate::error::{ImageError, Result};
use crate::unpack::{Meta, copy_sparse, time_spec};

/// Deepest directory that is copied, below the first one; each level holds two open files.
const MAX_DEPTH: usize = 256;

const DIRECTORY: OFlag = OFlag::O_DIRECTORY
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Copies the directory that a container with this root file system sees at `target` to the directory `into`: what is in it,
/// and its owner, mode, times and extended attributes. False if there is no such directory, or `into` is not empty.
///
/// # Errors
/// When `target` is there and no directory, or something cannot be read or written.
pub fn copy_content(rootfs: &Path, target: &Path, into: &Path) -> Result<bool> {
    let root = Root::open(rootfs).map_err(|e| failed("open", rootfs, io::Error::other(e)))?;
    let found = match root.resolve(Path::new("/").join(target)) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::OsError(Some(libc::ENOENT)) => return Ok(false),
        Err(error) => return Err(failed("open", target, io::Error::other(error))),
    };
    let source = match found.reopen(OpenFlags::O_DIRECTORY) {
        Ok(source) => OwnedFd::from(source),
        Err(error) if error.kind() == ErrorKind::OsError(Some(libc::ENOTDIR)) => {
            return Err(ImageError::NotADirectory {
                path: target.to_path_buf(),
            });
        }
        Err(error) => return Err(failed("open", target, io::Error::other(error))),
    };
    let copy = Root::open(into).map_err(|e| failed("open", into, io::Error::other(e)))?;
    let top = directory(&copy, Path::new("/")).map_err(|e| failed("open", into, e))?;
    if !names(&top).map_err(|e| failed("list", into, e))?.is_empty() {
        return Ok(false);
    }
    Copy {
        copy,
        links: HashMap::new(),
    }
    .all(source, top, target)?;
    Ok(true)
}

struct Copy {
    copy: Root,
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
        let parent = directory(&self.copy, &Path::new("/").join(parent))?;
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
    let source = File::from(level.source.try_clone()?);
    let mut meta = meta_of(&fstat(&source)?);
    meta.xattrs = attributes(&source)?;
    meta.set(&level.copy, true)?;
    let time = time_spec(meta.mtime);
    Ok(futimens(&level.copy, &time, &time)?)
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

        assert!(copy_content(&rootfs, Path::new("/srv/data"), &into).unwrap());
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
    fn what_has_content_stays() {
        let (_base, rootfs, into) = world();
        fs::write(into.join("mine"), "").unwrap();
        assert!(!copy_content(&rootfs, Path::new("/srv/data"), &into).unwrap());
        assert!(!into.join("deep").exists());
    }

    #[test]
    fn links_of_the_image_lead_nowhere_else() {
        let (_base, rootfs, into) = world();
        // As a container would see it, this is its own /srv/data.
        symlink("/srv", rootfs.join("l")).unwrap();
        assert!(copy_content(&rootfs, Path::new("/l/data"), &into).unwrap());
        assert!(into.join("deep/er").is_dir());
    }

    #[test]
    fn files_and_nothing() {
        let (_base, rootfs, into) = world();
        assert!(!copy_content(&rootfs, Path::new("/nothing"), &into).unwrap());
        fs::write(rootfs.join("srv/file"), "").unwrap();
        let error = copy_content(&rootfs, Path::new("/srv/file"), &into).unwrap_err();
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
        let error = copy_content(&rootfs, Path::new("/srv/data"), &into).unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { .. }), "{error}");
    }
}
