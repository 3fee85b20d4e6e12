//! Pulling: manifest, configuration, then layers, downloaded side by side and unpacked in order.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{OnceCell, mpsc};

use super::client::{Pieces, Remote};
use super::{Credentials, Distribution, Platform, PullOptions};
use crate::digest::{Digest, Verifier};
use crate::error::{ImageError, Result};
use crate::progress::{ProgressEvent, ProgressFn};
use crate::record::ImageRecord;
use crate::reference::Reference;
use crate::spec::{self, ConfigDoc, Descriptor, ManifestDoc};
use crate::store::{ImageStore, Scratch};
use crate::unpack::MAX_LAYER_BYTES;

/// Layers of one image downloaded at a time, as Docker's default.
const PARALLEL_DOWNLOADS: usize = 3;
/// Times a broken transfer is tried in all.
const ATTEMPTS: u32 = 5;
/// Wait before the second attempt; doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Bytes between two progress lines.
const PROGRESS_STEP: u64 = 512 << 10;
/// Indexes may name indexes; no honest image goes deeper.
const MAX_DEPTH: usize = 3;

/// A downloaded and verified blob, deleted when dropped.
pub(crate) struct Blob {
    path: PathBuf,
    _dir: Scratch,
}

type SharedBlob = Arc<OnceCell<Blob>>;

/// One layer to fetch.
struct Layer {
    at: usize,
    descriptor: Descriptor,
}

