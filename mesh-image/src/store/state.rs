//! Which images and names there are. In memory, with `state.json` as its durable form.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::files::Files;
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::record::ImageRecord;
use crate::reference::Reference;
use crate::spec::{self, ConfigDoc};

/// Fewest digits of an id that name an image.
const MIN_ID_PREFIX: usize = 4;

/// One image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Unpacked size of all layers, bytes.
    pub(super) size: u64,
    /// Names by digest, without tag.
    #[serde(default)]
    pub(super) digests: BTreeSet<Reference>,
    /// The configuration, read from its blob at open.
    #[serde(skip)]
    pub(super) doc: ConfigDoc,
}

/// A container's root file system and what it is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Container {
    pub(super) image: Digest,
    /// Chain ids, base first.
    pub(super) chain: Vec<Digest>,
}

/// Everything that is durable in `state.json`, and the containers found in their directories.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    pub(super) images: BTreeMap<Digest, Entry>,
    /// Tagged names.
    pub(super) names: BTreeMap<Reference, Digest>,
    #[serde(skip)]
    pub(super) containers: BTreeMap<String, Container>,
}

/// How a user's word named an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    /// By a tagged name.
    Tag(Reference, Digest),
    /// By name and digest, by id or by its prefix.
    Id(Digest),
}

impl Named {
    pub(super) fn id(&self) -> &Digest {
        match self {
            Self::Tag(_, id) | Self::Id(id) => id,
        }
    }
}

impl State {
    /// Reads `state.json`; images whose content is incomplete are dropped with a warning.
    pub(super) fn load(files: &Files) -> Result<Self> {
        let path = files.state();
        let mut state: Self = match path.exists() {
            true => spec::parse(
                "store state",
                &std::fs::read(&path).map_err(|e| ImageError::io("read", &path, e))?,
            )?,
            false => Self::default(),
        };
        let mut broken = Vec::new();
        for (id, entry) in &mut state.images {
            match complete(files, id) {
                Ok(doc) => entry.doc = doc,
                Err(error) => {
                    tracing::warn!(image = %id, %error, "image is damaged and was dropped");
                    broken.push(id.clone());
                }
            }
        }
        state.images.retain(|id, _| !broken.contains(id));
        let images = &state.images;
        state.names.retain(|_, id| images.contains_key(id));
        Ok(state)
    }

    pub(super) fn save(&self, files: &Files) -> Result<()> {
        files.write_json(&files.state(), self)
    }

    /// What `word` names: a reference, an id, or a unique id prefix.
    pub(super) fn find(&self, word: &str) -> Result<Named> {
        let missing = || ImageError::NoSuchImage {
            reference: word.chars().take(300).collect(),
        };
        let hex = word.strip_prefix("sha256:").unwrap_or(word);
        let is_hex = !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
        if !word.starts_with("sha256:")
            && let Ok(reference) = Reference::parse(word)
        {
            if let Some(named) = self.find_reference(&reference) {
                return Ok(named);
            }
            if !is_hex {
                return Err(ImageError::NoSuchImage {
                    reference: reference.to_string(),
                });
            }
        }
        if !is_hex || hex.len() > 64 || hex.len() < MIN_ID_PREFIX {
            return Err(missing());
        }
        let hex = hex.to_ascii_lowercase();
        let mut found = self.images.keys().filter(|id| id.hex().starts_with(&hex));
        let first = found.next().ok_or_else(missing)?;
        match found.count() {
            0 => Ok(Named::Id(first.clone())),
            more => Err(ImageError::AmbiguousId {
                prefix: word.to_owned(),
                matches: more + 1,
            }),
        }
    }

    fn find_reference(&self, reference: &Reference) -> Option<Named> {
        let Some(digest) = reference.digest() else {
            let id = self.names.get(reference)?;
            return Some(Named::Tag(reference.clone(), id.clone()));
        };
        let same_repository = |known: &Reference| {
            known.registry() == reference.registry() && known.path() == reference.path()
        };
        let found = self.images.iter().find(|(id, entry)| {
            let mut digests = entry.digests.iter();
            digests.any(|known| same_repository(known) && known.digest() == Some(digest))
                || (*id == digest && self.tags_of(id).any(same_repository))
        });
        found.map(|(id, _)| Named::Id(id.clone()))
    }

    /// The record of an image.
    pub(super) fn record(&self, id: &Digest) -> Option<ImageRecord> {
        let entry = self.images.get(id)?;
        Some(ImageRecord {
            id: id.clone(),
            repo_tags: self.tags_of(id).map(ToString::to_string).collect(),
            repo_digests: entry.digests.iter().map(ToString::to_string).collect(),
            size: entry.size,
            created: entry.doc.created.clone(),
            architecture: entry.doc.architecture.clone(),
            os: entry.doc.os.clone(),
            variant: entry.doc.variant.clone(),
            author: entry.doc.author.clone(),
            diff_ids: entry.doc.rootfs.diff_ids.clone(),
            config: entry.doc.config.clone(),
        })
    }

    /// Tagged names of an image.
    pub(super) fn tags_of<'a>(&'a self, id: &'a Digest) -> impl Iterator<Item = &'a Reference> {
        self.names
            .iter()
            .filter(move |(_, of)| *of == id)
            .map(|(name, _)| name)
    }

    /// A container made of this image, if there is one.
    pub(super) fn container_of(&self, id: &Digest) -> Option<&str> {
        self.containers
            .iter()
            .find(|(_, c)| c.image == *id)
            .map(|(name, _)| name.as_str())
    }

    /// Chain ids that images and containers need.
    pub(super) fn needed_layers(&self) -> BTreeSet<Digest> {
        let of_images = self
            .images
            .values()
            .flat_map(|entry| spec::chain_ids(&entry.doc.rootfs.diff_ids));
        let of_containers = self
            .containers
            .values()
            .flat_map(|c| c.chain.iter().cloned());
        of_images.chain(of_containers).collect()
    }
}

/// Reads an image's configuration and checks that all its layers are here.
fn complete(files: &Files, id: &Digest) -> Result<ConfigDoc> {
    let doc = ConfigDoc::parse(&files.get_blob(id)?)?;
    for chain in spec::chain_ids(&doc.rootfs.diff_ids) {
        if files.layer_meta(&chain)?.is_none() {
            let reason = format!("layer {chain} is missing from the store");
            return Err(ImageError::MalformedImage {
                what: "layer",
                reason,
            });
        }
    }
    Ok(doc)
}
