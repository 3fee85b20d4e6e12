//! `secret ls` and `config ls`

use anyhow::Result;
use chrono::{DateTime, Utc};
use mesh_api::{Client, engine::Config, handout::Kind, moment};

use crate::{
    format::{ListFlags, Listing, Row, human},
    view::{label_text, text},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    list: ListFlags,
}

const HEADINGS: &[(&str, &str)] = &[
    ("ID", "ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("CreatedAt", "CREATED"),
    ("UpdatedAt", "UPDATED"),
    ("Labels", "LABELS"),
];

/// Docker shows what no secret here has, a driver.
const SECRETS: Listing = Listing {
    table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.CreatedAt}}\t{{.UpdatedAt}}",
    headings: HEADINGS,
    quiet: "{{.ID}}",
};

const CONFIGS: Listing = Listing {
    table: "{{.ID}}\t{{.Name}}\t{{.CreatedAt}}\t{{.UpdatedAt}}",
    headings: HEADINGS,
    quiet: "{{.ID}}",
};

pub(crate) async fn run(client: &Client, kind: Kind, args: Args) -> Result<()> {
    let mut all = client.handouts(kind, &args.list.filters()?).await?;
    all.sort_by(|a, b| human::natural_cmp(name(a), name(b)));
    let now = Utc::now();
    let rows = all.iter().map(|one| row(kind, one, now)).collect();
    listing(kind).print(&args.list, rows)
}

fn listing(kind: Kind) -> &'static Listing {
    match kind {
        Kind::Secret => &SECRETS,
        Kind::Config => &CONFIGS,
    }
}

fn name(one: &Config) -> &str {
    one.spec.as_ref().map_or("", |spec| text(&spec.name))
}

fn row(kind: Kind, one: &Config, now: DateTime<Utc>) -> Row {
    let ago = |at: &Option<String>| {
        let at = moment::read(at.as_deref());
        at.map_or_else(String::new, |at| human::ago(now, at))
    };
    let labels = one.spec.as_ref().and_then(|spec| spec.labels.as_ref());
    let row = Row::new()
        .with("ID", text(&one.id))
        .with("Name", name(one))
        .with("CreatedAt", ago(&one.created_at))
        .with("UpdatedAt", ago(&one.updated_at))
        .with("Labels", label_text(labels));
    match kind {
        Kind::Secret => row.with("Driver", ""),
        Kind::Config => row,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables() {
        let one: Config = serde_json::from_value(serde_json::json!({
            "ID": "abcdefghijklmnopqrstuvwxy", "CreatedAt": "2026-11-22T09:00:00Z", "UpdatedAt": "2026-11-22T09:30:00Z",
            "Spec": {"Name": "key", "Labels": {"a": "b"}}
        }))
        .expect("a secret");
        let now = "2026-11-22T10:00:00Z".parse().expect("a time");
        let table = |kind| {
            let rows = vec![row(kind, &one, now)];
            let rendered = listing(kind).render(&ListFlags::default(), rows);
            rendered.expect("renders")
        };
        assert_eq!(
            table(Kind::Secret),
            "ID                          NAME      DRIVER    CREATED             UPDATED\n\
             abcdefghijklmnopqrstuvwxy   key                 About an hour ago   30 minutes ago\n"
        );
        assert_eq!(
            table(Kind::Config),
            "ID                          NAME      CREATED             UPDATED\n\
             abcdefghijklmnopqrstuvwxy   key       About an hour ago   30 minutes ago\n"
        );
    }
}
