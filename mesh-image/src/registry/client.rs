//! One registry as seen by one pull: which scheme it answers to, its manifests and blobs, and its
//! errors in our words.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use futures::stream::BoxStream;
use oci_client::client::LayerDescriptor;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;

use super::failure::{self, Asked};
use super::{Credentials, RegistryOptions};
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::reference::{DEFAULT_REGISTRY, Reference, is_loopback};
use crate::spec::{
    DOCKER_LIST, DOCKER_MANIFEST, Descriptor, MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST,
};

/// Time to reach a registry; past it the next address or mirror is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time without a single byte after which a transfer counts as broken.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const ACCEPTED: &[&str] = &[OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];

/// A registry that answered, and the repository asked for.
pub(super) struct Remote {
    client: oci_client::Client,
    auth: RegistryAuth,
    /// `host[:port]` spoken to: a mirror's or the reference's own.
    host: String,
    reference: Reference,
}

/// A place to ask.
struct Place {
    host: String,
    https: bool,
}

impl Remote {
    /// Finds the place that answers for `reference`: mirrors first, TLS before plain HTTP where
    /// both are allowed. Returns it with the manifest it gave.
    pub(super) async fn find(
        options: &RegistryOptions,
        reference: &Reference,
        credentials: &Credentials,
    ) -> Result<(Self, Bytes)> {
        let mut first_error: Option<ImageError> = None;
        for place in places(options, reference) {
            let remote = Self {
                client: client(options, &place)?,
                auth: auth_of(credentials),
                host: place.host.clone(),
                reference: reference.clone(),
            };
            let (error, reached) = match remote.top_manifest().await {
                Ok(bytes) => return Ok((remote, bytes)),
                Err(failure) => failure,
            };
            let is_mirror = place.host != reference.registry();
            if is_mirror {
                tracing::warn!(mirror = place.host, %error, "mirror did not answer, asking on");
            } else if reached {
                return Err(error);
            } else {
                first_error = Some(failure::join(first_error, error));
            }
        }
        Err(first_error.unwrap_or_else(|| ImageError::Registry {
            registry: reference.registry().to_owned(),
            reason: "no place to ask is configured".into(),
        }))
    }

    /// The manifest of the reference itself. The error comes with whether the registry was reached
    /// at all: only if not, another scheme is worth a try.
    async fn top_manifest(&self) -> Result<Bytes, (ImageError, bool)> {
        match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => {
                let bytes = self.fetch(&self.by_digest(digest)).await?;
                self.check_manifest(digest, &bytes).map_err(|e| (e, true))?;
                Ok(bytes)
            }
            (None, tag) => {
                let target = oci_client::Reference::with_tag(
                    self.host.clone(),
                    self.reference.path().to_owned(),
                    tag.unwrap_or(crate::reference::DEFAULT_TAG).to_owned(),
                );
                self.fetch(&target).await
            }
        }
    }

    /// A manifest by digest, checked.
    pub(super) async fn manifest(&self, digest: &Digest) -> Result<Bytes> {
        let target = self.by_digest(digest);
        let bytes = self.fetch(&target).await.map_err(|(error, _)| error)?;
        self.check_manifest(digest, &bytes)?;
        Ok(bytes)
    }

    fn check_manifest(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        let what = format_args!("manifest of {}", self.reference);
        digest.check(&Digest::of(bytes), what)
    }

    async fn fetch(&self, target: &oci_client::Reference) -> Result<Bytes, (ImageError, bool)> {
        let answer = self
            .client
            .pull_manifest_raw(target, &self.auth, ACCEPTED)
            .await;
        let (bytes, _) = answer.map_err(|error| {
            let reached = match &error {
                OciDistributionError::RequestError(e) => failure::is_certificate_problem(e),
                _ => true,
            };
            (self.asked().explain(error), reached)
        })?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            let what = format!("the manifest of {}", self.reference);
            let limit = format!("{} MiB", MAX_DOCUMENT >> 20);
            return Err((ImageError::TooLarge { what, limit }, true));
        }
        Ok(bytes)
    }

    /// The bytes of a blob, not checked here.
    pub(super) async fn blob(&self, digest: &Digest) -> Result<Pieces> {
        let name = digest.to_string();
        let descriptor = LayerDescriptor {
            digest: &name,
            urls: &None,
        };
        let target = self.by_digest(digest);
        let sized = self
            .client
            .pull_blob_stream(&target, &descriptor)
            .await
            .map_err(|e| self.asked().explain(e))?;
        Ok(sized.stream)
    }

    /// A small blob, checked.
    pub(super) async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let what = format!("blob {} of {}", descriptor.digest, self.reference);
        let mut stream = self.blob(&descriptor.digest).await?;
        let mut bytes = Vec::new();
        loop {
            let piece = match stream.try_next().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                // The client's own check of the digest ends the stream with an error; ours below
                // says it better.
                Err(_) if bytes.len() as u64 == descriptor.size => break,
                Err(e) => return Err(self.broken(&e)),
            };
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > MAX_DOCUMENT {
                let limit = format!("{} MiB", MAX_DOCUMENT >> 20);
                return Err(ImageError::TooLarge { what, limit });
            }
        }
        descriptor.digest.check(&Digest::of(&bytes), what)?;
        Ok(bytes)
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            host: &self.host,
            reference: &self.reference,
        }
    }

    /// A transfer that broke.
    pub(super) fn broken(&self, error: &std::io::Error) -> ImageError {
        ImageError::Registry {
            registry: self.host.clone(),
            reason: failure::chain(error),
        }
    }

    fn by_digest(&self, digest: &Digest) -> oci_client::Reference {
        let path = self.reference.path().to_owned();
        oci_client::Reference::with_digest(self.host.clone(), path, digest.to_string())
    }
}

