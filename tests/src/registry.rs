//! A registry with passwords in the client's namespace, with the test image in it.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use mesh_image::{Digest, build::ArchiveBuilder};

use crate::{
    image,
    rig::{Rig, UP_LIMIT},
    wait::eventually,
};

/// Its port.
pub const PORT: u16 = 5000;

/// The image's name in it, without the registry.
pub const REPOSITORY: &str = "team/whoami";

/// The user it knows, with the password "secret".
const USER: &str = "user";

/// bcrypt of the password.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A running registry; ends when dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    dir: PathBuf,
    /// Digest of the image's manifest.
    pub digest: String,
}

impl Registry {
    /// Starts it with the test image as [`REPOSITORY`], tag 1, and waits until it listens. It speaks
    /// plain HTTP.
    ///
    /// # Errors
    /// When `docker-registry` is not installed or does not listen.
    pub fn start(rig: &Rig) -> Result<Self> {
        let dir = rig.dir().join("registry");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let digest = fill(&image::whoami()?, &dir.join("data"))?;
        let at = |name: &str| dir.join(name).display().to_string();
        fs::write(at("htpasswd"), HTPASSWD)?;
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nhttp: {{addr: 0.0.0.0:{PORT}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\n\
             auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            at("data"),
            at("htpasswd")
        );
        fs::write(at("config.yml"), config)?;
        let log = File::create(at("log"))?;
        let child = rig
            .client
            .command("docker-registry", None)?
            .args(["serve", &at("config.yml")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start docker-registry: `cargo xtask setup` installs it")?;
        let registry = Self {
            child,
            dir: dir.clone(),
            digest,
        };
        eventually("the registry to listen", UP_LIMIT, || {
            rig.client.enter(|| {
                TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))
                    .map(drop)
                    .with_context(|| fs::read_to_string(at("log")).unwrap_or_default())
            })
        })?;
        Ok(registry)
    }

    /// A folder as `~/.docker`, with what `docker login` would have written for this password.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn login(&self, host: &str, password: &str) -> Result<PathBuf> {
        let dir = self.dir.join(format!("login-{password}"));
        fs::create_dir_all(&dir)?;
        let pair = STANDARD.encode(format!("{USER}:{password}"));
        let config = serde_json::json!({ "auths": { host: { "auth": pair } } });
        fs::write(dir.join("config.json"), config.to_string())?;
        Ok(dir)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lays the image out as the registry keeps images; gives its manifest's digest.
fn fill(image: &ArchiveBuilder, data: &Path) -> Result<String> {
    let root = data.join("docker/registry/v2");
    let repository = root.join("repositories").join(REPOSITORY);
    let put = |path: PathBuf, bytes: &[u8]| -> Result<()> {
        let dir = path.parent().context("a file is in a folder")?;
        fs::create_dir_all(dir)?;
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    for blob in image.blobs() {
        let digest = Digest::of(&blob);
        let hex = digest.hex();
        let place = root.join("blobs/sha256").join(&hex[..2]).join(hex);
        put(place.join("data"), &blob)?;
        let link = repository.join("_layers/sha256").join(hex).join("link");
        put(link, digest.to_string().as_bytes())?;
    }
    let manifest = Digest::of(&image.manifest_bytes());
    let hex = manifest.hex();
    for place in [
        format!("_manifests/revisions/sha256/{hex}/link"),
        "_manifests/tags/1/current/link".to_owned(),
        format!("_manifests/tags/1/index/sha256/{hex}/link"),
    ] {
        put(repository.join(place), manifest.to_string().as_bytes())?;
    }
    Ok(manifest.to_string())
}
