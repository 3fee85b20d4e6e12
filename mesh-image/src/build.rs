//! Makes image archives from files in memory: the image of the demo, the benches and the tests. Not a builder of
//! Dockerfiles.
//!
//! The output is reproducible: equal input gives equal bytes, so equal image ids.

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::digest::Digest;
use crate::record::ImageConfig;
use crate::registry::Platform;
use crate::spec::{
    CONTAINERD_NAME, ConfigDoc, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, RootfsDoc,
    SavedImage,
};

/// The layer being filled: a tar, uncompressed.
pub struct LayerBuilder {
    tar: tar::Builder<Vec<u8>>,
}

impl Default for LayerBuilder {
    fn default() -> Self {
        let mut tar = tar::Builder::new(Vec::new());
        tar.mode(tar::HeaderMode::Deterministic);
        Self { tar }
    }
}

impl LayerBuilder {
    /// An empty layer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file owned by root; `mode` are the permission bits (`0o755`).
    ///
    /// # Errors
    /// When the path does not fit a tar header, or the archive cannot be written.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<&mut Self> {
        self.add(path, mode, tar::EntryType::Regular, content, None)
    }

    /// Adds a directory owned by root.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn directory(&mut self, path: &str, mode: u32) -> io::Result<&mut Self> {
        self.add(path, mode, tar::EntryType::Directory, &[], None)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<&mut Self> {
        self.add(path, 0o777, tar::EntryType::Symlink, &[], Some(target))
    }

    /// Adds another name of a file that was added before.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn hard_link(&mut self, path: &str, target: &str) -> io::Result<&mut Self> {
        self.add(path, 0o644, tar::EntryType::Link, &[], Some(target))
    }

    /// Adds a file of this machine under `path`.
    ///
    /// # Errors
    /// As [`file`](Self::file), and when `from` cannot be read.
    pub fn copy(&mut self, path: &str, mode: u32, from: &Path) -> io::Result<&mut Self> {
        let content = std::fs::read(from)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", from.display())))?;
        self.file(path, mode, &content)
    }

    /// Ends the layer: the tar's bytes.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        self.tar.into_inner()
    }

    fn add(
        &mut self,
        path: &str,
        mode: u32,
        kind: tar::EntryType,
        content: &[u8],
        link: Option<&str>,
    ) -> io::Result<&mut Self> {
        let path = path.trim_start_matches('/');
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        match link {
            Some(target) => self.tar.append_link(&mut header, path, target)?,
            None => self.tar.append_data(&mut header, path, content)?,
        }
        Ok(self)
    }
}

/// An image in memory, to be written as an archive.
#[derive(Debug, Clone)]
pub struct ArchiveBuilder {
    name: String,
    platform: Platform,
    created: String,
    config: ImageConfig,
    layers: Vec<Vec<u8>>,
}

impl ArchiveBuilder {
    /// An image called `name` (with tag) for this machine's platform, with these defaults.
    pub fn new(name: impl Into<String>, config: ImageConfig) -> Self {
        Self {
            name: name.into(),
            platform: Platform::host(),
            created: "1970-01-01T00:00:00Z".into(),
            config,
            layers: Vec::new(),
        }
    }

    /// Sets the platform.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Sets when it was made, RFC 3339.
    pub fn created(mut self, at: impl Into<String>) -> Self {
        self.created = at.into();
        self
    }

    /// Adds a layer: the bytes of an uncompressed tar, as [`LayerBuilder::finish`] gives them.
    pub fn layer(mut self, tar: Vec<u8>) -> Self {
        self.layers.push(tar);
        self
    }

    /// The image configuration's bytes; their digest is the image id.
    pub fn config_bytes(&self) -> Vec<u8> {
        let doc = ConfigDoc {
            architecture: self.platform.architecture.clone(),
            os: self.platform.os.clone(),
            variant: self.platform.variant.clone(),
            created: Some(self.created.clone()),
            author: None,
            config: self.config.clone(),
            rootfs: RootfsDoc {
                kind: "layers".into(),
                diff_ids: self.layers.iter().map(|layer| Digest::of(layer)).collect(),
            },
        };
        bytes(&doc)
    }

    /// The OCI manifest's bytes; their digest is what registries know the image by.
    pub fn manifest_bytes(&self) -> Vec<u8> {
        let layers = self.layers.iter();
        let layers: Vec<_> = layers.map(|tar| descriptor(OCI_LAYER, tar)).collect();
        bytes(&json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, &self.config_bytes()),
            "layers": layers,
        }))
    }

    /// The layers' bytes, base first.
    pub fn layers(&self) -> &[Vec<u8>] {
        &self.layers
    }

    /// Everything that the manifest names, and the manifest.
    pub fn blobs(&self) -> Vec<Vec<u8>> {
        let documents = [self.config_bytes(), self.manifest_bytes()];
        self.layers.iter().cloned().chain(documents).collect()
    }

    /// Writes it as an OCI image layout.
    ///
    /// # Errors
    /// When `out` takes no more.
    pub fn write_oci(&self, out: impl Write) -> io::Result<()> {
        let mut named = descriptor(OCI_MANIFEST, &self.manifest_bytes());
        named["annotations"] = json!({ CONTAINERD_NAME: self.name });
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [named] });
        let mut tar = Members::new(out);
        tar.put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        tar.put("index.json", &bytes(&index))?;
        for blob in self.blobs() {
            tar.put(&format!("blobs/sha256/{}", Digest::of(&blob).hex()), &blob)?;
        }
        tar.finish()
    }

    /// Writes it as `docker save` does.
    ///
    /// # Errors
    /// As [`write_oci`](Self::write_oci).
    pub fn write_docker(&self, out: impl Write) -> io::Result<()> {
        let mut tar = Members::new(out);
        let config = self.config_bytes();
        let config_name = format!("{}.json", Digest::of(&config).hex());
        let names: Vec<String> = self
            .layers
            .iter()
            .map(|layer| format!("{}/layer.tar", Digest::of(layer).hex()))
            .collect();
        let mut written = std::collections::BTreeSet::new();
        for (name, layer) in names.iter().zip(&self.layers) {
            if written.insert(name) {
                tar.put(name, layer)?;
            }
        }
        tar.put(&config_name, &config)?;
        let manifest = [SavedImage {
            config: config_name,
            repo_tags: vec![self.name.clone()],
            layers: names,
        }];
        tar.put("manifest.json", &bytes(&manifest))?;
        tar.finish()
    }
}

struct Members<W: Write>(tar::Builder<W>);

impl<W: Write> Members<W> {
    fn new(out: W) -> Self {
        Self(tar::Builder::new(out))
    }

    fn put(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        self.0.append_data(&mut header, name, content)
    }

    fn finish(self) -> io::Result<()> {
        self.0.into_inner()?.flush()
    }
}

/// These documents hold only strings, numbers and maps with string keys: encoding cannot fail.
fn bytes(document: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("plain data encodes")
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(blob), "size": blob.len() })
}
