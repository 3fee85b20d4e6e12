//! `image load`

use std::{io::IsTerminal, path::PathBuf};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use mesh_api::{Client, client::json_lines, progress::ProgressLine};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Archive to read instead of standard input: an OCI archive or what `docker save` writes
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Only tell of errors
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let archive: Box<dyn AsyncRead + Send + Unpin> = match args.input {
        Some(path) => {
            let file = tokio::fs::File::open(&path).await;
            Box::new(file.with_context(|| format!("cannot read {}", path.display()))?)
        }
        None if std::io::stdin().is_terminal() => {
            bail!(
                "requested load from stdin, but stdin is a terminal: give an archive with --input"
            )
        }
        None => Box::new(tokio::io::stdin()),
    };
    let mut lines = Box::pin(json_lines::<ProgressLine>(
        client.image_load(ReaderStream::new(archive)).await?,
    ));
    while let Some(line) = lines.next().await {
        let line = line?;
        if let Some(error) = line.error {
            bail!(error);
        }
        if let Some(text) = line.stream.filter(|_| !args.quiet) {
            say!("{}", text.trim_end())?;
        }
    }
    Ok(())
}
