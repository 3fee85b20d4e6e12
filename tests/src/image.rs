//! The image that demo, tests and benches run: whoami and busybox, both static, in an OCI archive.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use chrono::{DateTime, SecondsFormat, Utc};
use mesh_image::{
    ImageConfig,
    build::{ArchiveBuilder, LayerBuilder},
};

use crate::netns::run;

/// Name of the image once it is loaded.
pub const WHOAMI: &str = "whoami:latest";

/// Where `cargo xtask build` puts the static whoami, below the target folder.
const STATIC_WHOAMI: &str = "image/whoami";

/// Debian's busybox-static.
const BUSYBOX: &str = "/bin/busybox";

/// The image called [`WHOAMI`]: two programs, their other names, and the folders a root needs.
///
/// # Errors
/// When whoami was not built or busybox is missing.
pub(crate) fn whoami() -> Result<ArchiveBuilder> {
    named(WHOAMI, |_| {})
}

/// The same image under another name, its configuration changed.
fn named(name: &str, change: impl FnOnce(&mut ImageConfig)) -> Result<ArchiveBuilder> {
    let whoami = static_whoami()?;
    let mut layer = LayerBuilder::new();
    for dir in [
        "bin", "dev", "etc", "proc", "root", "sys", "usr", "usr/bin", "var",
    ] {
        layer.directory(dir, 0o755)?;
    }
    let users = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
    layer
        .directory("tmp", 0o1777)?
        .file("etc/passwd", 0o644, users)?
        .file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?
        .copy("bin/whoami", 0o755, &whoami)?
        .symlink("bin/curl", "whoami")?
        .copy("bin/busybox", 0o755, Path::new(BUSYBOX))
        .context("`cargo xtask setup` installs it")?;
    let applets = run(BUSYBOX, &["--list"])?;
    for applet in applets
        .lines()
        .filter(|name| !["whoami", "busybox"].contains(name))
    {
        layer.symlink(&format!("bin/{applet}"), "busybox")?;
    }
    let mut config = ImageConfig {
        cmd: vec!["/bin/whoami".into()],
        env: vec!["PATH=/bin:/usr/bin".into()],
        working_dir: "/".into(),
        ..ImageConfig::default()
    };
    change(&mut config);
    Ok(ArchiveBuilder::new(name, config)
        .created(created(&whoami)?)
        .layer(layer.finish()?))
}

/// `SOURCE_DATE_EPOCH`, else when the program was built, as RFC 3339.
fn created(program: &Path) -> Result<String> {
    let at = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => {
            let seconds = text.parse().ok();
            let at = seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
            at.with_context(|| format!("SOURCE_DATE_EPOCH is no time: {text:?}"))?
        }
        Err(_) => DateTime::<Utc>::from(fs::metadata(program)?.modified()?),
    };
    Ok(at.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// Writes the OCI archive of [`WHOAMI`] into a folder; gives its path.
///
/// # Errors
/// When whoami was not built or busybox is missing, or the archive cannot be written.
pub fn whoami_archive(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("whoami.tar");
    write(&whoami()?, &path)?;
    Ok(path)
}

/// Writes the OCI archive of the same image under another name, its configuration changed; gives its path.
///
/// # Errors
/// As [`whoami_archive`].
pub fn changed_archive(
    dir: &Path,
    name: &str,
    change: impl FnOnce(&mut ImageConfig),
) -> Result<PathBuf> {
    let path = dir.join("changed.tar");
    write(&named(name, change)?, &path)?;
    Ok(path)
}

fn write(image: &ArchiveBuilder, path: &Path) -> Result<()> {
    File::create(path)
        .and_then(|file| image.write_oci(file))
        .with_context(|| format!("cannot write {}", path.display()))
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
}
