//! Installing Debian packages, with fresh lists first and the security suite where a package lives only there.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail};

use crate::sh;

/// Our own list of sources, when the machine's lack the security suite.
const SOURCES: &str = "/etc/apt/sources.list.d/mesh-security.list";

/// Installs packages, reading the lists anew when one is unknown.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if !sh::has("apt-get") {
        bail!(
            "cannot install {}: no apt-get here; install them with your distribution's tool",
            packages.join(" ")
        );
    }
    let unknown = || packages.iter().find(|package| !known(package));
    look_for(|| unknown().is_none())?;
    if let Some(unknown) = unknown() {
        bail!("no apt source offers {unknown}: add one that does and run this again");
    }
    let install = || {
        let mut command = apt_get();
        command.args(["install", "-y", "--no-install-recommends"]);
        sh::run(command.args(packages))
    };
    if install().is_ok() {
        return Ok(());
    }
    sh::say("that failed: the lists may be stale, reading them anew");
    update()?;
    install().context("run this as root")
}

/// Reads the lists anew, then adds the security suite, until something is offered; whether it is now.
pub(crate) fn look_for(offered: impl Fn() -> bool) -> Result<bool> {
    if !offered() {
        update()?;
    }
    if !offered() {
        add_security()?;
        update()?;
    }
    Ok(offered())
}

/// Whether a source offers the package.
pub(crate) fn known(package: &str) -> bool {
    candidate(package).is_some()
}

/// The version that would be installed.
pub(crate) fn candidate(package: &str) -> Option<String> {
    let text = sh::output("apt-cache", &["policy", package])?;
    text.lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|&version| version != "(none)")
        .map(str::to_owned)
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
    command
}

/// Reads the package lists.
fn update() -> Result<()> {
    sh::run(apt_get().arg("update")).context("cannot read the package lists: run this as root")
}

/// Debian brings newer LLVM and Rust to a stable release by its security suite only.
fn add_security() -> Result<()> {
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .context("no VERSION_CODENAME in /etc/os-release: is this a Debian release?")?;
    let mirror = security_mirror()
        .context("apt's lists name no Debian mirror: add the security suite yourself")?;
    let line = format!("deb {mirror} {codename}-security main\n");
    sh::say(&format!("adding {SOURCES}: {}", line.trim()));
    fs::write(SOURCES, line).with_context(|| format!("cannot write {SOURCES}: run this as root"))
}

/// The security archive on the mirror in use.
fn security_mirror() -> Option<String> {
    [
        "/etc/apt/sources.list",
        "/etc/apt/sources.list.d/debian.sources",
    ]
    .iter()
    .filter_map(|list| fs::read_to_string(list).ok())
    .find_map(|list| mirror_in(&list))
}

/// The first archive named `/debian` in a list of sources, one-line or deb822, as its security archive.
fn mirror_in(list: &str) -> Option<String> {
    list.lines()
        .filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
        .flat_map(str::split_whitespace)
        .filter(|word| word.starts_with("http"))
        .find_map(|url| url.trim_end_matches('/').strip_suffix("/debian"))
        .map(|base| format!("{base}/debian-security"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_in_use_is_found() {
        let expected = Some("http://mirror.example/debian-security".to_owned());
        for list in [
            "# a note\ndeb http://mirror.example/debian bookworm main\n",
            "deb [arch=amd64] http://mirror.example/debian/ bookworm main\n",
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\n",
        ] {
            assert_eq!(mirror_in(list), expected, "{list}");
        }
        assert_eq!(
            mirror_in("deb http://other.example/packages x main\n"),
            None
        );
    }
}
