//! The store: which images, tags and layers are on this machine, and root file systems made of them.

mod collect;
mod files;
mod layers;
mod rootfs;
mod scratch;
mod state;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub use self::collect::{Pruned, Removed};
use self::files::Files;
use self::layers::{KeyedLocks, Pins, lock};
pub use self::scratch::remove_tree;
pub(crate) use self::scratch::{Scratch, remove_tree_at};
use self::state::{Container, Entry, State};
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::keyed::Shared;
use crate::record::ImageRecord;
use crate::reference::Reference;
use crate::registry::{Blob, RegistryOptions};
use crate::spec::{self, ConfigDoc};

/// Images on this machine. Cheap to clone; clones share everything. One process may have a
/// directory open at a time. All methods that are not `async` touch only the local disk.
#[derive(Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

struct Inner {
    files: Files,
    registries: RegistryOptions,
    state: Mutex<State>,
    pins: Arc<Pins>,
    unpacking: KeyedLocks,
    downloads: Shared<Digest, Blob>,
    /// Mounting and unmounting, one at a time.
    mounting: Mutex<()>,
}

/// An image that came in through [`ImageStore::load`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// Image id.
    pub id: Digest,
    /// Names the archive gave it; `Loaded image: <name>` each, or `Loaded image ID: <id>` if none.
    pub references: Vec<Reference>,
}

