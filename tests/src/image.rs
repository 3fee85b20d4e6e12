//! The image that demo, tests and benches run: whoami and busybox, both static, in an OCI archive.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use crate::netns::run;

/// Name of the image once it is loaded.
pub const WHOAMI: &str = "whoami:latest";

/// Where `cargo xtask build` puts the static whoami, below the target folder.
const STATIC_WHOAMI: &str = "image/whoami";

/// Debian's busybox-static.
const BUSYBOX: &str = "/bin/busybox";

/// Writes the OCI archive of [`WHOAMI`] into a folder; gives its path.
///
/// # Errors
/// When whoami was not built or busybox is missing, or the archive cannot be written.
pub fn whoami_archive(dir: &Path) -> Result<PathBuf> {
    let whoami = fs::read(static_whoami()?).context("cannot read the static whoami")?;
    let busybox = fs::read(BUSYBOX)
        .with_context(|| format!("cannot read {BUSYBOX}: `cargo xtask setup` installs it"))?;
    let applets = run(BUSYBOX, &["--list"])?;
    let layer = layer(&whoami, &busybox, &applets)?;
    let path = dir.join("whoami.tar");
    write_archive(&path, WHOAMI, &layer, &["/bin/whoami"])?;
    Ok(path)
}

/// The host name of the replica that gave this answer.
///
/// # Errors
/// When the text is not an answer of whoami.
pub fn replica(answer: &str) -> Result<String> {
    field(answer, "Hostname").map(str::to_owned)
}

/// The client as the replica saw it.
///
/// # Errors
/// When the text is not an answer of whoami.
pub fn client(answer: &str) -> Result<SocketAddr> {
    let seen = field(answer, "Client")?;
    seen.parse()
        .with_context(|| format!("no address in {seen:?}"))
}

fn field<'a>(answer: &'a str, name: &str) -> Result<&'a str> {
    answer
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        .with_context(|| format!("no {name} in the answer {answer:?}"))
}

/// The whoami that `cargo xtask build` linked statically: it also runs outside of images.
///
/// # Errors
/// When it was not built.
pub fn static_whoami() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    own.ancestors()
        .skip(2)
        .take(2)
        .map(|dir| dir.join(STATIC_WHOAMI))
        .find(|path| path.is_file())
        .context("the static whoami is not built: run `cargo xtask build`")
}

/// The only layer: two programs, their other names, and the folders a root needs.
fn layer(whoami: &[u8], busybox: &[u8], applets: &str) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for dir in [
        "bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr", "usr/bin", "var",
    ] {
        let mode = if dir == "tmp" { 0o1777 } else { 0o755 };
        entry(
            &mut tar,
            &format!("{dir}/"),
            EntryType::Directory,
            mode,
            b"",
        )?;
    }
    let user = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
    entry(&mut tar, "etc/passwd", EntryType::Regular, 0o644, user)?;
    let group = b"root:x:0:\nnogroup:x:65534:\n";
    entry(&mut tar, "etc/group", EntryType::Regular, 0o644, group)?;
    entry(&mut tar, "bin/whoami", EntryType::Regular, 0o755, whoami)?;
    entry(&mut tar, "bin/busybox", EntryType::Regular, 0o755, busybox)?;
    link(&mut tar, "bin/curl", "whoami")?;
    for applet in applets
        .lines()
        .filter(|name| !["whoami", "busybox"].contains(name))
    {
        link(&mut tar, &format!("bin/{applet}"), "busybox")?;
    }
    tar.into_inner().context("cannot finish the layer")
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

fn entry<W: std::io::Write>(
    tar: &mut tar::Builder<W>,
    path: &str,
    kind: EntryType,
    mode: u32,
    data: &[u8],
) -> Result<()> {
    let mut header = header(kind, mode, data.len() as u64);
    tar.append_data(&mut header, path, data)
        .with_context(|| format!("cannot add {path} to the archive"))
}

fn link<W: std::io::Write>(tar: &mut tar::Builder<W>, path: &str, to: &str) -> Result<()> {
    let mut header = header(EntryType::Symlink, 0o777, 0);
    tar.append_link(&mut header, path, to)
        .with_context(|| format!("cannot add {path} to the archive"))
}

/// An OCI layout in a tar, with one image of one layer.
fn write_archive(path: &Path, name: &str, layer: &[u8], entrypoint: &[&str]) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut tar = tar::Builder::new(file);
    let config = serde_json::to_vec(&json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {
            "Cmd": entrypoint,
            "Env": ["PATH=/bin:/usr/bin"],
            "WorkingDir": "/",
        },
        "rootfs": { "type": "layers", "diff_ids": [digest(layer)] },
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    }))?;
    let mut named = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    let (short, tag) = name.split_once(':').unwrap_or((name, "latest"));
    named["annotations"] = json!({
        "io.containerd.image.name": format!("docker.io/library/{short}:{tag}"),
        "org.opencontainers.image.ref.name": tag,
    });
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [named],
    }))?;
    let mark = br#"{"imageLayoutVersion":"1.0.0"}"#;
    entry(&mut tar, "oci-layout", EntryType::Regular, 0o644, mark)?;
    entry(&mut tar, "index.json", EntryType::Regular, 0o644, &index)?;
    for blob in [&config[..], &manifest[..], layer] {
        let at = format!("blobs/{}", digest(blob).replace(':', "/"));
        entry(&mut tar, &at, EntryType::Regular, 0o644, blob)?;
    }
    tar.into_inner()
        .and_then(|file| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
}

fn digest(blob: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(blob) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_whoami_are_read() {
        let answer = "Hostname: 1a2b\nAddress: 10.0.0.9:80\nClient: 192.168.77.200:4711\nPath: /\n";
        assert_eq!(replica(answer).unwrap(), "1a2b");
        assert_eq!(client(answer).unwrap().to_string(), "192.168.77.200:4711");
        assert!(replica("404").is_err());
    }

    #[test]
    fn an_archive_names_every_blob_by_its_digest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let layer = layer(b"who", b"box", "sh\nls\nbusybox\n").unwrap();
        write_archive(&path, WHOAMI, &layer, &["/bin/whoami"]).unwrap();
        let mut archive = tar::Archive::new(File::open(&path).unwrap());
        let mut blobs = 0;
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            if let Some(hex) = name.strip_prefix("blobs/sha256/") {
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
                assert_eq!(digest(&bytes), format!("sha256:{hex}"));
                blobs += 1;
            }
        }
        assert_eq!(blobs, 3);
    }
}
