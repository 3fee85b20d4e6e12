//! A registry of Debian's `docker-registry` on a loopback port, and images pushed to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mesh_image::build::{ArchiveBuilder, LayerBuilder};
use mesh_image::{Digest, ImageConfig};
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::manifest::{OciImageIndex, OciImageManifest};
use oci_client::secrets::RegistryAuth;

/// User and password of a registry with `auth`.
pub(crate) const USER: (&str, &str) = ("user", "secret");
/// bcrypt of the password.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
/// Time a registry may take to listen.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A registry, stopped when dropped.
pub(crate) struct Registry {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
    tls: bool,
    auth: bool,
}

impl Registry {
    /// Starts one, with TLS by a CA of its own and with basic auth, as asked.
    pub(crate) fn start(tls: bool, auth: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n",
            at("data")
        );
        // It takes a free port and says in its log which one.
        config += "http:\n  addr: 127.0.0.1:0\n";
        if tls {
            make_certificates(dir.path());
            config += &format!(
                "  tls: {{certificate: {}, key: {}}}\n",
                at("server.crt"),
                at("server.key")
            );
        }
        if auth {
            fs::write(dir.path().join("htpasswd"), HTPASSWD).unwrap();
            config += &format!(
                "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
                at("htpasswd")
            );
        }
        fs::write(dir.path().join("config.yml"), config).unwrap();
        let child = Command::new("docker-registry")
            .args(["serve", &at("config.yml")])
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .expect("docker-registry must be installed: `cargo xtask setup` does it");
        let mut registry = Self {
            child,
            dir,
            port: 0,
            tls,
            auth,
        };
        registry.port = registry.wait();
        registry
    }

    /// Waits until it listens, and returns the port.
    fn wait(&mut self) -> u16 {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            if let Some((_, port)) = log.split_once("listening on 127.0.0.1:")
                && let Some((port, _)) = port.split_once(|c: char| !c.is_ascii_digit())
            {
                return port.parse().expect("a port");
            }
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "docker-registry ended: {log}"
            );
            assert!(
                Instant::now() < deadline,
                "docker-registry does not listen: {log}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `localhost:<port>`
    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// A directory as `/etc/docker/certs.d` that holds this registry's CA certificate.
    pub(crate) fn certs_dir(&self) -> PathBuf {
        let dir = self.dir.path().join("certs.d");
        let own = dir.join(self.host());
        fs::create_dir_all(&own).unwrap();
        fs::copy(self.dir.path().join("ca.crt"), own.join("ca.crt")).unwrap();
        dir
    }

    /// Where the registry keeps a blob.
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let blobs = self.dir.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    fn client(&self) -> (oci_client::Client, RegistryAuth) {
        // Installed once per process; a second time is refused and harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut config = ClientConfig {
            protocol: if self.tls {
                ClientProtocol::Https
            } else {
                ClientProtocol::Http
            },
            ..ClientConfig::default()
        };
        if self.tls {
            config.extra_root_certificates = vec![oci_client::client::Certificate {
                encoding: oci_client::client::CertificateEncoding::Pem,
                data: fs::read(self.dir.path().join("ca.crt")).unwrap(),
            }];
        }
        let auth = match self.auth {
            true => RegistryAuth::Basic(USER.0.into(), USER.1.into()),
            false => RegistryAuth::Anonymous,
        };
        (oci_client::Client::try_from(config).unwrap(), auth)
    }

    /// Pushes an image with gzip layers; returns its manifest and what its digest is.
    pub(crate) async fn push(
        &self,
        name: &str,
        image: &ArchiveBuilder,
    ) -> (OciImageManifest, Digest) {
        let (client, auth) = self.client();
        let reference: oci_client::Reference = format!("{}/{name}", self.host()).parse().unwrap();
        let layers: Vec<_> = image
            .layers()
            .iter()
            .map(|tar| ImageLayer::oci_v1_gzip(gzip(tar), None))
            .collect();
        let config = Config::oci_v1(image.config_bytes(), None);
        let manifest = OciImageManifest::build(&layers, &config, None);
        client
            .push(&reference, &layers, config, &auth, Some(manifest.clone()))
            .await
            .unwrap();
        let (_, digest) = client
            .pull_manifest_raw(
                &reference,
                &auth,
                &["application/vnd.oci.image.manifest.v1+json"],
            )
            .await
            .unwrap();
        (manifest, digest.parse().unwrap())
    }

    /// Pushes an index of manifests that are in the repository.
    pub(crate) async fn push_index(&self, name: &str, index: &OciImageIndex) {
        let (client, auth) = self.client();
        let reference: oci_client::Reference = format!("{}/{name}", self.host()).parse().unwrap();
        client
            .push_manifest_list(&reference, &auth, index.clone())
            .await
            .unwrap();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A CA and a certificate of it for localhost, as files.
fn make_certificates(dir: &Path) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name
        .push(rcgen::DnType::CommonName, "test CA");
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    fs::write(dir.join("ca.crt"), ca_certificate.pem()).unwrap();
    fs::write(dir.join("server.crt"), certificate.pem()).unwrap();
    fs::write(dir.join("server.key"), key.serialize_pem()).unwrap();
}

/// An image of `layers` layers with one file each.
pub(crate) fn image(layers: usize, content: &str) -> ArchiveBuilder {
    let mut image = ArchiveBuilder::new("unused:1", ImageConfig::default());
    for at in 0..layers {
        let mut layer = LayerBuilder::new();
        layer
            .file(
                &format!("file{at}"),
                0o644,
                format!("{content} {at}").as_bytes(),
            )
            .unwrap();
        image = image.layer(layer.finish().unwrap());
    }
    image
}

/// Compresses, reproducibly.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}
