//! A registry with passwords in the client's namespace, with the test image in it.

use std::{
    fs::{self, File},
    io::Read,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::{image, rig::Rig, rig::UP_LIMIT, wait::eventually};

/// Its port.
pub const PORT: u16 = 5000;

/// The image's name in it, without the registry.
pub const REPOSITORY: &str = "team/whoami";

/// The user it knows, with the password "secret".
pub const USER: &str = "user";

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
        let digest = fill(&image::whoami_archive(&dir)?, &dir.join("data"))?;
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

/// Lays an OCI archive out as the registry keeps images; gives the manifest's digest.
fn fill(archive: &Path, data: &Path) -> Result<String> {
    let root = data.join("docker/registry/v2");
    let repository = root.join("repositories").join(REPOSITORY);
    let put = |path: PathBuf, bytes: &[u8]| -> Result<()> {
        let dir = path.parent().context("a file is in a folder")?;
        fs::create_dir_all(dir)?;
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    let mut digest = String::new();
    let file = File::open(archive).with_context(|| format!("cannot open {}", archive.display()))?;
    for entry in tar::Archive::new(file).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        if name == "index.json" {
            let index: Value = serde_json::from_slice(&bytes)?;
            let found = index["manifests"][0]["digest"].as_str();
            digest = found.context("the index names no manifest")?.to_owned();
        } else if let Some(hex) = name.strip_prefix("blobs/sha256/") {
            put(
                root.join("blobs/sha256")
                    .join(&hex[..2])
                    .join(hex)
                    .join("data"),
                &bytes,
            )?;
            let link = format!("sha256:{hex}");
            put(
                repository.join("_layers/sha256").join(hex).join("link"),
                link.as_bytes(),
            )?;
        }
    }
    let hex = digest
        .strip_prefix("sha256:")
        .context("no index in the archive")?;
    for place in [
        format!("_manifests/revisions/sha256/{hex}/link"),
        "_manifests/tags/1/current/link".to_owned(),
        format!("_manifests/tags/1/index/sha256/{hex}/link"),
    ] {
        put(repository.join(place), digest.as_bytes())?;
    }
    Ok(digest)
}
