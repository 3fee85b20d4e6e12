//! Has the linker write BTF: maps kept per socket are not made without it.

fn main() {
    println!("cargo::rustc-link-arg=--btf");
    println!("cargo::rerun-if-changed=build.rs");
}
