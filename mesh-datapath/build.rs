//! Finds the eBPF object to embed: `$MESH_EBPF_OBJECT`, else `<workspace>/target/bpf/mesh-ebpf`. Without one the
//! crate still compiles, and opening a data plane says how to build it. One that was built from other sources than those
//! that are there is refused.

#[path = "../mesh-ebpf/sources.rs"]
mod sources;

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=MESH_EBPF_OBJECT");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| manifest.join("../target"), PathBuf::from);
    let object =
        env::var_os("MESH_EBPF_OBJECT").map_or_else(|| target.join("bpf/mesh-ebpf"), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).unwrap_or_default();
    if !bytes.is_empty() && env::var_os("MESH_EBPF_OBJECT").is_none() {
        let root = manifest.join("..");
        for source in sources::SOURCES {
            println!("cargo::rerun-if-changed={}", root.join(source).display());
        }
        let mark = sources::mark(&root).expect("the sources can be read");
        if fs::read_to_string(sources::mark_of(&object)).ok() != Some(mark) {
            println!(
                "cargo::error={} was built from other sources: run `cargo xtask build-ebpf`",
                object.display()
            );
        }
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("mesh-ebpf");
    fs::write(out, bytes).expect("the output folder can be written");
}
