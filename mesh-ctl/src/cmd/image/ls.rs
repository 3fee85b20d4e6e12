//! `image ls`

use anyhow::Result;
use chrono::{DateTime, Utc};
use mesh_api::{Client, engine::ImageSummary};

use crate::{
    flags::image::split,
    format::{ListFlags, Listing, Row, human},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    list: ListFlags,
    /// Show ids in full
    #[arg(long)]
    no_trunc: bool,
    /// Only images of this name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

const LISTING: Listing = Listing {
    table: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    headings: &[
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("ID", "IMAGE ID"),
        ("Digest", "DIGEST"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("Size", "SIZE"),
    ],
    quiet: "{{.ID}}",
};

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let mut filters = args.list.filters()?;
    if let Some(reference) = args.reference {
        filters = filters.with("reference", reference);
    }
    let mut images = client.images(&filters).await?;
    images.sort_by_key(|image| std::cmp::Reverse(image.created));
    let now = Utc::now();
    let rows = images
        .iter()
        .flat_map(|image| rows(image, args.no_trunc, now))
        .collect();
    LISTING.print(&args.list, rows)
}

/// One row per name, or one without a name.
fn rows(image: &ImageSummary, no_trunc: bool, now: DateTime<Utc>) -> Vec<Row> {
    let created = DateTime::from_timestamp(image.created, 0).unwrap_or_default();
    let row = |repository: &str, tag: &str| {
        let digest = image
            .repo_digests
            .iter()
            .find_map(|digest| digest.strip_prefix(repository)?.strip_prefix('@'));
        Row::new()
            .with("Repository", repository)
            .with("Tag", tag)
            .with("ID", human::id(&image.id, no_trunc))
            .with("Digest", digest.unwrap_or("<none>"))
            .with("CreatedSince", human::ago(now, created))
            .with("CreatedAt", created.to_string())
            .with("Size", human::size(u64::try_from(image.size).unwrap_or(0)))
    };
    if image.repo_tags.is_empty() {
        let name = image
            .repo_digests
            .first()
            .map_or("<none>", |digest| split(digest).0);
        return vec![row(name, "<none>")];
    }
    image
        .repo_tags
        .iter()
        .map(|name| {
            let (repository, tag) = split(name);
            row(repository, tag.unwrap_or("<none>"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let image = ImageSummary {
            id: "sha256:0123456789abcdef".to_owned(),
            repo_tags: vec!["host:5000/whoami:1".to_owned()],
            created: 0,
            size: 1_234_567,
            ..Default::default()
        };
        let now = DateTime::from_timestamp(120, 0).expect("time");
        assert_eq!(
            LISTING
                .render(&ListFlags::default(), rows(&image, false, now))
                .expect("renders"),
            "REPOSITORY         TAG       IMAGE ID       CREATED         SIZE\n\
             host:5000/whoami   1         0123456789ab   2 minutes ago   1.23MB\n"
        );
    }
}
