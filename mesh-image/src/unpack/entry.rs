//! One tar entry: what it is, whether it may be, and making it.

use std::ffi::{CString, OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use tar::EntryType;

use super::meta::Meta;
use super::tree::Tree;
use crate::error::{ImageError, Result};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names of the old aufs driver's own files; they mean nothing to overlayfs.
const AUFS: &[u8] = b".wh..wh.";
const XATTR: &str = "SCHILY.xattr.";

/// Longest name of an entry, and of each part of it, in bytes: what the kernel takes. No container could use longer ones.
const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;

/// Makes `entry` in `tree`; returns the bytes of content written, at most `budget`.
pub(super) fn apply<R: Read>(
    tree: &mut Tree,
    entry: &mut tar::Entry<'_, R>,
    budget: u64,
) -> Result<u64> {
    let kind = entry.header().entry_type();
    if matches!(kind, EntryType::XGlobalHeader) {
        return Ok(0);
    }
    let name = entry.path_bytes().into_owned();
    let path = inside(&name)?;
    let meta = meta_of(entry, &name)?;
    let Some(file_name) = path.file_name().map(OsStr::to_owned) else {
        if kind.is_dir() {
            tree.set_root(&meta)?;
        }
        return Ok(0);
    };
    let parent = path.parent().unwrap_or(Path::new(""));
    let raw = file_name.as_bytes();
    if raw == OPAQUE {
        tree.make_opaque(parent)?;
        return Ok(0);
    }
    if raw.starts_with(AUFS) {
        return Ok(0);
    }
    if let Some(hidden) = raw.strip_prefix(WHITEOUT) {
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(refuse(&name, "a whiteout must name a file"));
        }
        tree.whiteout(parent, OsStr::from_bytes(hidden))?;
        return Ok(0);
    }
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            return tree.file(parent, &file_name, &meta, entry, budget);
        }
        EntryType::Directory => tree.directory(parent, &file_name, &meta)?,
        EntryType::Symlink => {
            let target = link_target(entry, &name)?;
            tree.symlink(parent, &file_name, &meta, OsStr::from_bytes(&target))?;
        }
        EntryType::Link => {
            let target = inside(&link_target(entry, &name)?)?;
            if target == path {
                return Err(refuse(&name, "a hard link to itself"));
            }
            tree.hard_link(parent, &file_name, &target)?;
        }
        EntryType::Char | EntryType::Block => {
            let device = device_of(entry, &name)?;
            tree.node(
                parent,
                &file_name,
                &meta,
                kind == EntryType::Block,
                Some(device),
            )?;
        }
        EntryType::Fifo => tree.node(parent, &file_name, &meta, false, None)?,
        other => {
            let reason = format!("entry type {:?} is not known", other.as_byte() as char);
            return Err(refuse(&name, reason));
        }
    }
    Ok(0)
}

/// The entry's name as a relative path without `.` and `..`.
fn inside(name: &[u8]) -> Result<PathBuf> {
    if name.len() > MAX_PATH {
        return Err(refuse(
            name,
            format!("its name is longer than {MAX_PATH} bytes"),
        ));
    }
    let mut path = PathBuf::new();
    for part in name.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(refuse(name, "its name contains \"..\"")),
            part if part.len() > MAX_NAME => {
                let reason = format!("a part of its name is longer than {MAX_NAME} bytes");
                return Err(refuse(name, reason));
            }
            part if part.contains(&0) => return Err(refuse(name, "its name contains a NUL byte")),
            part => path.push(OsString::from_vec(part.to_vec())),
        }
    }
    Ok(path)
}

fn link_target<R: Read>(entry: &tar::Entry<'_, R>, name: &[u8]) -> Result<Vec<u8>> {
    let target = entry
        .link_name_bytes()
        .map(|target| target.into_owned())
        .unwrap_or_default();
    if target.is_empty() {
        return Err(refuse(name, "a link without a target"));
    }
    if target.contains(&0) {
        return Err(refuse(name, "its target contains a NUL byte"));
    }
    Ok(target)
}

