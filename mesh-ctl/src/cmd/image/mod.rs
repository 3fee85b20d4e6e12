//! `image`: the images of the node.

pub(crate) mod load;
pub(crate) mod ls;
pub(crate) mod pull;

use anyhow::Result;
use clap::Subcommand;
use mesh_api::Client;

use crate::format::inspect;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show images in full
    Inspect(Inspect),
    /// Load images from an archive
    Load(load::Args),
    /// List images
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    /// Pull an image from its registry
    Pull(pull::Args),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(Rm),
}

/// Flags of `image rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// Images: names, ids or unique prefixes
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Remove an image that is in use or has several names
    #[arg(short, long)]
    force: bool,
}

/// Flags of `image inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// Images: names, ids or unique prefixes
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Format: 'json' or a Go template
    #[arg(short, long)]
    format: Option<String>,
}

pub(crate) async fn run(client: &Client, command: Command) -> Result<()> {
    match command {
        Command::Inspect(args) => {
            let mut images = Vec::new();
            for reference in &args.images {
                images.push(client.image(reference).await?);
            }
            inspect::print(&images, args.format.as_deref())
        }
        Command::Load(args) => load::run(client, args).await,
        Command::Ls(args) => ls::run(client, args).await,
        Command::Pull(args) => pull::run(client, args).await,
        Command::Rm(args) => {
            super::for_each(args.images, async |name| {
                Ok(client.image_remove(&name, args.force).await?)
            })
            .await
        }
    }
}
