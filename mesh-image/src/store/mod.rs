//! The store: which images, tags and layers are on this machine, and root file systems made of them.

use std::io::Read;
use std::path::{Path, PathBuf};

use tokio::io::AsyncRead;

use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::progress::ProgressFn;
use crate::record::ImageRecord;
use crate::reference::Reference;
use crate::registry::{Credentials, Distribution, PullOptions, RegistryOptions};

/// Images on this machine. Cheap to clone; clones share everything. One process may have a
/// directory open at a time.
#[derive(Clone)]
pub struct ImageStore {}

/// An image that came in through [`ImageStore::load`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// Image id.
    pub id: Digest,
    /// Names the archive gave it; `Loaded image: <name>` each, or `Loaded image ID: <id>` if none.
    pub references: Vec<Reference>,
}

/// What [`ImageStore::remove`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names taken away, familiar form.
    pub untagged: Vec<String>,
    /// Image ids and layer chain ids deleted.
    pub deleted: Vec<Digest>,
}

/// What [`ImageStore::prune`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names and content removed.
    pub removed: Removed,
    /// Disk space freed, bytes.
    pub bytes: u64,
}

/// A mounted root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootFs {
    /// Where it is mounted.
    pub path: PathBuf,
}

impl ImageStore {
    /// Opens (or creates) the store in `dir` with default registry options. Leftovers of an
    /// interrupted pull or load are removed.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(dir, RegistryOptions::default())
    }

    /// Opens (or creates) the store in `dir`.
    pub fn open_with(dir: impl AsRef<Path>, registries: RegistryOptions) -> Result<Self> {
        let _ = (dir.as_ref(), registries);
        Ok(Self {})
    }

    /// Pulls `reference` and records it. Layers that are here already are not fetched again;
    /// concurrent pulls of the same layer fetch it once. Cancel by dropping the future.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: &ProgressFn,
    ) -> Result<ImageRecord> {
        let _ = (options, progress);
        Err(ImageError::NoSuchImage {
            reference: reference.to_string(),
        })
    }

    /// Asks the registry which manifest `reference` stands for now.
    pub async fn resolve_digest(
        &self,
        reference: &Reference,
        credentials: &Credentials,
    ) -> Result<Distribution> {
        let _ = credentials;
        Err(ImageError::NoSuchImage {
            reference: reference.to_string(),
        })
    }

    /// Loads all images of an archive: an OCI layout or `docker save` output, plain or compressed
    /// with gzip or zstd.
    pub async fn load(
        &self,
        archive: impl AsyncRead + Send + Unpin + 'static,
        progress: &ProgressFn,
    ) -> Result<Vec<LoadedImage>> {
        let _ = (archive, progress);
        Err(ImageError::archive("not read"))
    }

    /// [`load`](Self::load) from a blocking reader, for threads that may block.
    pub fn load_blocking(
        &self,
        archive: impl Read,
        progress: &ProgressFn,
    ) -> Result<Vec<LoadedImage>> {
        let _ = (archive, progress);
        Err(ImageError::archive("not read"))
    }

    /// All images, newest first.
    pub fn list(&self) -> Vec<ImageRecord> {
        Vec::new()
    }

    /// The image named by `name`: a reference with tag or digest, an id, or a unique id prefix,
    /// with or without `sha256:`.
    pub fn get(&self, name: &str) -> Result<ImageRecord> {
        Err(ImageError::NoSuchImage {
            reference: name.to_owned(),
        })
    }

    /// Gives the image named `source` one more name; the name is taken from another image if need be.
    pub fn tag(&self, source: &str, target: &Reference) -> Result<()> {
        let _ = target;
        Err(ImageError::NoSuchImage {
            reference: source.to_owned(),
        })
    }

    /// Removes a name, and the image with its last name. An image named by id must have at most
    /// one name unless `force`; one that a container uses is never deleted, only untagged.
    pub fn remove(&self, name: &str, force: bool) -> Result<Removed> {
        let _ = force;
        Err(ImageError::NoSuchImage {
            reference: name.to_owned(),
        })
    }

    /// Removes images without a name (with `all`: every image no container uses) and layers
    /// nothing refers to.
    pub fn prune(&self, all: bool) -> Result<Pruned> {
        let _ = all;
        Ok(Pruned::default())
    }

    /// Mounts a fresh writable root file system of `image` for `container_id`. Asked again for the
    /// same container, it returns the mount that is there, or mounts again with what was written.
    pub fn mount_rootfs(&self, image: &ImageRecord, container_id: &str) -> Result<RootFs> {
        let _ = image;
        Err(ImageError::InvalidContainerId {
            id: container_id.to_owned(),
        })
    }

    /// Unmounts a container's root file system and deletes what was written to it. One that does
    /// not exist is no error.
    pub fn unmount_rootfs(&self, container_id: &str) -> Result<()> {
        Err(ImageError::InvalidContainerId {
            id: container_id.to_owned(),
        })
    }

    /// Containers that have a root file system here, mounted or not, with the image each was made of.
    pub fn rootfs_list(&self) -> Vec<(String, Digest)> {
        Vec::new()
    }
}
