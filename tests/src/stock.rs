//! The stock `docker` command.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{Answer, Node};

/// The command in PATH, or the one that `cargo xtask setup` unpacked.
fn program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let tools = own.ancestors().skip(2).take(2).map(|dir| dir.join("tools"));
    std::env::split_paths(&path)
        .chain(tools)
        .map(|dir| dir.join("docker"))
        .find(|path| path.is_file())
        .context("there is no docker command: run `cargo xtask setup`")
}

/// `docker` on a node's socket, with a configuration of its own, to add arguments to.
///
/// # Errors
/// There is no such command.
pub fn docker_command(node: &Node) -> Result<Command> {
    let host = format!("unix://{}", node.socket().display());
    let mut command = Command::new(program()?);
    command.args(["--config", "/nonexistent", "-H", &host]);
    Ok(command)
}

/// Runs `docker` on a node's socket.
///
/// # Errors
/// There is no such command. A refusal is an [`Answer`].
pub fn docker(node: &Node, args: &[&str]) -> Result<Answer> {
    let output = docker_command(node)?.args(args).output()?;
    Ok(Answer::of(format!("docker {}", args.join(" ")), &output))
}
