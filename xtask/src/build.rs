//! Building everything in the order it needs: the eBPF object first, then the workspace that embeds it.

use std::path::PathBuf;

use anyhow::Result;

use crate::{ebpf, sh};

/// Builds the eBPF programs and the programs of the workspace.
pub(crate) fn all(release: bool) -> Result<()> {
    ebpf::build()?;
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
