//! `image pull`

use std::collections::HashMap;

use anyhow::{Result, bail};
use futures::StreamExt;
use mesh_api::{Client, client::json_lines, progress::ProgressLine};

use crate::flags::image;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Image, by tag or digest
    image: String,
    /// Only show the image's name
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let name = image::with_tag(&args.image)?;
    let (repository, tag) = image::split(&name);
    let auth = image::registry_auth(&name);
    let stream = client
        .image_pull(repository, tag.unwrap_or("latest"), auth.as_deref())
        .await?;
    let mut lines = Box::pin(json_lines::<ProgressLine>(stream));
    // The last word about each layer: a layer's bytes are not shown one by one.
    let mut last: HashMap<String, String> = HashMap::new();
    while let Some(line) = lines.next().await {
        let line = line?;
        if let Some(error) = line.error {
            bail!(error);
        }
        let Some(status) = line.status.filter(|_| !args.quiet) else {
            continue;
        };
        match line.id {
            Some(id) if last.get(&id) == Some(&status) => {}
            Some(id) => {
                say!("{id}: {status}")?;
                last.insert(id, status);
            }
            None => say!("{status}")?,
        }
    }
    say!("{name}")?;
    Ok(())
}
