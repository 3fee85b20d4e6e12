//! `mesh-ctl`: the command line of the mesh. Each verb lives in `cmd/<noun>/<verb>.rs`; `flags`
//! reads arguments, `format` writes answers, `progress` watches services converge.

#![deny(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod format;

mod cli;
mod cmd;
mod flags;
mod log_line;
mod progress;
mod streams;
mod terminal;
mod view;

use std::process::ExitCode;

use clap::{Parser, error::ErrorKind};

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) =>
        {
            // A reader that has gone misses nothing.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            return ExitCode::FAILURE;
        }
        Err(error) => {
            note!("{}", cli::one_line(&error));
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            note!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(cli.run());
    // A read of standard input cannot be cancelled; do not wait for it.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            note!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `mesh-ctl ... | head` closes our output: nothing went wrong.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
