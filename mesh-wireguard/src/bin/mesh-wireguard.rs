//! The process that encrypts in user space as a program of its own, for this crate's tests. The agent re-executes itself
//! instead.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|word| word != "wireguard") {
        eprintln!("usage: mesh-wireguard wireguard SOCKET ADDRESS PORT EPOCH WHY (for tests)");
        return ExitCode::FAILURE;
    }
    mesh_wireguard::helper_main(args)
}
