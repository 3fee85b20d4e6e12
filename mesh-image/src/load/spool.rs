//! The members of an archive, put aside as plain files: what names what is only known at the end.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use crate::digest::{Digest, Verifier};
use crate::error::{ImageError, Result};
use crate::spec::MAX_DOCUMENT;
use crate::store::Scratch;
use crate::unpack::{MAX_LAYER_BYTES, decompress};

/// Members an archive may have. An image has two per layer and a handful besides.
const MAX_MEMBERS: usize = 20_000;
/// Old archives link equal layers to one another; no honest chain is longer.
const MAX_LINKS: usize = 8;

/// The files of an archive, by name. Names are only ever keys, never paths.
pub(super) struct Spool {
    members: HashMap<String, Stored>,
}

enum Stored {
    File(Member),
    Link(String),
}

/// A file of the archive.
#[derive(Clone)]
pub(super) struct Member {
    path: PathBuf,
    /// Bytes.
    pub(super) size: u64,
    /// Computed while it was put aside.
    pub(super) digest: Digest,
    _dir: Arc<Scratch>,
}

impl Member {
    /// Opens the content.
    pub(super) fn open(&self) -> Result<File> {
        File::open(&self.path).map_err(|e| ImageError::io("open", &self.path, e))
    }
}

impl Spool {
    /// Reads the whole archive into `dir`.
    pub(super) fn fill(archive: impl Read, dir: Scratch) -> Result<Self> {
        let bad = |e: io::Error| ImageError::archive(readable(&e));
        let dir = Arc::new(dir);
        let mut archive = tar::Archive::new(decompress(archive).map_err(bad)?);
        let mut members = HashMap::new();
        for (number, entry) in archive.entries().map_err(bad)?.enumerate() {
            let mut entry = entry.map_err(|e| match number {
                0 => ImageError::archive("it is not a tar archive"),
                _ => bad(e),
            })?;
            if number >= MAX_MEMBERS {
                return Err(ImageError::archive(format!(
                    "it has over {MAX_MEMBERS} members"
                )));
            }
            let Some(name) = normal(&entry.path_bytes(), "") else {
                continue;
            };
            let kind = entry.header().entry_type();
            if kind.is_symlink() || kind.is_hard_link() {
                // A symbolic link starts where it stands, a hard link at the top.
                let base = if kind.is_symlink() {
                    name.rsplit_once('/').map_or("", |p| p.0)
                } else {
                    ""
                };
                let target = entry
                    .link_name_bytes()
                    .and_then(|target| normal(&target, base));
                if let Some(target) = target {
                    members.insert(name, Stored::Link(target));
                }
                continue;
            }
            if !kind.is_file() {
                continue;
            }
            let path = dir.path().join(number.to_string());
            let file = File::create_new(&path).map_err(|e| ImageError::io("create", &path, e))?;
            let mut file = Verifier::new(file);
            let copied = io::copy(&mut entry.by_ref().take(MAX_LAYER_BYTES), &mut file);
            if copied.map_err(bad)? == MAX_LAYER_BYTES {
                return Err(ImageError::archive(format!(
                    "{name} is larger than any layer may be"
                )));
            }
            let (_, digest, size) = file.finish();
            members.insert(
                name,
                Stored::File(Member {
                    path,
                    size,
                    digest,
                    _dir: dir.clone(),
                }),
            );
        }
        if members.is_empty() {
            return Err(ImageError::archive("it is empty"));
        }
        Ok(Self { members })
    }

    /// Whether there is a file of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_ok()
    }

    /// The file of this name, links followed.
    pub(super) fn get(&self, name: &str) -> Result<Member> {
        let mut at = normal(name.as_bytes(), "");
        for _ in 0..MAX_LINKS {
            match at.as_deref().and_then(|name| self.members.get(name)) {
                Some(Stored::File(member)) => return Ok(member.clone()),
                Some(Stored::Link(target)) => at = Some(target.clone()),
                None => break,
            }
        }
        let name: String = name.chars().take(200).collect();
        Err(ImageError::archive(format!(
            "\"{name}\" is not in the archive"
        )))
    }

    /// The content of a small file.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>> {
        let member = self.get(name)?;
        if member.size > MAX_DOCUMENT {
            let limit = MAX_DOCUMENT >> 20;
            return Err(ImageError::archive(format!(
                "\"{name}\" is larger than {limit} MiB"
            )));
        }
        let mut bytes = Vec::new();
        member
            .open()?
            .read_to_end(&mut bytes)
            .map_err(|e| ImageError::io("read", &member.path, e))?;
        Ok(bytes)
    }

    /// The blob of an OCI layout with this digest, which its content must have.
    pub(super) fn blob(&self, digest: &Digest) -> Result<Member> {
        let member = self.get(&blob_name(digest))?;
        digest.check(&member.digest, format_args!("blob {digest} of the archive"))?;
        Ok(member)
    }

    /// [`blob`](Self::blob) of a small document.
    pub(super) fn blob_document(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.blob(digest)?;
        self.document(&blob_name(digest))
    }
}

/// An error's text without what it quotes of the archive beyond the first line.
fn readable(error: &io::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(200).collect()
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// `base/name` without `.`, `..` and doubled slashes; none if it leaves the archive.
fn normal(name: &[u8], base: &str) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_names_are_normalised() {
        assert_eq!(normal(b"./a//b", "").as_deref(), Some("a/b"));
        assert_eq!(
            normal(b"../b/layer.tar", "a").as_deref(),
            Some("b/layer.tar")
        );
        assert_eq!(normal(b"../../x", "a"), None);
        assert_eq!(normal(b"./", ""), None);
    }
}
