//! Unpacked layers: made once per chain id, durable before they are visible, removed when nothing
//! refers to them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use super::files::{self, Files};
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::unpack;

/// What `layer.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LayerMeta {
    /// Full chain id: names this layer and all below it.
    pub(super) chain: Digest,
    /// Digest of the uncompressed tar.
    pub(super) diff_id: Digest,
    /// Chain id of the layer below.
    pub(super) parent: Option<Digest>,
    /// Bytes of file content.
    pub(super) size: u64,
}

/// Which layers to keep although no image names them yet.
#[derive(Default)]
pub(super) struct Pins(Mutex<HashMap<Digest, usize>>);

/// Keeps layers from being collected until dropped.
pub(super) struct Pin {
    pins: Arc<Pins>,
    chains: Vec<Digest>,
}

impl Pins {
    pub(super) fn pin(self: &Arc<Self>, chains: &[Digest]) -> Pin {
        let mut pins = lock(&self.0);
        for chain in chains {
            *pins.entry(chain.clone()).or_default() += 1;
        }
        Pin {
            pins: self.clone(),
            chains: chains.to_vec(),
        }
    }

    pub(super) fn contains(&self, chain: &Digest) -> bool {
        lock(&self.0).contains_key(chain)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = lock(&self.pins.0);
        for chain in &self.chains {
            if let Some(count) = pins.get_mut(chain) {
                *count -= 1;
                if *count == 0 {
                    pins.remove(chain);
                }
            }
        }
    }
}

/// Blocking locks by key.
#[derive(Default)]
pub(super) struct KeyedLocks(Mutex<HashMap<Digest, Arc<Mutex<()>>>>);

impl KeyedLocks {
    pub(super) fn with<T>(&self, key: &Digest, work: impl FnOnce() -> T) -> T {
        let entry = lock(&self.0).entry(key.clone()).or_default().clone();
        let result = {
            let _held = lock(&entry);
            work()
        };
        drop(entry);
        lock(&self.0).retain(|_, entry| Arc::strong_count(entry) > 1);
        result
    }
}

impl Files {
    /// What is known of a layer, if it is here.
    pub(super) fn layer_meta(&self, chain: &Digest) -> Result<Option<LayerMeta>> {
        let path = self.layer(chain).join("layer.json");
        match fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            _ => {}
        }
        let meta: LayerMeta = crate::spec::parse("layer", &files::read(&path)?)?;
        if meta.chain != *chain {
            let what = format!("stored layer {}", path.display());
            chain.check(&meta.chain, what)?;
        }
        Ok(Some(meta))
    }

    /// Unpacks a layer whose chain is `chain` (base first, itself last) and whose tar must have the
    /// digest `diff_id`. The caller holds the lock of its chain id.
    pub(super) fn import_layer(
        &self,
        reader: impl Read,
        diff_id: &Digest,
        chain: &[Digest],
    ) -> Result<LayerMeta> {
        let (id, below) = chain
            .split_last()
            .ok_or_else(|| ImageError::MalformedImage {
                what: "layer",
                reason: "it has no chain id".into(),
            })?;
        let parents: Vec<PathBuf> = below
            .iter()
            .rev()
            .map(|parent| self.layer(parent).join("diff"))
            .collect();
        let temp = self.temp_dir()?;
        let work = temp.path().join("layer");
        let diff = work.join("diff");
        files::make_dir(&diff)?;
        // Without an entry for it, the top directory is as every root directory is.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&diff, open).map_err(|e| ImageError::io("change", &diff, e))?;
        let unpacked = unpack::unpack(reader, &diff, &parents)?;
        diff_id.check(&unpacked.diff_id, format_args!("layer {}", diff_id.short()))?;
        let meta = LayerMeta {
            chain: id.clone(),
            diff_id: diff_id.clone(),
            parent: below.last().cloned(),
            size: unpacked.size,
        };
        let json = serde_json::to_vec(&meta)
            .map_err(|e| ImageError::io("encode", &work, io::Error::other(e)))?;
        let path = work.join("layer.json");
        fs::write(&path, json).map_err(|e| ImageError::io("write", &path, e))?;
        sync_file_system(&work)?;
        let target = self.layer(id);
        fs::rename(&work, &target).map_err(|e| ImageError::io("create", &target, e))?;
        files::sync_parent(&target).map_err(|e| ImageError::io("create", &target, e))?;
        Ok(meta)
    }
}

/// Everything written so far reaches the disk: cheaper than one fsync per unpacked file.
fn sync_file_system(path: &Path) -> Result<()> {
    let dir = File::open(path).map_err(|e| ImageError::io("open", path, e))?;
    // SAFETY: the descriptor is open for the length of the call, which touches no memory of ours.
    let result = unsafe { libc::syncfs(dir.as_raw_fd()) };
    if result != 0 {
        return Err(ImageError::io("sync", path, io::Error::last_os_error()));
    }
    Ok(())
}

/// Locks, also after a panic elsewhere: the data behind these locks is valid at every step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_count() {
        let pins = Arc::new(Pins::default());
        let id = Digest::of(b"x");
        let first = pins.pin(std::slice::from_ref(&id));
        let second = pins.pin(std::slice::from_ref(&id));
        drop(first);
        assert!(pins.contains(&id));
        drop(second);
        assert!(!pins.contains(&id));
    }
}
