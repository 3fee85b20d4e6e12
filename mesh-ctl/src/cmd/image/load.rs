//! `image load`

use std::path::PathBuf;

use anyhow::{Result, bail};
use futures::StreamExt;
use mesh_api::{
    Client, ClientError,
    client::{ImageInput, json_lines},
    progress::ProgressLine,
};
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
    let archive: ImageInput = match args.input {
        Some(path) => {
            let file = tokio::fs::File::open(&path).await;
            let file = file.map_err(|source| ClientError::File { path, source })?;
            ReaderStream::new(file).boxed()
        }
        None if std::io::IsTerminal::is_terminal(&std::io::stdin()) => {
            bail!(
                "requested load from stdin, but stdin is a terminal: give an archive with --input"
            )
        }
        None => ReaderStream::new(tokio::io::stdin()).boxed(),
    };
    let mut lines = Box::pin(json_lines::<ProgressLine>(
        client.image_load(archive).await?,
    ));
    while let Some(line) = lines.next().await {
        let line = line?;
        if let Some(error) = line.error {
            bail!(error);
        }
        if let Some(text) = line.stream.filter(|_| !args.quiet) {
            println!("{}", text.trim_end());
        }
    }
    Ok(())
}
