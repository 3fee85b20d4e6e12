//! Builds the library that turns the clock of nodes, see `clock/lib.rs`.

use std::{env, path::PathBuf, process::Command};

const SOURCE: &str = "clock/lib.rs";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={SOURCE}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("libclock.so");
    let rustc = env::var_os("RUSTC").expect("cargo sets it");
    let status = Command::new(rustc)
        .args([
            "--edition=2024",
            "--crate-type=cdylib",
            "--crate-name=clock",
        ])
        .args(["-Copt-level=1", "-Cpanic=abort", SOURCE, "-o"])
        .arg(out)
        .status()
        .expect("rustc runs");
    assert!(status.success(), "{SOURCE} does not compile");
}
