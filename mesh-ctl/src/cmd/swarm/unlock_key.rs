//! `swarm unlock-key`

use anyhow::{Result, ensure};
use mesh_api::{Client, Rotate};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only show the key
    #[arg(short, long)]
    quiet: bool,
    /// Make a new key; the old one opens no manager any more that has heard of it
    #[arg(long)]
    rotate: bool,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    if args.rotate {
        let (version, spec) = super::settings(client).await?;
        ensure!(
            super::is_autolock(&spec),
            "cannot rotate because autolock is not turned on"
        );
        let rotate = Rotate {
            unlock_key: true,
            ..Rotate::default()
        };
        client.swarm_update(version, &spec, rotate).await?;
        if !args.quiet {
            say!("Successfully rotated manager unlock key.\n")?;
        }
    }
    let key = client.swarm_unlock_key().await?;
    ensure!(!key.is_empty(), "no unlock key is set");
    if args.quiet {
        say!("{key}")?;
        return Ok(());
    }
    tell(&key)
}

/// Tells how to unlock a manager.
pub(super) fn tell(key: &str) -> Result<()> {
    say!(
        "To unlock a swarm manager after it restarts, run the `mesh-ctl swarm unlock`\n\
         command and provide the following key:\n\n    {key}\n\n\
         Please remember to store this key in a password manager, since without it you\n\
         will not be able to restart the manager."
    )?;
    Ok(())
}
