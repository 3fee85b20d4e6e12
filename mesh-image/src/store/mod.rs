//! The store: which images, tags and layers are on this machine, and root file systems made of them.

mod files;
mod layers;
mod rootfs;
mod state;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use self::files::Files;
use self::layers::{KeyedLocks, Pins, lock};
use self::state::{Container, Entry, Named, State};
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
        empty(trash);
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

    /// Removes a name, and the image with its last name. An image named by id must have at most
    /// one name unless `force`. An image that a container uses loses at most its names, and its
    /// last one only with `force`.
    pub fn remove(&self, name: &str, force: bool) -> Result<Removed> {
        let mut removed = Removed::default();
        self.change(|state| {
            let named = state.find(name)?;
            let id = named.id().clone();
            let tags: Vec<Reference> = state.tags_of(&id).cloned().collect();
            let going = match &named {
                Named::Tag(tag, _) => vec![tag.clone()],
                Named::Digest(..) if tags.len() > 1 && !force => {
                    return Err(ImageError::SeveralTags {
                        id: id.short().to_owned(),
                    });
                }
                Named::Id(_) if tags.len() > 1 && !force => {
                    return Err(ImageError::SeveralTags {
                        id: id.short().to_owned(),
                    });
                }
                _ => tags.clone(),
            };
            let last = going.len() == tags.len();
            if last && let Some(container) = state.container_of(&id) {
                let by_tag = matches!(named, Named::Tag(..));
                if !(force && by_tag) {
                    return Err(ImageError::InUse {
                        reference: name.to_owned(),
                        container: container.to_owned(),
                    });
                }
            }
            for tag in &going {
                state.names.remove(tag);
                removed.untagged.push(tag.to_string());
            }
            if last && state.container_of(&id).is_none() {
                delete_image(state, &id, &mut removed);
            }
            Ok(())
        })?;
        let (chains, trash) = self.collect(&lock(&self.inner.state))?;
        empty(trash);
        removed.deleted.extend(chains);
        Ok(removed)
    }

    /// Removes images without a name (with `all`: every image no container uses) and layers
    /// nothing refers to.
    pub fn prune(&self, all: bool) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        let before = self.layer_bytes(&lock(&self.inner.state));
        self.change(|state| {
            let going: Vec<Digest> = state
                .images
                .keys()
                .filter(|id| all || state.tags_of(id).next().is_none())
                .filter(|id| state.container_of(id).is_none())
                .cloned()
                .collect();
            for id in going {
                let tags: Vec<Reference> = state.tags_of(&id).cloned().collect();
                for tag in tags {
                    state.names.remove(&tag);
                    pruned.removed.untagged.push(tag.to_string());
                }
                delete_image(state, &id, &mut pruned.removed);
            }
            Ok(())
        })?;
        let (chains, trash) = {
            let state = lock(&self.inner.state);
            pruned.bytes = before.saturating_sub(self.layer_bytes(&state));
            self.collect(&state)?
        };
        empty(trash);
        pruned.removed.deleted.extend(chains);
        Ok(pruned)
    }

    /// Mounts a writable root file system of `image` for `container_id`. Asked again for the
    /// same container, it returns the mount that is there, or mounts again with what was written.
    pub fn mount_rootfs(&self, image: &ImageRecord, container_id: &str) -> Result<RootFs> {
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
        Ok(RootFs {
            path: files.mount_container(container_id, &container)?,
        })
    }

    /// Unmounts a container's root file system and deletes what was written to it. One that does
    /// not exist is no error.
    pub fn unmount_rootfs(&self, container_id: &str) -> Result<()> {
        rootfs::check_id(container_id)?;
        let _mounting = lock(&self.inner.mounting);
        self.inner.files.remove_container(container_id)?;
        lock(&self.inner.state).containers.remove(container_id);
        Ok(())
    }

    /// Containers that have a root file system here, mounted or not, with the image each was made of.
    pub fn rootfs_list(&self) -> Vec<(String, Digest)> {
        let state = lock(&self.inner.state);
        state
            .containers
            .iter()
            .map(|(id, c)| (id.clone(), c.image.clone()))
            .collect()
    }

    pub(crate) fn registries(&self) -> &RegistryOptions {
        &self.inner.registries
    }

    pub(crate) fn downloads(&self) -> &Shared<Digest, Blob> {
        &self.inner.downloads
    }

    pub(crate) fn temp_dir(&self) -> Result<TempDir> {
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
            empty(
                self.inner
                    .files
                    .discard(&self.inner.files.layer(id))?
                    .into_iter()
                    .collect(),
            );
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
                updated: 0,
                digests: BTreeSet::new(),
                doc,
            });
            entry.updated = state::now();
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

    /// Takes layers and blobs nothing refers to out of the store; deleting the returned
    /// directories frees the space. Only after the state that no longer needs them is durable.
    fn collect(&self, state: &State) -> Result<(Vec<Digest>, Vec<TempDir>)> {
        let files = &self.inner.files;
        let needed = state.needed_layers();
        let keys: BTreeSet<&str> = needed.iter().map(files::layer_key).collect();
        let (mut chains, mut trash) = (Vec::new(), Vec::new());
        for name in files::list(&files.layers())? {
            let Some(key) = name.to_str().filter(|key| !keys.contains(key)) else {
                continue;
            };
            let path = files.layers().join(key);
            let meta = files::read(&path.join("layer.json"))
                .and_then(|bytes| spec::parse::<layers::LayerMeta>("layer", &bytes));
            if let Ok(meta) = &meta
                && self.inner.pins.contains(&meta.chain)
            {
                continue;
            }
            trash.extend(files.discard(&path)?);
            chains.extend(meta.ok().map(|meta| meta.chain));
        }
        let blobs: BTreeSet<&str> = state.images.keys().map(Digest::hex).collect();
        for name in files::list(&files.root.join("blobs"))? {
            if name.to_str().is_none_or(|name| !blobs.contains(name)) {
                trash.extend(files.discard(&files.root.join("blobs").join(&name))?);
            }
        }
        Ok((chains, trash))
    }

    /// Bytes of all layers that images and containers need.
    fn layer_bytes(&self, state: &State) -> u64 {
        let sizes = state.needed_layers().into_iter().filter_map(|chain| {
            self.inner
                .files
                .layer_meta(&chain)
                .ok()
                .flatten()
                .map(|meta| meta.size)
        });
        sizes.sum()
    }
}

fn delete_image(state: &mut State, id: &Digest, removed: &mut Removed) {
    if let Some(entry) = state.images.remove(id) {
        removed
            .untagged
            .extend(entry.digests.iter().map(ToString::to_string));
        removed.deleted.push(id.clone());
    }
}

/// Deletes what was taken out of the store. A failure costs space until the next start.
fn empty(trash: Vec<TempDir>) {
    for dir in trash {
        let path = dir.path().to_path_buf();
        if let Err(error) = dir.close() {
            tracing::warn!(path = %path.display(), %error, "cannot delete, will try at next start");
        }
    }
}