impl ImageStore {
    /// Opens (or creates) the store in `dir` with default registry options. Leftovers of an
    /// interrupted pull or load are removed.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(dir, RegistryOptions::default())
    }

    /// Opens (or creates) the store in `dir`.
    ///
    /// # Errors
    /// When the folder cannot be made, read or written.
    pub fn open_with(dir: impl AsRef<Path>, registries: RegistryOptions) -> Result<Self> {
        let files = Files::open(dir.as_ref())?;
        let mut state = State::load(&files)?;
        state.containers = files.find_containers()?.into_iter().collect();
        let store = Self {
            inner: Arc::new(Inner {
                files,
                registries,
                state: Mutex::new(state),
                pins: Arc::default(),
                unpacking: KeyedLocks::default(),
                downloads: Shared::default(),
                mounting: Mutex::new(()),
            }),
        };
        let (deleted, trash) = store.collect(&lock(&store.inner.state))?;
        drop(trash);
        if !deleted.is_empty() {
            tracing::info!(
                layers = deleted.len(),
                "removed layers of an interrupted pull or load"
            );
        }
        Ok(store)
    }

    /// All images, newest first.
    pub fn list(&self) -> Vec<ImageRecord> {
        let state = lock(&self.inner.state);
        let mut records: Vec<_> = state
            .images
            .keys()
            .filter_map(|id| state.record(id))
            .collect();
        records.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        records
    }

    /// The image named by `name`: a reference with tag or digest, an id, or a unique id prefix
    /// of at least four digits, with or without `sha256:`.
    ///
    /// # Errors
    /// When there is none, or the prefix is that of several.
    pub fn get(&self, name: &str) -> Result<ImageRecord> {
        let state = lock(&self.inner.state);
        let named = state.find(name)?;
        state
            .record(named.id())
            .ok_or_else(|| ImageError::NoSuchImage {
                reference: name.to_owned(),
            })
    }

    /// Gives the image named `source` one more name; the name is taken from another image if need be.
    ///
    /// # Errors
    /// As [`get`](Self::get), and when the disk refuses.
    pub fn tag(&self, source: &str, target: &Reference) -> Result<()> {
        let name = target
            .tagged()
            .ok_or_else(|| ImageError::InvalidReference {
                reference: target.to_string(),
                reason: "the new name must have a tag, not a digest",
            })?;
        self.change(|state| {
            let id = state.find(source)?.id().clone();
            state.names.insert(name, id);
            Ok(())
        })
    }

    /// Mounts a writable root file system of `image` for `container_id`; returns where. Asked again for the
    /// same container, it returns the mount that is there, or mounts again with what was written.
    ///
    /// # Errors
    /// When a layer is not there any more, or the kernel refuses the mount.
    pub fn mount_rootfs(&self, image: &ImageRecord, container_id: &str) -> Result<PathBuf> {
        rootfs::check_id(container_id)?;
        let files = &self.inner.files;
        let _mounting = lock(&self.inner.mounting);
        let known = lock(&self.inner.state)
            .containers
            .get(container_id)
            .cloned();
        let container = match known {
            Some(container) => container,
            None => {
                let mut state = lock(&self.inner.state);
                if !state.images.contains_key(&image.id) {
                    return Err(ImageError::NoSuchImage {
                        reference: image.display_name(),
                    });
                }
                let container = Container {
                    image: image.id.clone(),
                    chain: spec::chain_ids(&image.diff_ids),
                };
                files.create_container(container_id, &container)?;
                state
                    .containers
                    .insert(container_id.to_owned(), container.clone());
                container
            }
        };
        files.mount_container(container_id, &container)
    }

    /// Unmounts a container's root file system and deletes what was written to it. One that does
    /// not exist is no error.
    ///
    /// # Errors
    /// When the kernel refuses, or what was written cannot be deleted.
    pub fn unmount_rootfs(&self, container_id: &str) -> Result<()> {
        rootfs::check_id(container_id)?;
        let trash = {
            let _mounting = lock(&self.inner.mounting);
            let trash = self.inner.files.remove_container(container_id)?;
            lock(&self.inner.state).containers.remove(container_id);
            trash
        };
        drop(trash);
        Ok(())
    }

    pub(crate) fn registries(&self) -> &RegistryOptions {
        &self.inner.registries
    }

    pub(crate) fn downloads(&self) -> &Shared<Digest, Blob> {
        &self.inner.downloads
    }

    pub(crate) fn temp_dir(&self) -> Result<Scratch> {
        self.inner.files.temp_dir()
    }

    /// Keeps the layers of these chain ids while the result lives.
    pub(crate) fn pin(&self, chains: &[Digest]) -> impl Send + Sync + 'static + use<> {
        self.inner.pins.pin(chains)
    }

    /// Whether this layer is here.
    pub(crate) fn has_layer(&self, chain: &Digest) -> Result<bool> {
        Ok(self.inner.files.layer_meta(chain)?.is_some())
    }

    /// Unpacks a layer unless it is here. `chain` is its chain, base first, itself last; all below
    /// it must be here, and all must be pinned. Blocks.
    pub(crate) fn add_layer<R: Read>(
        &self,
        diff_id: &Digest,
        chain: &[Digest],
        open: impl FnOnce() -> Result<R>,
    ) -> Result<()> {
        let Some(id) = chain.last() else {
            return Ok(());
        };
        self.inner.unpacking.with(id, || {
            if self.has_layer(id)? {
                return Ok(());
            }
            // Without its description it is not a layer but in the way.
            drop(self.inner.files.discard(&self.inner.files.layer(id))?);
            self.inner
                .files
                .import_layer(open()?, diff_id, chain)
                .map(drop)
        })
    }

    /// Records an image whose layers are here and pinned, under `names` (tagged) and `digests`.
    pub(crate) fn add_image(
        &self,
        config: &[u8],
        names: &[Reference],
        digests: &[Reference],
    ) -> Result<ImageRecord> {
        let doc = ConfigDoc::parse(config)?;
        let files = &self.inner.files;
        let mut size = 0;
        for chain in spec::chain_ids(&doc.rootfs.diff_ids) {
            let meta = files
                .layer_meta(&chain)?
                .ok_or_else(|| ImageError::MalformedImage {
                    what: "layer",
                    reason: format!("{chain} is missing from the store"),
                })?;
            size += meta.size;
        }
        self.change(|state| {
            let id = files.put_blob(config)?;
            let entry = state.images.entry(id.clone()).or_insert_with(|| Entry {
                size,
                digests: BTreeSet::new(),
                doc,
            });
            entry.digests.extend(digests.iter().cloned());
            for name in names {
                state.names.insert(name.clone(), id.clone());
            }
            state.record(&id).ok_or(ImageError::NoSuchImage {
                reference: id.to_string(),
            })
        })
    }

    /// Runs `edit` on the state; what it changed becomes durable or is undone.
    fn change<T>(&self, edit: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = lock(&self.inner.state);
        let before = state.clone();
        let result = edit(&mut state).and_then(|out| {
            state.save(&self.inner.files)?;
            Ok(out)
        });
        if result.is_err() {
            *state = before;
        }
        result
    }
}