impl ImageStore {
    /// Pulls `reference` and records it. Layers that are here already are not fetched again;
    /// concurrent pulls of the same layer fetch it once. Cancel by dropping the future.
    ///
    /// A reference with a digest gets no tag, as with Docker.
    ///
    /// # Errors
    /// When the registry cannot be reached, refuses or does not have it, when what it sends disagrees with its digest, and
    /// when the disk refuses.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: &ProgressFn,
    ) -> Result<ImageRecord> {
        let what = reference.digest().map(ToString::to_string);
        let what = what
            .or(reference.tag().map(str::to_owned))
            .unwrap_or_default();
        progress(ProgressEvent::about(
            what,
            format!("Pulling from {}", reference.path()),
        ));
        let (remote, top) =
            Remote::find(self.registries(), reference, &options.credentials).await?;
        let top_digest = Digest::of(&top);
        let platform = options.platform.clone().unwrap_or_else(Platform::host);
        let manifest = self
            .image_manifest(&remote, reference, &top, &platform)
            .await?;
        let (Some(config), Some(layers)) = (manifest.config, manifest.layers) else {
            let reason = "it has neither layers nor manifests".into();
            return Err(ImageError::MalformedImage {
                what: "manifest",
                reason,
            });
        };
        let config = remote.document(&config).await?;
        let doc = ConfigDoc::parse(&config)?;
        let diff_ids = doc.rootfs.diff_ids;
        if layers.len() != diff_ids.len() {
            let (names, has) = (layers.len(), diff_ids.len());
            let reason = format!("it names {names} layers, the configuration {has}");
            return Err(ImageError::MalformedImage {
                what: "manifest",
                reason,
            });
        }
        let known = self.get(&Digest::of(&config).to_string()).is_ok();
        let chain = spec::chain_ids(&diff_ids);
        let _pin = self.pin(&chain);
        self.fetch_layers(&remote, layers, &diff_ids, &chain, progress)
            .await?;

        let pinned = Reference::parse(&format!("{}@{top_digest}", reference.repository()))?;
        let names: Vec<Reference> = reference
            .digest()
            .is_none()
            .then(|| reference.clone())
            .into_iter()
            .collect();
        let record = self.add_image(&config, &names, &[pinned])?;
        progress(ProgressEvent::line(format!("Digest: {top_digest}")));
        let status = if known {
            "Image is up to date for"
        } else {
            "Downloaded newer image for"
        };
        progress(ProgressEvent::line(format!("Status: {status} {reference}")));
        Ok(record)
    }

    /// Asks the registry which manifest `reference` stands for now, and for which platforms.
    ///
    /// # Errors
    /// When the registry cannot be reached, refuses or does not have it.
    pub async fn resolve_digest(
        &self,
        reference: &Reference,
        credentials: &Credentials,
    ) -> Result<Distribution> {
        let (remote, top) = Remote::find(self.registries(), reference, credentials).await?;
        let manifest: ManifestDoc = spec::parse("manifest", &top)?;
        let platforms = match (&manifest.manifests, &manifest.config) {
            (Some(manifests), _) => manifests
                .iter()
                .filter(|m| m.is_image())
                .filter_map(|m| m.platform.clone())
                .collect(),
            (None, Some(config)) => {
                let doc = ConfigDoc::parse(&remote.document(config).await?)?;
                vec![Platform {
                    os: doc.os,
                    architecture: doc.architecture,
                    variant: doc.variant,
                }]
            }
            (None, None) => Vec::new(),
        };
        let media_type = match manifest.media_type.as_str() {
            "" if manifest.manifests.is_some() => spec::OCI_INDEX.to_owned(),
            "" => spec::OCI_MANIFEST.to_owned(),
            given => given.to_owned(),
        };
        Ok(Distribution {
            digest: Digest::of(&top),
            media_type,
            size: top.len() as u64,
            platforms,
        })
    }

    /// Goes from an index to the manifest for `platform`.
    async fn image_manifest(
        &self,
        remote: &Remote,
        reference: &Reference,
        top: &[u8],
        platform: &Platform,
    ) -> Result<ManifestDoc> {
        let mut manifest: ManifestDoc = spec::parse("manifest", top)?;
        for _ in 0..MAX_DEPTH {
            let Some(manifests) = &manifest.manifests else {
                return Ok(manifest);
            };
            let chosen =
                spec::choose(manifests, platform).ok_or_else(|| ImageError::NoPlatform {
                    reference: reference.to_string(),
                    platform: platform.to_string(),
                })?;
            let bytes = remote.manifest(&chosen.digest).await?;
            manifest = spec::parse("manifest", &bytes)?;
        }
        let reason = "its indexes are nested too deeply".into();
        Err(ImageError::MalformedImage {
            what: "manifest",
            reason,
        })
    }

    /// Downloads what is missing, a few at a time, while what has arrived is unpacked in order.
    async fn fetch_layers(
        &self,
        remote: &Remote,
        layers: Vec<Descriptor>,
        diff_ids: &[Digest],
        chain: &[Digest],
        progress: &ProgressFn,
    ) -> Result<()> {
        let mut missing = Vec::new();
        for (at, descriptor) in layers.into_iter().enumerate() {
            let here = self.has_layer(&chain[at])?;
            let status = if here {
                "Already exists"
            } else {
                "Pulling fs layer"
            };
            progress(ProgressEvent::about(descriptor.digest.short(), status));
            if !here {
                missing.push(Layer { at, descriptor });
            }
        }
        let (arrived, mut to_unpack) = mpsc::channel(PARALLEL_DOWNLOADS);
        let download = async move {
            let mut downloads = futures::stream::iter(missing)
                .map(|layer| self.download(remote, layer, progress))
                .buffered(PARALLEL_DOWNLOADS);
            while let Some(layer) = downloads.try_next().await? {
                // The other side only goes away with an error of its own, which is the one to tell.
                if arrived.send(layer).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        let unpack = async {
            while let Some((layer, blob)) = to_unpack.recv().await {
                let short = layer.descriptor.digest.short();
                let total = Some(layer.descriptor.size);
                progress(ProgressEvent::bar(short, "Extracting", 0, total));
                let (store, diff_id) = (self.clone(), diff_ids[layer.at].clone());
                let below = chain[..=layer.at].to_vec();
                let pin = self.pin(chain);
                tokio::task::spawn_blocking(move || {
                    // Goes on when the pull is cancelled, so it keeps its own pin.
                    let _pin = pin;
                    let open = || match blob.get() {
                        Some(blob) => std::fs::File::open(&blob.path)
                            .map_err(|e| ImageError::io("open", &blob.path, e)),
                        None => Err(ImageError::Interrupted {
                            reason: "download lost".into(),
                        }),
                    };
                    store.add_layer(&diff_id, &below, open)
                })
                .await
                .map_err(|e| ImageError::Interrupted {
                    reason: e.to_string(),
                })??;
                progress(ProgressEvent::about(short, "Pull complete"));
            }
            Ok(())
        };
        tokio::try_join!(download, unpack).map(drop)
    }

    async fn download(
        &self,
        remote: &Remote,
        layer: Layer,
        progress: &ProgressFn,
    ) -> Result<(Layer, SharedBlob)> {
        let cell = self.downloads().cell(&layer.descriptor.digest);
        cell.get_or_try_init(|| self.download_retrying(remote, &layer.descriptor, progress))
            .await?;
        progress(ProgressEvent::about(
            layer.descriptor.digest.short(),
            "Download complete",
        ));
        Ok((layer, cell))
    }

    async fn download_retrying(
        &self,
        remote: &Remote,
        descriptor: &Descriptor,
        progress: &ProgressFn,
    ) -> Result<Blob> {
        let mut wait = FIRST_WAIT;
        for attempt in 1.. {
            match self.download_once(remote, descriptor, progress).await {
                Err(error @ ImageError::Registry { .. }) if attempt < ATTEMPTS => {
                    tracing::warn!(blob = %descriptor.digest, attempt, %error, "trying again");
                    let status = format!("Retrying in {} ms", wait.as_millis());
                    progress(ProgressEvent::about(descriptor.digest.short(), status));
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
                other => return other,
            }
        }
        unreachable!("the last attempt returns")
    }

    async fn download_once(
        &self,
        remote: &Remote,
        descriptor: &Descriptor,
        progress: &ProgressFn,
    ) -> Result<Blob> {
        let dir = self.temp_dir()?;
        let path = dir.path().join("blob");
        let stream = remote.blob(&descriptor.digest).await?;
        let file = tokio::fs::File::create(&path)
            .await
            .map_err(|e| ImageError::io("create", &path, e))?;
        save(remote, stream, file, descriptor, &path, progress).await?;
        Ok(Blob { path, _dir: dir })
    }
}

/// Writes a stream to a file and checks its size and digest on the way.
async fn save(
    remote: &Remote,
    mut stream: Pieces,
    file: tokio::fs::File,
    descriptor: &Descriptor,
    path: &std::path::Path,
    progress: &ProgressFn,
) -> Result<()> {
    let short = descriptor.digest.short();
    let limit = if descriptor.size > 0 {
        descriptor.size
    } else {
        MAX_LAYER_BYTES
    };
    let mut file = tokio::io::BufWriter::with_capacity(1 << 20, file);
    let mut hash = Verifier::new(std::io::sink());
    let mut told = 0;
    let failed = |e| ImageError::io("write", path, e);
    let ended = loop {
        let piece = match stream.next().await {
            Some(Ok(piece)) => piece,
            Some(Err(error)) => break Some(error),
            None => break None,
        };
        std::io::Write::write_all(&mut hash, &piece).map_err(failed)?;
        if hash.count() > limit {
            let what = format!("blob {}", descriptor.digest);
            return Err(ImageError::TooLarge {
                what,
                limit: format!("{limit} bytes"),
            });
        }
        file.write_all(&piece).await.map_err(failed)?;
        if hash.count() - told >= PROGRESS_STEP {
            told = hash.count();
            progress(ProgressEvent::bar(
                short,
                "Downloading",
                told,
                Some(descriptor.size),
            ));
        }
    };
    file.flush().await.map_err(failed)?;
    let (_, digest, bytes) = hash.finish();
    // A transfer that broke off is worth another try, one that arrived whole but wrong is not.
    if let Some(error) = ended
        && bytes < limit
    {
        return Err(remote.broken(&error));
    }
    if descriptor.size > 0 && bytes < descriptor.size {
        let error = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        return Err(remote.broken(&error));
    }
    progress(ProgressEvent::about(short, "Verifying Checksum"));
    descriptor
        .digest
        .check(&digest, format_args!("blob {}", descriptor.digest))
}
