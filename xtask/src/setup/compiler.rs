//! The compiler of the eBPF programs. They are built with `-Z build-std=core`, which needs the
//! library source of the very compiler: a nightly with rust-src, or Debian's rustc-web with rust-web-src.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::apt;
use crate::sh;

/// A compiler that can build core for the BPF target.
pub(crate) struct Compiler {
    /// Path of rustc.
    pub(crate) rustc: PathBuf,
    /// Whether unstable flags must be unlocked, as on a stable release.
    pub(crate) bootstrap: bool,
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
    /// "rustc 1.96.0 (...)".
    pub(crate) version: String,
}

/// Debian's packages of a recent compiler and its library source.
const DEBIAN: [&str; 2] = ["rustc-web", "rust-web-src"];

/// The compiler that is there, if any.
pub(crate) fn detect() -> Option<Compiler> {
    nightly().or_else(debian)
}

/// The compiler that is there, else one that is installed now.
pub(crate) fn ensure() -> Result<Compiler> {
    if let Some(compiler) = detect() {
        return Ok(compiler);
    }
    sh::say("no compiler with its library source is here (needed by -Z build-std)");
    if let Err(error) = install_debian() {
        sh::say(&format!("{error:#}; trying a nightly from rustup"));
        sh::run(Command::new("rustup").args([
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ]))
        .context("neither Debian's rustc-web nor a rustup nightly can be installed")?;
    }
    detect().context(
        "the compiler was installed, but its library source is not where it belongs, or no bpf-linker reads its LLVM",
    )
}

fn install_debian() -> Result<()> {
    // The release itself may hold an old one; the newer comes by the security suite.
    if !apt::look_for(new_enough)? {
        bail!("Debian's rustc-web here is older than 1.{OLDEST}");
    }
    apt::install(&DEBIAN)
}

/// Whether apt would install a compiler that builds the eBPF programs ("1.96.0+dfsg1-1~deb12u2").
fn new_enough() -> bool {
    apt::candidate(DEBIAN[0])
        .and_then(|version| version.split('.').nth(1)?.parse::<u32>().ok())
        .is_some_and(|minor| minor >= OLDEST)
}

/// A rustup nightly with rust-src, where a bpf-linker that reads its bitcode is there or can be built.
fn nightly() -> Option<Compiler> {
    let rustc = sh::output("rustup", &["which", "--toolchain", "nightly", "rustc"])?;
    inspect(Path::new(rustc.trim()), false).filter(|compiler| is_linkable(compiler.llvm))
}

fn is_linkable(llvm: u32) -> bool {
    match super::bpf_linker_path() {
        // One with its LLVM inside does not tell which.
        Some(linker) => sh::output("ldd", &[linker])
            .and_then(|libraries| llvm_of(&libraries))
            .is_none_or(|newest| llvm <= newest),
        None => super::llvm_config(llvm).exists() || apt::known(&format!("llvm-{llvm}-dev")),
    }
}

/// The LLVM among a program's libraries: it reads the bitcode of older ones too.
fn llvm_of(libraries: &str) -> Option<u32> {
    let (_, version) = libraries.split_once("libLLVM.so.")?;
    version.split(['.', ' ']).next()?.parse().ok()
}

fn debian() -> Option<Compiler> {
    inspect(Path::new("/usr/bin/rustc"), true)
}

/// Oldest minor release of Rust 1.x that aya's programs build with.
const OLDEST: u32 = 90;

fn inspect(rustc: &Path, bootstrap: bool) -> Option<Compiler> {
    let program = rustc.to_str()?;
    let sysroot = sh::output(program, &["--print", "sysroot"])?;
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    if !source.exists() {
        return None;
    }
    let text = sh::output(program, &["-vV"])?;
    let llvm = text
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    let llvm = llvm.split('.').next()?.parse().ok()?;
    let version = text.lines().next()?.to_owned();
    let minor: u32 = version.split('.').nth(1)?.parse().ok()?;
    (minor >= OLDEST).then(|| Compiler {
        rustc: rustc.to_path_buf(),
        bootstrap,
        llvm,
        version,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_linker_is_read() {
        let libraries = "\tlinux-vdso.so.1 (0x1)\n\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x2)\n";
        assert_eq!(llvm_of(libraries), Some(22));
        assert_eq!(llvm_of("\tlibc.so.6 => /lib/libc.so.6 (0x3)\n"), None);
    }
}
