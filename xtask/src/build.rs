//! Building everything in the order it needs: the eBPF object first, then the workspace that embeds it.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{ebpf, sh};

/// Builds the eBPF programs and the programs of the workspace.
pub(crate) fn all(release: bool) -> Result<()> {
    ebpf::build()?;
    static_whoami()?;
    let mut cargo = sh::cargo();
    cargo.args(["build", "--workspace", "--bins", "--exclude", "xtask"]);
    if release {
        cargo.arg("--release");
    }
    sh::run(&mut cargo)
}

/// A program that [`all`] built.
pub(crate) fn program(name: &str, release: bool) -> PathBuf {
    let profile = if release { "release" } else { "debug" };
    sh::target().join(profile).join(name)
}

/// The test image's program, linked statically so that it runs in an empty root. It has a target folder of its
/// own: other flags in the common one would build everything twice.
fn static_whoami() -> Result<()> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let dir = sh::target().join("image");
    let mut cargo = sh::cargo();
    cargo
        .args(["build", "--quiet", "--release", "--package", "whoami"])
        .args(["--target", &triple])
        .arg("--target-dir")
        .arg(&dir)
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    sh::run(&mut cargo)?;
    let built = dir.join(triple).join("release/whoami");
    std::fs::copy(&built, dir.join("whoami"))
        .with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(())
}
