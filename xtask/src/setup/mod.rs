//! What building and running need from the machine: found, or installed with apt-get and cargo, or mounted.

pub(crate) mod apt;
mod compiler;
mod docker;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

pub(crate) use compiler::{Compiler, detect as detect_compiler};

use crate::sh;

/// Minor series of the bpf-linker crate that the eBPF build was tried with.
const BPF_LINKER: &str = "^0.13";

/// What is looked for, and the Debian package that brings it.
struct Need {
    /// In PATH when it is a bare word, else a file.
    probe: &'static str,
    package: &'static str,
    why: &'static str,
}

const NEEDS: &[Need] = &[
    need("cc", "gcc", "links Rust programs"),
    need("g++", "g++", "links bpf-linker with LLVM"),
    need("/usr/include/stdio.h", "libc6-dev", "C library headers"),
    need("/usr/include/zlib.h", "zlib1g-dev", "LLVM needs it"),
    need("pkg-config", "pkg-config", "finds libseccomp"),
    need(
        "/usr/include/seccomp.h",
        "libseccomp-dev",
        "seccomp filters",
    ),
    need("git", "git", "lists the files that verify reads"),
    need("ip", "iproute2", "network namespaces of the rig"),
    need("sysctl", "procps", "settings of the rig's namespaces"),
    need("nft", "nftables", "the agents masquerade with it"),
    need("busybox", "busybox-static", "shell of the test image"),
    need(
        "docker-registry",
        "docker-registry",
        "registry of the pull tests",
    ),
    need("ethtool", "ethtool", "offloads of the rig's links"),
    need("curl", "curl", "requests of the demo"),
    need(
        "/etc/ssl/certs/ca-certificates.crt",
        "ca-certificates",
        "TLS of registries",
    ),
];

const fn need(probe: &'static str, package: &'static str, why: &'static str) -> Need {
    Need {
        probe,
        package,
        why,
    }
}

fn found(probe: &str) -> bool {
    if probe.starts_with('/') {
        Path::new(probe).exists()
    } else {
        sh::has(probe)
    }
}

/// Brings the machine to where everything builds and runs. Does nothing, quickly, when it is there.
pub(crate) fn run() -> Result<()> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !found(need.probe)).collect();
    if !missing.is_empty() {
        for need in &missing {
            sh::say(&format!("{} is missing ({})", need.package, need.why));
        }
        let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
        apt::install(&packages)?;
    }
    let compiler = compiler::ensure()?;
    bpf_linker(&compiler)?;
    components()?;
    docker::ensure()?;
    mounts()
}

/// bpf-linker turns LLVM bitcode into BPF objects; it must know the compiler's LLVM.
fn bpf_linker(compiler: &Compiler) -> Result<()> {
    if bpf_linker_path().is_some() {
        return Ok(());
    }
    let llvm = compiler.llvm;
    sh::say(&format!(
        "bpf-linker is missing; building it with LLVM {llvm}"
    ));
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let wanted = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
    if !llvm_config(llvm).exists() {
        apt::install(&[&wanted[0], &wanted[1]])?;
    }
    sh::run(
        sh::cargo()
            .env("LLVM_PREFIX", &prefix)
            .args(["install", "bpf-linker", "--version", BPF_LINKER, "--quiet"])
            .args(["--no-default-features", "--features"])
            .arg(format!("llvm-{llvm}")),
    )
    .context("bpf-linker did not build: see the messages above")
}

/// The bpf-linker that is there.
fn bpf_linker_path() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .chain(cargo_bin())
        .map(|dir| dir.join("bpf-linker"))
        .find(|path| path.exists())
}

/// Where Debian's `llvm-N-dev` has it.
fn llvm_config(llvm: u32) -> PathBuf {
    format!("/usr/lib/llvm-{llvm}/bin/llvm-config").into()
}

/// Where `cargo install` puts programs.
pub(crate) fn cargo_bin() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")))?;
    Some(home.join("bin"))
}

/// rustfmt and clippy of the toolchain in use, for `verify`.
fn components() -> Result<()> {
    for (program, component) in [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")] {
        let works = sh::output(program, &["--version"]).is_some();
        if !works && sh::has("rustup") {
            sh::run(Command::new("rustup").args(["component", "add", component]))?;
        }
    }
    Ok(())
}

/// The two file systems the agent needs.
fn mounts() -> Result<()> {
    let mounted = std::fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    let has = |kind: &str| {
        mounted
            .lines()
            .any(|line| line.split(' ').nth(2) == Some(kind))
    };
    if !has("bpf") {
        sh::say("no bpffs is mounted");
        mount("bpf", "/sys/fs/bpf")?;
    }
    if !has("cgroup2") {
        sh::say("no cgroup2 is mounted");
        // Beside cgroup v1 the tree goes where systemd's hybrid layout has it.
        let dir = if has("cgroup") {
            "/sys/fs/cgroup/unified"
        } else {
            "/sys/fs/cgroup"
        };
        mount("cgroup2", dir)?;
    }
    Ok(())
}

fn mount(kind: &str, dir: &str) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {dir}: are you root?"))?;
    sh::run(Command::new("mount").args(["-t", kind, kind, dir]))
        .with_context(|| format!("cannot mount {kind}: run this as root"))
}
