//! Builds the libraries that turn the clock of nodes and slow down their disks, see `clock/lib.rs` and `sync/lib.rs`.

use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["clock", "sync"] {
        build(name);
    }
}

fn build(name: &str) {
    let source = format!("{name}/lib.rs");
    println!("cargo::rerun-if-changed={source}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let rustc = env::var_os("RUSTC").expect("cargo sets it");
    let status = Command::new(rustc)
        .args(["--edition=2024", "--crate-type=cdylib"])
        .arg(format!("--crate-name={name}"))
        .args(["-Copt-level=1", "-Cpanic=abort", &source, "-o"])
        .arg(out.join(format!("lib{name}.so")))
        .status()
        .expect("rustc runs");
    assert!(status.success(), "{source} does not compile");
}
