//! The store's directory: layout, atomic writes, temporary space, the lock.
//!
//! ```text
//! lock                  held while open
//! state.json            images and names; replaced atomically
//! blobs/<hex>           manifests and configurations, by digest
//! layers/<key>/         one unpacked layer: diff/ and layer.json
//! containers/<id>/      one root file system: container.json, upper/, work/, rootfs/ (the mount)
//! tmp/                  everything unfinished; emptied at open
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;

use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::spec::MAX_DOCUMENT;

use super::scratch::{Scratch, remove_tree};

/// Hexadecimal digits of a chain id that name a layer's directory. Short, because overlayfs takes
/// its layers in one page of mount options; the full id is in `layer.json` and is compared.
const LAYER_KEY_LEN: usize = 16;

/// Paths of a store, and the lock on it.
pub(super) struct Files {
    pub(super) root: PathBuf,
    _lock: Flock<File>,
}

impl Files {
    /// Opens or creates the directory, locks it and removes what an interrupted run left.
    pub(super) fn open(root: &Path) -> Result<Self> {
        make_dir(root)?;
        let root = root
            .canonicalize()
            .map_err(|e| ImageError::io("open", root, e))?;
        let path = root.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| ImageError::io("open", &path, e))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| ImageError::Locked { path: root.clone() })?;
        for name in ["blobs", "layers", "containers", "tmp"] {
            make_dir(&root.join(name))?;
        }
        let files = Self { root, _lock: lock };
        for entry in list(&files.root.join("tmp"))? {
            let path = files.root.join("tmp").join(entry);
            if let Err(error) = remove_tree(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a leftover");
            }
        }
        Ok(files)
    }

    pub(super) fn state(&self) -> PathBuf {
        self.root.join("state.json")
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.hex())
    }

    pub(super) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(super) fn layer(&self, chain: &Digest) -> PathBuf {
        self.layers().join(layer_key(chain))
    }

    pub(super) fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    pub(super) fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// A new directory in temporary space, removed when dropped.
    pub(super) fn temp_dir(&self) -> Result<Scratch> {
        let tmp = self.root.join("tmp");
        Scratch::new_in(&tmp).map_err(|e| ImageError::io("create a directory in", tmp, e))
    }

    /// Writes a blob under its digest, if it is not there.
    pub(super) fn put_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        let path = self.blob(&digest);
        if self.get_blob(&digest).is_err() {
            self.write(&path, bytes)?;
        }
        Ok(digest)
    }

    /// Reads a blob and checks it.
    pub(super) fn get_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let bytes = read(&self.blob(digest))?;
        digest.check(&Digest::of(&bytes), format_args!("stored blob {digest}"))?;
        Ok(bytes)
    }

    /// Replaces `path` by `bytes`, whole or not at all, also if the power fails.
    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let tmp = self.root.join("tmp");
        let put = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&tmp)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|e| e.error)?;
            sync_parent(path)
        };
        put().map_err(|e| ImageError::io("write", path, e))
    }

    /// [`write`](Self::write) of a JSON document.
    pub(super) fn write_json(&self, path: &Path, document: &impl Serialize) -> Result<()> {
        let bytes = serde_json::to_vec(document)
            .map_err(|e| ImageError::io("encode", path, io::Error::other(e)))?;
        self.write(path, &bytes)
    }

    /// Moves a path into temporary space at once and returns where it went; deleting it can
    /// then take its time.
    pub(super) fn discard(&self, path: &Path) -> Result<Option<Scratch>> {
        let dir = self.temp_dir()?;
        match fs::rename(path, dir.path().join("x")) {
            Ok(()) => Ok(Some(dir)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(ImageError::io("remove", path, e)),
        }
    }
}

/// The directory name of a layer.
pub(super) fn layer_key(chain: &Digest) -> &str {
    &chain.hex()[..LAYER_KEY_LEN]
}

/// Reads a document of bounded size.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| ImageError::io("open", path, e))?;
    file.take(MAX_DOCUMENT + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| ImageError::io("read", path, e))?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(ImageError::TooLarge {
            what: path.display().to_string(),
            limit: format!("{} MiB", MAX_DOCUMENT >> 20),
        });
    }
    Ok(bytes)
}

/// Names in a directory.
pub(super) fn list(path: &Path) -> Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(path).map_err(|e| ImageError::io("list", path, e))?;
    entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<_>>()
        .map_err(|e| ImageError::io("list", path, e))
}

/// Creates a directory only root can enter, unless it is there.
pub(super) fn make_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| ImageError::io("create", path, e))
}

/// Makes a rename in `path`'s directory durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}
