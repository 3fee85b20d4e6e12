//! `mesh-shim`: a task's own process, started by the agent. The agent's program can do the same, and does where this one is
//! missing; this one has a sixth of its size, and each task a process of it.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|word| word != "shim") {
        eprintln!("usage: mesh-shim shim STATE_DIR RUN_DIR (started by mesh-agent, not by hand)");
        return ExitCode::FAILURE;
    }
    mesh_runtime::shim_main(args)
}
