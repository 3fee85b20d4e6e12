//! `exec`: runs a command in a container, with its streams and its exit code.

use std::{io::IsTerminal, process::ExitCode};

use anyhow::{Context, Result, bail};
use mesh_api::{Client, client::Upgraded, engine::ExecConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, WriteHalf},
    signal::unix::{SignalKind, signal},
};

use crate::{
    flags, streams,
    terminal::{self, RawTerminal},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Do not wait for the command
    #[arg(short, long)]
    detach: bool,
    /// Variable, as NAME=value
    #[arg(short, long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// User (or user:group) to run as
    #[arg(short, long)]
    user: Option<String>,
    /// Directory to start in
    #[arg(short, long)]
    workdir: Option<String>,
    /// All capabilities
    #[arg(long)]
    privileged: bool,
    /// Container or task of this node: name, id or unique prefix
    #[arg(value_name = "CONTAINER|TASK")]
    container: String,
    /// Command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<ExitCode> {
    if args.tty && args.interactive && !std::io::stdin().is_terminal() {
        bail!("the input device is not a terminal: leave out -t");
    }
    let config = ExecConfig {
        attach_stdin: Some(args.interactive && !args.detach),
        attach_stdout: Some(!args.detach),
        attach_stderr: Some(!args.detach),
        tty: Some(args.tty),
        env: flags::non_empty(flags::environment(&[], &args.env)?),
        cmd: Some(args.command),
        user: args.user,
        working_dir: args.workdir,
        privileged: Some(args.privileged),
        ..Default::default()
    };
    let exec = client.exec_create(&args.container, &config).await?;
    if args.detach {
        client.exec_start_detached(&exec, args.tty).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let connection = client.exec_start(&exec, args.tty).await?;
    // Without -i our keys are for our own terminal: Ctrl-C ends the wait.
    let raw = (args.tty && args.interactive)
        .then(RawTerminal::enter)
        .flatten();
    let resizes = args
        .tty
        .then(|| tokio::spawn(follow_size(client.clone(), exec.clone())));
    let (reader, writer) = tokio::io::split(connection);
    // Without -i the writer is kept as well: closing it would end the stream.
    let mut idle_writer = None;
    let input = if args.interactive {
        Some(tokio::spawn(send_input(writer)))
    } else {
        idle_writer = Some(writer);
        None
    };
    let result = streams::copy(reader, args.tty).await;
    drop((raw, idle_writer));
    for task in [input, resizes].into_iter().flatten() {
        task.abort();
    }
    result?;
    let ended = client.exec_inspect(&exec).await?;
    let code = ended
        .exit_code
        .context("the agent does not know how the command ended")?;
    Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Copies our input to the command, then closes the command's.
async fn send_input(mut writer: WriteHalf<Upgraded>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 16 << 10];
    // The other side's end is seen by the reader; nothing to tell here.
    while let Ok(length @ 1..) = stdin.read(&mut buffer).await {
        if writer.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    let _ = writer.shutdown().await;
    // The connection lives as long as both halves.
    std::future::pending::<()>().await;
}

/// Tells the command's terminal our size, now and whenever it changes.
async fn follow_size(client: Client, exec: String) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else {
        return;
    };
    loop {
        if let Some((rows, columns)) = terminal::size() {
            // A command that has ended has no terminal any more.
            let _ = client.exec_resize(&exec, rows, columns).await;
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}
