//! `swarm backup`

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use mesh_api::{Client, backup};

use super::secret_file::SecretFile;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// File to write, readable by its owner alone: whoever has it has the cluster's root key, tokens and secrets
    file: PathBuf,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let path = &args.file;
    let failed = || format!("cannot write {}", path.display());
    let mut pieces = client.swarm_backup().await?;
    let mut file = SecretFile::create(path).with_context(failed)?;
    let (mut length, mut head) = (0, Vec::new());
    loop {
        let piece = tokio::select! {
            piece = pieces.next() => piece,
            // So that what was written of it is removed.
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        };
        let Some(piece) = piece.transpose()? else {
            break;
        };
        length += piece.len();
        head.extend(piece.iter().take(backup::HEAD - head.len()));
        file.write(&piece).with_context(failed)?;
    }
    ensure!(length > 0, "the agent gave an empty backup");
    file.finish().with_context(failed)?;
    say!(
        "Backup of the swarm written to {} ({length} bytes).\n\
         It holds the root key, the join tokens and all secrets: keep it as you keep these.",
        path.display()
    )?;
    if backup::is_locked(&head) {
        say!(
            "It is encrypted with the swarm's unlock key, without which it cannot be restored: keep what\n\
             `mesh-ctl swarm unlock-key` shows now as long as this file, and not beside it."
        )?;
    }
    Ok(())
}
