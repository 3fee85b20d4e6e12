//! Unpacking one layer into a directory, in the form overlayfs wants it.
//!
//! A layer is a tar of unknown origin. The rules, each tested:
//! - every path is resolved inside the destination, links included (`openat2`, `RESOLVE_IN_ROOT`);
//! - names with `..` are refused; absolute names are taken relative to the destination;
//! - hard links can only name what is inside the destination;
//! - `.wh.x` becomes an overlayfs whiteout, `.wh..wh..opq` an opaque directory;
//! - only harmless extended attributes are kept; sizes and counts are bounded.

mod compression;
mod content;
mod entry;
mod meta;
mod tree;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::digest::{Digest, Verifier};
use crate::error::{ImageError, Result};

pub(crate) use compression::decompress;
pub(crate) use content::copy_sparse;
pub(crate) use meta::{Meta, time_spec};

/// Uncompressed bytes one layer may have. The largest published images (GPU toolkits) stay below
/// 20 GiB; past it, the image is refused before it fills the disk.
pub(crate) const MAX_LAYER_BYTES: u64 = 64 << 30;
/// Entries one layer may have, so that a layer cannot use up the file system's inodes.
const MAX_ENTRIES: u64 = 4_000_000;

/// What unpacking found out.
pub(crate) struct Unpacked {
    /// Digest of the uncompressed tar.
    pub(crate) diff_id: Digest,
    /// Bytes of file content.
    pub(crate) size: u64,
}

/// Unpacks the layer in `reader` (tar, plain or compressed) into the empty directory `dest`.
/// `parents` are the directories of the layers below, nearest first: a directory the layer only
/// implies gets its owner and mode from there.
pub(crate) fn unpack(reader: impl Read, dest: &Path, parents: &[PathBuf]) -> Result<Unpacked> {
    let plain = decompress(reader).map_err(bad_tar)?;
    let mut plain = Verifier::new(plain.take(MAX_LAYER_BYTES));
    let mut tree = tree::Tree::open(dest, parents)?;
    let mut size = 0u64;
    let mut archive = tar::Archive::new(&mut plain);
    let mut entries = 0u64;
    for entry in archive.entries().map_err(bad_tar)? {
        let mut entry = entry.map_err(bad_tar)?;
        entries += 1;
        if entries > MAX_ENTRIES {
            return Err(ImageError::TooLarge {
                what: "the number of entries in a layer".into(),
                limit: MAX_ENTRIES.to_string(),
            });
        }
        size += entry::apply(&mut tree, &mut entry, MAX_LAYER_BYTES - size)?;
    }
    // What follows the tar's end mark belongs to the digest as well.
    io::copy(&mut plain, &mut io::sink()).map_err(bad_tar)?;
    tree.finish()?;
    let (rest, diff_id, bytes) = plain.finish();
    if bytes == MAX_LAYER_BYTES && rest.into_inner().read(&mut [0]).map_err(bad_tar)? > 0 {
        return Err(too_large());
    }
    Ok(Unpacked { diff_id, size })
}

pub(crate) fn too_large() -> ImageError {
    ImageError::TooLarge {
        what: "a layer".into(),
        limit: format!("{} GiB", MAX_LAYER_BYTES >> 30),
    }
}

fn bad_tar(error: io::Error) -> ImageError {
    // Errors of the tar reader quote raw bytes; the first line is enough.
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    ImageError::MalformedImage {
        what: "layer",
        reason: line.chars().filter(|c| !c.is_control()).collect(),
    }
}

#[cfg(test)]
mod tests;
