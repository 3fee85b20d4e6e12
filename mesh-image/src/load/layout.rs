//! OCI image layouts: `index.json` names manifests, manifests name blobs, all by digest.

use super::Found;
use super::spool::Spool;
use crate::error::{ImageError, Result};
use crate::reference::Reference;
use crate::registry::Platform;
use crate::spec::{self, CONTAINERD_NAME, Descriptor, ManifestDoc};

/// The file that lists the images.
pub(super) const INDEX: &str = "index.json";
/// How many indexes may lie inside one another.
const MAX_DEPTH: usize = 4;
/// Name or only a tag, as the specification has it.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Finds the images of an archive: one per entry of its index, for this machine where there is a
/// choice of platforms.
pub(super) fn read(spool: &Spool) -> Result<Vec<Found>> {
    let index = spool.document(INDEX)?;
    let index: ManifestDoc =
        serde_json::from_slice(&index).map_err(|e| ImageError::archive(format!("{INDEX}: {e}")))?;
    let entries = index.manifests.unwrap_or_default();
    let images: Vec<&Descriptor> = entries.iter().filter(|entry| entry.is_image()).collect();
    // One name on several entries means one image for several platforms.
    let mut found: Vec<Found> = Vec::new();
    let host = Platform::host();
    for entry in &images {
        let name = name_of(entry);
        let fits = |entry: &Descriptor| entry.platform.as_ref().is_none_or(|p| host.accepts(p));
        let better = images
            .iter()
            .any(|other| name.is_some() && name_of(other) == name && fits(other) && !fits(entry));
        if !better {
            found.push(find(spool, entry, name, 0)?);
        }
    }
    Ok(found)
}

fn find(spool: &Spool, entry: &Descriptor, name: Option<Reference>, depth: usize) -> Result<Found> {
    let bytes = spool.blob_document(&entry.digest)?;
    let manifest: ManifestDoc = spec::parse("manifest", &bytes)?;
    if let Some(manifests) = manifest.manifests {
        let host = Platform::host();
        let chosen = spec::choose(&manifests, &host)
            .or_else(|| manifests.first().filter(|_| manifests.len() == 1))
            .filter(|_| depth < MAX_DEPTH)
            .ok_or_else(|| ImageError::archive(format!("it has no image for {host}")))?;
        let name = name.or_else(|| name_of(chosen));
        return find(spool, chosen, name, depth + 1);
    }
    let (Some(config), Some(layers)) = (manifest.config, manifest.layers) else {
        let digest = &entry.digest;
        return Err(ImageError::archive(format!(
            "{digest} is neither a manifest nor an index"
        )));
    };
    Ok(Found {
        config: spool.blob_document(&config.digest)?,
        layers: layers
            .iter()
            .map(|layer| spool.blob(&layer.digest))
            .collect::<Result<_>>()?,
        names: name.into_iter().collect(),
    })
}

/// The image name an index entry carries. A bare tag is no name.
fn name_of(entry: &Descriptor) -> Option<Reference> {
    let full = entry.annotations.get(CONTAINERD_NAME);
    let name = full.or_else(|| {
        entry
            .annotations
            .get(REF_NAME)
            .filter(|name| name.contains(['/', ':']))
    })?;
    Reference::parse(name).ok()?.tagged()
}
