//! `exec`: runs a command in a container, with its streams and its exit code.

use std::{io::IsTerminal, os::fd::AsFd, process::ExitCode};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use mesh_api::{
    Client,
    client::Upgraded,
    engine::ExecConfig,
    frames::{FrameCodec, StreamKind},
};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    signal::unix::{SignalKind, signal},
};
use tokio_util::codec::FramedRead;

use crate::{flags, streams};

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
    let raw = args.tty.then(RawTerminal::enter).flatten();
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
    let result = receive(reader, args.tty).await;
    drop((raw, idle_writer));
    for task in [input, resizes].into_iter().flatten() {
        task.abort();
    }
    result?;
    let ended = client.exec_inspect(&exec).await?;
    let code = ended
        .exit_code
        .context("the agent does not know how the command ended")?;
    Ok(super::exit_code(code))
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

async fn receive(mut reader: ReadHalf<Upgraded>, terminal: bool) -> Result<()> {
    if terminal {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let length = reader.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            streams::write_to(StreamKind::Stdout, &buffer[..length])?;
        }
    }
    let mut frames = FramedRead::new(reader, FrameCodec);
    while let Some(frame) = frames.next().await {
        let frame = frame?;
        streams::write_to(frame.kind, &frame.payload)?;
    }
    Ok(())
}

/// Tells the command's terminal our size, now and whenever it changes.
async fn follow_size(client: Client, exec: String) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else {
        return;
    };
    loop {
        if let Some((rows, columns)) = terminal_size() {
            // A command that has ended has no terminal any more.
            let _ = client.exec_resize(&exec, rows, columns).await;
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

nix::ioctl_read_bad!(get_window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);

/// Rows and columns of our terminal, if there is one.
pub(crate) fn terminal_size() -> Option<(u16, u16)> {
    use std::os::fd::AsRawFd;

    let mut size = nix::libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is standard output's, and the kernel writes one `winsize` to `size`.
    unsafe { get_window_size(std::io::stdout().as_raw_fd(), &raw mut size) }.ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Our terminal passes every key on; dropped, it is as before.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(stdin.as_fd()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}
