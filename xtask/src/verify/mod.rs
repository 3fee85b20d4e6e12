//! `verify` only looks, `fix` mends: format, lints, documentation, and the rules of a file.

mod files;

use std::process::Command;

use anyhow::{Result, bail};

use crate::{ebpf, sh};

/// Its name, and what it does.
type Check = (&'static str, fn() -> Result<()>);

/// Runs every check, goes on after a failed one, and names those that failed at the end.
pub(crate) fn run() -> Result<()> {
    let checks: [Check; 6] = [
        ("format", format),
        ("format of mesh-ebpf", format_ebpf),
        ("file headers and sizes", files::check),
        ("lints of mesh-ebpf", lint_ebpf),
        ("lints", lint),
        ("documentation", document),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        sh::say(&format!("verify: {name}"));
        if let Err(error) = check() {
            eprintln!("xtask: {name}: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!(
            "verify: failed: {}; `cargo xtask fix` mends some",
            failed.join(", ")
        );
    }
    sh::say("verify: all is well");
    Ok(())
}

/// Mends what programs can mend.
pub(crate) fn fix() -> Result<()> {
    sh::run(
        sh::cargo()
            .args(["clippy", "--fix", "--allow-dirty", "--allow-staged"])
            .args(["--workspace", "--all-targets", "--quiet"]),
    )?;
    sh::run(sh::cargo().args(["fmt", "--all"]))?;
    sh::run(
        sh::cargo()
            .args(["fmt"])
            .current_dir(sh::root().join("mesh-ebpf")),
    )
}

fn format() -> Result<()> {
    sh::run(sh::cargo().args(["fmt", "--all", "--check"]))
}

fn format_ebpf() -> Result<()> {
    sh::run(
        sh::cargo()
            .args(["fmt", "--check"])
            .current_dir(sh::root().join("mesh-ebpf")),
    )
}

fn lint() -> Result<()> {
    // `--all-targets` leaves out the tests that need root, which plain `cargo test` is not to run.
    for targets in ["--all-targets", "--test=*"] {
        sh::run(
            sh::cargo()
                .args(["clippy", "--workspace", targets])
                .args(["--", "-D", "warnings"]),
        )?;
    }
    Ok(())
}

/// The programs are built with a compiler that has no clippy of its own, so its warnings are the lints.
fn lint_ebpf() -> Result<()> {
    let mut check: Command = ebpf::cargo("build")?;
    sh::run(
        check
            .args(["-Z", "warnings"])
            .env("CARGO_BUILD_WARNINGS", "deny"),
    )
}

fn document() -> Result<()> {
    sh::run(sh::cargo().env("RUSTDOCFLAGS", "-D warnings").args([
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ]))
}
