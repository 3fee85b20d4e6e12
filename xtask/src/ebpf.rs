//! Building the eBPF programs: another target, another compiler, another workspace.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{setup, sh};

#[path = "../../mesh-ebpf/sources.rs"]
mod sources;

/// The target that the programs are compiled for.
const TARGET: &str = "bpfel-unknown-none";

/// Where the object that mesh-datapath embeds is put.
pub(crate) fn object() -> PathBuf {
    sh::target().join("bpf/mesh-ebpf")
}

/// Cargo on mesh-ebpf, with the compiler that can build core.
pub(crate) fn cargo(subcommand: &str) -> Result<Command> {
    let compiler = setup::detect_compiler()
        .context("no compiler for the eBPF programs: run `cargo xtask setup`")?;
    sh::say(&format!(
        "{}: {} (LLVM {})",
        compiler.rustc.display(),
        compiler.version,
        compiler.llvm
    ));
    let mut cargo = sh::cargo();
    cargo
        .current_dir(sh::root().join("mesh-ebpf"))
        .env("RUSTC", &compiler.rustc)
        .env_remove("RUSTUP_TOOLCHAIN")
        .env("CARGO_TARGET_DIR", sh::target().join("ebpf"));
    if compiler.bootstrap {
        cargo.env("RUSTC_BOOTSTRAP", "1");
    }
    if let Some(bin) = setup::cargo_bin() {
        let path = std::env::var("PATH").unwrap_or_default();
        cargo.env("PATH", format!("{}:{path}", bin.display()));
    }
    cargo.args([subcommand, "--release", "--target", TARGET]);
    cargo.args(["-Z", "build-std=core"]);
    Ok(cargo)
}

/// Builds the object and puts it where mesh-datapath looks for it.
pub(crate) fn build() -> Result<()> {
    let mark = sources::mark(&sh::root()).context("cannot read the sources")?;
    sh::run(&mut cargo("build")?).context("the eBPF programs did not build")?;
    let built = sh::target()
        .join("ebpf")
        .join(TARGET)
        .join("release/mesh-ebpf");
    let object = object();
    let built = without_debug(&built)?;
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    // Unchanged bytes keep their time stamp, and user space is not built again.
    if fs::read(&object).ok().as_ref() != Some(&bytes) {
        fs::create_dir_all(object.parent().context("the target folder has no parent")?)?;
        fs::write(&object, &bytes).with_context(|| format!("cannot write {}", object.display()))?;
    }
    let file = sources::mark_of(&object);
    fs::write(&file, mark).with_context(|| format!("cannot write {}", file.display()))?;
    sh::say(&format!("{} ({} bytes)", object.display(), bytes.len()));
    Ok(())
}

/// Nine tenths of the object are what BTF was made from, which nobody reads any more: removed where LLVM's tools are.
fn without_debug(built: &Path) -> Result<PathBuf> {
    let stripped = built.with_extension("stripped");
    let Some(compiler) = setup::detect_compiler() else {
        return Ok(built.to_owned());
    };
    let tool = format!("/usr/lib/llvm-{}/bin/llvm-strip", compiler.llvm);
    if !Path::new(&tool).exists() {
        return Ok(built.to_owned());
    }
    let mut strip = Command::new(&tool);
    strip
        .args(["--strip-debug", "-o"])
        .arg(&stripped)
        .arg(built);
    sh::run(&mut strip)?;
    Ok(stripped)
}
