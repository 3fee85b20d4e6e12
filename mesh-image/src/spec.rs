//! The JSON documents of the OCI image specification and of Docker's archives, as far as needed.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::record::{ImageConfig, or_default};
use crate::registry::Platform;

/// Bytes a manifest, an index or a configuration may have. Registries refuse manifests over 4 MiB;
/// configurations with a long history are larger. Past it, the image is refused.
pub(crate) const MAX_DOCUMENT: u64 = 8 << 20;
/// Layers an image may have: overlayfs takes 500, Docker 127; the mount options must fit one page.
pub(crate) const MAX_LAYERS: usize = 128;

/// Media type of an OCI image manifest.
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI index.
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an OCI image configuration.
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of a layer that is a plain tar.
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Media type of a Docker manifest, version 2.
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media type of a Docker manifest list.
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Annotation with the full name, as containerd and Docker write it.
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Reference to content by digest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    #[serde(default)]
    pub(crate) size: u64,
    pub(crate) platform: Option<Platform>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Whether an index means an image by it, and not, say, an attestation of one.
    pub(crate) fn is_image(&self) -> bool {
        let is_known = |platform: &Platform| platform.os != "unknown";
        !self.annotations.contains_key("vnd.docker.reference.type")
            && self.platform.as_ref().is_none_or(is_known)
    }
}

/// A manifest or an index: which one shows by what it has.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ManifestDoc {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) config: Option<Descriptor>,
    pub(crate) layers: Option<Vec<Descriptor>>,
    pub(crate) manifests: Option<Vec<Descriptor>>,
}

/// An image configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ConfigDoc {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) author: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) config: ImageConfig,
    pub(crate) rootfs: RootfsDoc,
}

/// The layers of an image configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RootfsDoc {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) diff_ids: Vec<Digest>,
}

impl ConfigDoc {
    /// Parses a configuration and checks what the rest of the crate relies on.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let doc: Self = parse("config", bytes)?;
        let fail = |reason: String| {
            Err(ImageError::MalformedImage {
                what: "config",
                reason,
            })
        };
        if doc.rootfs.kind != "layers" && !doc.rootfs.diff_ids.is_empty() {
            return fail(format!(
                "rootfs type is \"{}\", expected layers",
                doc.rootfs.kind
            ));
        }
        if doc.rootfs.diff_ids.len() > MAX_LAYERS {
            return fail(format!(
                "it has {} layers, more than the {MAX_LAYERS} that can be mounted",
                doc.rootfs.diff_ids.len()
            ));
        }
        if !doc.os.is_empty() && doc.os != "linux" {
            return fail(format!(
                "it is for the operating system \"{}\", not linux",
                doc.os
            ));
        }
        Ok(doc)
    }
}

/// One image in the `manifest.json` of a `docker save` archive.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SavedImage {
    pub(crate) config: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) layers: Vec<String>,
}

/// Parses a JSON document called `what` in errors.
pub(crate) fn parse<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| ImageError::MalformedImage {
        what,
        reason: e.to_string(),
    })
}

/// Chain ids of the layers with these diff ids, base first: each names a layer together with
/// everything below it.
pub(crate) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = match chain.last() {
            Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
            None => diff_id.clone(),
        };
        chain.push(id);
    }
    chain
}

/// The manifest for `wanted` in an index. Attestations and other non-images are passed over.
pub(crate) fn choose<'a>(manifests: &'a [Descriptor], wanted: &Platform) -> Option<&'a Descriptor> {
    let images = || manifests.iter().filter(|m| m.is_image());
    let fits = |m: &&Descriptor| m.platform.as_ref().is_some_and(|p| wanted.accepts(p));
    images()
        .find(fits)
        .or_else(|| images().find(|m| m.platform.is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_follow_the_specification() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let chain = chain_ids(&[a.clone(), b.clone()]);
        assert_eq!(chain[0], a);
        assert_eq!(chain[1], Digest::of(format!("{a} {b}").as_bytes()));
    }

    #[test]
    fn index_entries_are_chosen_by_platform() {
        let entry = |os: &str, arch: &str| Descriptor {
            media_type: OCI_MANIFEST.into(),
            digest: Digest::of(arch.as_bytes()),
            size: 1,
            platform: Some(Platform {
                os: os.into(),
                architecture: arch.into(),
                variant: None,
            }),
            annotations: BTreeMap::new(),
        };
        let list = [
            entry("unknown", "unknown"),
            entry("linux", "arm64"),
            entry("linux", "amd64"),
        ];
        let amd64 = Platform::parse("linux/amd64");
        assert_eq!(choose(&list, &amd64).unwrap().digest, Digest::of(b"amd64"));
        assert!(choose(&list[..2], &amd64).is_none());
    }

    #[test]
    fn configurations_that_cannot_be_run_are_refused() {
        for bad in [
            r#"{"os":"windows"}"#,
            r#"{"os":"linux","rootfs":{"type":"base","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#,
            r#"{"rootfs":{"type":"layers","diff_ids":["../../etc"]}}"#,
            "[",
        ] {
            assert!(ConfigDoc::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