/// Where to ask, in order.
fn places(options: &RegistryOptions, reference: &Reference) -> Vec<Place> {
    let own = reference.registry();
    let mirrors = options.mirrors.iter().filter(|_| own == DEFAULT_REGISTRY);
    let hosts = mirrors.map(String::as_str).chain([own]);
    hosts
        .flat_map(|host| {
            let plain = (is_loopback(host) || options.insecure.iter().any(|i| i == host))
                && !has_certs(options, host);
            let schemes: &[bool] = if plain { &[true, false] } else { &[true] };
            schemes.iter().map(|&https| Place {
                host: host.to_owned(),
                https,
            })
        })
        .collect()
}

fn certs(options: &RegistryOptions, host: &str) -> Option<std::path::PathBuf> {
    options.certs_dir.as_ref().map(|dir| dir.join(host))
}

fn has_certs(options: &RegistryOptions, host: &str) -> bool {
    certs(options, host).is_some_and(|dir| dir.is_dir())
}

fn client(options: &RegistryOptions, place: &Place) -> Result<oci_client::Client> {
    prepare_tls()?;
    let protocol = match place.https {
        true => ClientProtocol::Https,
        false => ClientProtocol::Http,
    };
    let extra_root_certificates = match certs(options, &place.host) {
        Some(dir) if dir.is_dir() => read_certs(&dir)?,
        _ => Vec::new(),
    };
    let config = ClientConfig {
        protocol,
        extra_root_certificates,
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        platform_resolver: None,
        user_agent: concat!("mesh/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    oci_client::Client::try_from(config).map_err(|e| ImageError::Registry {
        registry: place.host.clone(),
        reason: format!("its CA certificate cannot be used: {e}"),
    })
}

/// All `*.crt` files of a directory.
fn read_certs(dir: &Path) -> Result<Vec<Certificate>> {
    let fail = |e| ImageError::io("read", dir, e);
    let mut certificates = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.extension().is_some_and(|ext| ext == "crt") {
            let data = std::fs::read(&path).map_err(|e| ImageError::io("read", &path, e))?;
            certificates.push(Certificate {
                encoding: CertificateEncoding::Pem,
                data,
            });
        }
    }
    Ok(certificates)
}

/// The HTTP client takes the process's crypto provider, and panics where the machine has no CA
/// certificates at all; both are seen to before.
fn prepare_tls() -> Result<()> {
    static READY: OnceLock<()> = OnceLock::new();
    if READY.get().is_some() {
        return Ok(());
    }
    // Another part of the program may have installed it: the same one, so that is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if rustls_native_certs::load_native_certs().certs.is_empty() {
        return Err(ImageError::NoRootCertificates);
    }
    let _ = READY.set(());
    Ok(())
}

fn auth_of(credentials: &Credentials) -> RegistryAuth {
    match credentials.clone() {
        Credentials::Anonymous => RegistryAuth::Anonymous,
        Credentials::Basic { username, password } => RegistryAuth::Basic(username, password),
        Credentials::Token(token) => RegistryAuth::Bearer(token),
    }
}

/// Keeps the stream type in one place.
pub(super) type Pieces = BoxStream<'static, std::io::Result<Bytes>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(options: &RegistryOptions, reference: &str) -> Vec<(String, bool)> {
        let reference = Reference::parse(reference).unwrap();
        places(options, &reference)
            .into_iter()
            .map(|p| (p.host, p.https))
            .collect()
    }

    #[test]
    fn plain_http_is_for_loopback_and_listed_registries_only() {
        let options = RegistryOptions {
            insecure: vec!["10.0.0.1:5000".into()],
            mirrors: vec!["127.0.0.1:5001".into(), "mirror.example".into()],
            ..RegistryOptions::default()
        };
        let both = |host: &str| vec![(host.to_owned(), true), (host.to_owned(), false)];
        assert_eq!(asked(&options, "localhost:5000/x"), both("localhost:5000"));
        assert_eq!(asked(&options, "10.0.0.1:5000/x"), both("10.0.0.1:5000"));
        assert_eq!(
            asked(&options, "10.0.0.2:5000/x"),
            [("10.0.0.2:5000".into(), true)]
        );
        let mut hub = both("127.0.0.1:5001");
        hub.extend([("mirror.example".into(), true), ("docker.io".into(), true)]);
        assert_eq!(asked(&options, "nginx"), hub);
    }

    #[test]
    fn a_registry_with_certificates_is_never_asked_in_the_clear() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("localhost:5000")).unwrap();
        let options = RegistryOptions {
            certs_dir: Some(dir.path().to_path_buf()),
            ..RegistryOptions::default()
        };
        assert_eq!(
            asked(&options, "localhost:5000/x"),
            [("localhost:5000".into(), true)]
        );
    }
}
