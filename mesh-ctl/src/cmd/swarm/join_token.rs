//! `swarm join-token`

use anyhow::Result;
use mesh_api::{Client, Rotate};

use super::Role;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Whose token
    role: Role,
    /// Only show the token
    #[arg(short, long)]
    quiet: bool,
    /// Make a new token; the old one is refused from then on
    #[arg(long)]
    rotate: bool,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    if args.rotate {
        let (version, spec) = super::settings(client).await?;
        let rotate = Rotate {
            worker_token: args.role == Role::Worker,
            manager_token: args.role == Role::Manager,
            ..Rotate::default()
        };
        client.swarm_update(version, &spec, rotate).await?;
        if !args.quiet {
            say!("Successfully rotated {} join token.\n", args.role)?;
        }
    }
    if args.quiet {
        say!("{}", super::token(client, args.role).await?)?;
        return Ok(());
    }
    let join = super::join_command(client, args.role).await?;
    say!(
        "To add a {} to this swarm, run the following command:\n\n{join}\n",
        args.role
    )?;
    Ok(())
}
