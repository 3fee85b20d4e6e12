//! Owner, mode, time and extended attributes of what is unpacked.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmod, fchmodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat};

use super::content::set_xattr;

/// Owner, mode, time and attributes of an entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meta {
    /// Permission bits, set-id and sticky included.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// (seconds, nanoseconds) since the Unix epoch.
    pub(crate) mtime: (i64, i64),
    pub(crate) xattrs: Vec<(CString, Vec<u8>)>,
}

impl Meta {
    /// Gives it to an open file or directory; times are for the caller to set. Owner first: changing it clears set-id
    /// bits and capabilities.
    pub(crate) fn set(&self, file: &impl AsFd, privileged: bool) -> nix::Result<()> {
        if privileged {
            fchown(
                file,
                Some(Uid::from_raw(self.uid)),
                Some(Gid::from_raw(self.gid)),
            )?;
        }
        fchmod(file, Mode::from_bits_truncate(self.mode))?;
        for (name, value) in &self.xattrs {
            match set_xattr(file, name, value) {
                Err(Errno::ENOTSUP) => {
                    tracing::warn!(?name, "file system without extended attributes, dropped");
                }
                Err(Errno::EPERM) if !privileged => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Gives owner, time and, if asked to, the mode to what has this name.
    pub(crate) fn set_named(
        &self,
        dir: &OwnedFd,
        name: &OsStr,
        mode: bool,
        privileged: bool,
    ) -> nix::Result<()> {
        if privileged {
            let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
            fchownat(
                dir,
                name,
                Some(uid),
                Some(gid),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            )?;
        }
        if mode {
            let bits = Mode::from_bits_truncate(self.mode);
            fchmodat(dir, name, bits, FchmodatFlags::FollowSymlink)?;
        }
        let time = time_spec(self.mtime);
        utimensat(dir, name, &time, &time, UtimensatFlags::NoFollowSymlink)
    }
}

/// (seconds, nanoseconds) since the Unix epoch as the kernel takes them.
pub(crate) fn time_spec((seconds, nanoseconds): (i64, i64)) -> TimeSpec {
    TimeSpec::new(seconds, nanoseconds)
}
