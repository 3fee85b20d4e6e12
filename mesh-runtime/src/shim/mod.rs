//! The shim: one small process per container.

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the shim. Call it first thing in `main`, before any thread exists, when the first argument
/// is `shim`; `args` are the arguments after that word.
pub fn shim_main(_args: impl IntoIterator<Item = OsString>) -> ExitCode {
    ExitCode::FAILURE
}
