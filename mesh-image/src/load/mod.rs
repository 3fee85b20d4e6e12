//! Reading image archives: OCI layouts and `docker save` output (also the hybrid of both that
//! Docker writes since version 25).

mod layout;
mod saved;
mod spool;

use std::io::Read;

use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::runtime::Handle;

use self::spool::Spool;
use crate::error::{ImageError, Result};
use crate::progress::{ProgressEvent, ProgressFn};
use crate::reference::Reference;
use crate::spec::{self, ConfigDoc};
use crate::store::{ImageStore, LoadedImage};

/// An image found in an archive: its configuration, and its layers by their place in the archive.
struct Found {
    config: Vec<u8>,
    layers: Vec<spool::Member>,
    names: Vec<Reference>,
}

/// An asynchronous reader for a thread that may block.
struct Blocking<R> {
    reader: R,
    runtime: Handle,
}

impl<R: AsyncRead + Unpin> Read for Blocking<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.runtime.block_on(self.reader.read(buf))
    }
}

impl ImageStore {
    /// Loads all images of an archive: an OCI layout or `docker save` output, plain or compressed
    /// with gzip or zstd. Either all images of the archive get their names or none does.
    ///
    /// # Errors
    /// When the archive is torn, of another form, or disagrees with its digests, and when the disk refuses.
    pub async fn load(
        &self,
        archive: impl AsyncRead + Send + Unpin + 'static,
        progress: &ProgressFn,
    ) -> Result<Vec<LoadedImage>> {
        let (store, progress) = (self.clone(), progress.clone());
        let archive = Blocking {
            reader: archive,
            runtime: Handle::current(),
        };
        tokio::task::spawn_blocking(move || store.load_blocking(archive, &progress))
            .await
            .map_err(|e| ImageError::Interrupted {
                reason: e.to_string(),
            })?
    }

    /// [`load`](Self::load) from a blocking reader, for threads that may block.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_blocking(
        &self,
        archive: impl Read,
        progress: &ProgressFn,
    ) -> Result<Vec<LoadedImage>> {
        let spool = Spool::fill(archive, self.temp_dir()?)?;
        let found = if spool.has(saved::MANIFEST) {
            saved::read(&spool)?
        } else if spool.has(layout::INDEX) {
            layout::read(&spool)?
        } else {
            return Err(ImageError::archive(
                "it has neither manifest.json (docker save) nor index.json (OCI layout)",
            ));
        };
        if found.is_empty() {
            return Err(ImageError::archive("it holds no image"));
        }
        // All layers of all images before the first name: a bad archive changes nothing.
        let mut pins = Vec::new();
        for image in &found {
            pins.push(self.load_layers(image, progress)?);
        }
        found
            .iter()
            .map(|image| {
                let record = self.add_image(&image.config, &image.names, &[])?;
                Ok(LoadedImage {
                    id: record.id,
                    references: image.names.clone(),
                })
            })
            .collect()
    }

    fn load_layers(
        &self,
        image: &Found,
        progress: &ProgressFn,
    ) -> Result<impl Send + Sync + 'static + use<>> {
        let doc = ConfigDoc::parse(&image.config)?;
        let diff_ids = &doc.rootfs.diff_ids;
        if diff_ids.len() != image.layers.len() {
            return Err(ImageError::archive(format!(
                "the configuration names {} layers, the manifest {}",
                diff_ids.len(),
                image.layers.len()
            )));
        }
        let chain = spec::chain_ids(diff_ids);
        let pin = self.pin(&chain);
        for (at, (diff_id, member)) in diff_ids.iter().zip(&image.layers).enumerate() {
            if self.has_layer(&chain[at])? {
                continue;
            }
            let short = diff_id.short().to_owned();
            progress(ProgressEvent::bar(
                &short,
                "Loading layer",
                0,
                Some(member.size),
            ));
            self.add_layer(diff_id, &chain[..=at], || member.open())?;
            progress(ProgressEvent::bar(
                &short,
                "Loading layer",
                member.size,
                Some(member.size),
            ));
        }
        Ok(pin)
    }
}
