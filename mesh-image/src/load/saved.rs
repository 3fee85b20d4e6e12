//! `docker save` archives: `manifest.json` names configuration and layer files.

use super::Found;
use super::spool::Spool;
use crate::error::{ImageError, Result};
use crate::reference::Reference;
use crate::spec::SavedImage;

/// The file that lists the images.
pub(super) const MANIFEST: &str = "manifest.json";

/// Finds the images of an archive.
pub(super) fn read(spool: &Spool) -> Result<Vec<Found>> {
    let bytes = spool.document(MANIFEST)?;
    let images: Vec<SavedImage> = serde_json::from_slice(&bytes)
        .map_err(|e| ImageError::archive(format!("{MANIFEST}: {e}")))?;
    images.into_iter().map(|image| find(spool, image)).collect()
}

fn find(spool: &Spool, image: SavedImage) -> Result<Found> {
    let names = image
        .repo_tags
        .iter()
        .map(|name| {
            let bad = || ImageError::archive(format!("\"{name}\" is not a tagged image name"));
            Reference::parse(name)
                .ok()
                .filter(|r| r.digest().is_none())
                .ok_or_else(bad)
        })
        .collect::<Result<_>>()?;
    let layers = image
        .layers
        .iter()
        .map(|name| spool.get(name))
        .collect::<Result<_>>()?;
    Ok(Found {
        config: spool.document(&image.config)?,
        layers,
        names,
    })
}
