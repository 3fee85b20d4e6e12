//! The stock `docker` command, which the tests run on our socket: found, or unpacked from Debian's package without
//! installing the engine that comes with it.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use super::apt;
use crate::sh;

/// The packages that bring the command, the smaller one first: older releases have it in the engine's only.
const PACKAGES: [&str; 2] = ["docker-cli", "docker.io"];

/// Where the unpacked command goes; the tests look there when none is in PATH.
fn unpacked() -> PathBuf {
    sh::target().join("tools/docker")
}

/// Brings the command.
pub(super) fn ensure() -> Result<()> {
    let unpacked = unpacked();
    if sh::has("docker") || unpacked.is_file() {
        return Ok(());
    }
    let Some(package) = PACKAGES.into_iter().find(|package| apt::known(package)) else {
        bail!(
            "docker is missing (its command is tested on our socket), and no apt source offers {}: \
             put it into PATH",
            PACKAGES.join(" or ")
        );
    };
    sh::say(&format!(
        "docker is missing (its command is tested on our socket); unpacking it from {package}"
    ));
    let dir = sh::target().join("tools");
    let scratch = dir.join("unpack");
    fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    sh::run(
        Command::new("apt-get")
            .args(["-q", "-o", "APT::Sandbox::User=root", "download", package])
            .current_dir(&scratch),
    )?;
    let archive = fs::read_dir(&scratch)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get brought no archive of {package}"))?;
    sh::run(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(&archive)
            .arg(&scratch),
    )?;
    let command = scratch.join("usr/bin/docker");
    fs::rename(&command, &unpacked)
        .with_context(|| format!("{package} has no {}", command.display()))?;
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))
}
