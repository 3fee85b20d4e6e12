//! The shim as a program of its own, for this crate's tests. The agent re-executes itself instead.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|word| word != "shim") {
        eprintln!("usage: mesh-shim shim STATE_DIR RUN_DIR (started by a runtime, not by hand)");
        return ExitCode::FAILURE;
    }
    mesh_runtime::shim_main(args)
}