/// (major, minor)
fn device_of<R: Read>(entry: &tar::Entry<'_, R>, name: &[u8]) -> Result<(u32, u32)> {
    let header = entry.header();
    match (header.device_major(), header.device_minor()) {
        (Ok(Some(major)), Ok(Some(minor))) => Ok((major, minor)),
        _ => Err(refuse(name, "a device without a number")),
    }
}

fn meta_of<R: Read>(entry: &mut tar::Entry<'_, R>, name: &[u8]) -> Result<Meta> {
    let bad = |e: std::io::Error| refuse(name, e.to_string());
    let id = |value: u64, what: &str| {
        // -1 means "leave it alone" to chown.
        u32::try_from(value)
            .ok()
            .filter(|&id| id != u32::MAX)
            .ok_or_else(|| refuse(name, format!("{what} {value} is out of range")))
    };
    let header = entry.header();
    let mut meta = Meta {
        mode: header.mode().map_err(bad)? & 0o7777,
        uid: id(header.uid().map_err(bad)?, "user id")?,
        gid: id(header.gid().map_err(bad)?, "group id")?,
        mtime: (i64::try_from(header.mtime().map_err(bad)?).unwrap_or(0), 0),
        xattrs: Vec::new(),
    };
    let Some(extensions) = entry.pax_extensions().map_err(bad)? else {
        return Ok(meta);
    };
    for extension in extensions {
        let extension = extension.map_err(bad)?;
        let Ok(key) = extension.key() else { continue };
        let text = || extension.value().unwrap_or_default();
        match key {
            "uid" => meta.uid = id(text().parse().unwrap_or(u64::MAX), "user id")?,
            "gid" => meta.gid = id(text().parse().unwrap_or(u64::MAX), "group id")?,
            "mtime" => meta.mtime = parse_time(text()).unwrap_or(meta.mtime),
            _ => {
                let Some(attribute) = key.strip_prefix(XATTR).filter(|key| keep(key)) else {
                    continue;
                };
                if let Ok(attribute) = CString::new(attribute) {
                    meta.xattrs
                        .push((attribute, extension.value_bytes().to_vec()));
                }
            }
        }
    }
    Ok(meta)
}

/// File capabilities and user attributes only. `trusted.overlay.*` would steer overlayfs itself,
/// and `security.*` others belong to the host's policy.
fn keep(attribute: &str) -> bool {
    attribute == "security.capability"
        || (attribute.starts_with("user.") && !attribute.starts_with("user.overlay."))
}

/// `seconds[.fraction]`, possibly negative, as (seconds, nanoseconds).
fn parse_time(text: &str) -> Option<(i64, i64)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanoseconds: i64 = digits.parse().ok()?;
    if text.starts_with('-') && nanoseconds > 0 {
        return Some((seconds - 1, 1_000_000_000 - nanoseconds));
    }
    Some((seconds, nanoseconds))
}

fn refuse(name: &[u8], reason: impl Into<String>) -> ImageError {
    let path = String::from_utf8_lossy(name).chars().take(200).collect();
    ImageError::UnsafeEntry {
        path,
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_relative_or_refused() {
        assert_eq!(inside(b"./a//b/").unwrap(), Path::new("a/b"));
        assert_eq!(inside(b"/etc/passwd").unwrap(), Path::new("etc/passwd"));
        assert_eq!(inside(b"./").unwrap(), Path::new(""));
        let (long, deep) = ([b'a'; 256], b"a/".repeat(2049));
        for bad in [&b"../x"[..], b"a/../../x", b"a/..", b"a\0b", &long, &deep] {
            assert!(inside(bad).is_err());
        }
    }

    #[test]
    fn pax_times_keep_their_fraction() {
        assert_eq!(parse_time("12"), Some((12, 0)));
        assert_eq!(parse_time("12.5"), Some((12, 500_000_000)));
        assert_eq!(parse_time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(parse_time("12.0000000019"), Some((12, 1)));
        assert_eq!(parse_time("x"), None);
    }

    #[test]
    fn only_harmless_attributes_are_kept() {
        assert!(keep("security.capability") && keep("user.mime"));
        for bad in [
            "trusted.overlay.opaque",
            "user.overlay.redirect",
            "security.selinux",
        ] {
            assert!(!keep(bad), "{bad}");
        }
    }
}
