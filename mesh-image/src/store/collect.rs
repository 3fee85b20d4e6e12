//! Taking images away, and the layers and blobs that nothing needs any more.

use std::collections::BTreeSet;

use super::layers::{self, lock};
use super::scratch::Scratch;
use super::state::{Named, State};
use super::{ImageStore, files};
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::reference::Reference;
use crate::spec;

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

impl ImageStore {
    /// Removes a name, and the image with its last name. An image named by id must have at most
    /// one name unless `force`. An image that a container uses loses at most its names, and its
    /// last one only with `force`.
    ///
    /// # Errors
    /// When there is no such image, when what is said above forbids it, and when the disk refuses.
    pub fn remove(&self, name: &str, force: bool) -> Result<Removed> {
        let mut removed = Removed::default();
        self.change(|state| {
            let named = state.find(name)?;
            let id = named.id().clone();
            let tags: Vec<Reference> = state.tags_of(&id).cloned().collect();
            let going = match &named {
                Named::Tag(tag, _) => vec![tag.clone()],
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
        drop(trash);
        removed.deleted.extend(chains);
        Ok(removed)
    }

    /// Removes images without a name (with `all`: every image no container uses) and layers
    /// nothing refers to.
    ///
    /// # Errors
    /// When the disk refuses.
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
        drop(trash);
        pruned.removed.deleted.extend(chains);
        Ok(pruned)
    }

    /// Takes layers and blobs nothing refers to out of the store; dropping the returned
    /// directories frees the space. Only after the state that no longer needs them is durable.
    pub(super) fn collect(&self, state: &State) -> Result<(Vec<Digest>, Vec<Scratch>)> {
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
