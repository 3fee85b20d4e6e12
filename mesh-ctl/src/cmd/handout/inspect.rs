//! `secret inspect` and `config inspect`, `--pretty` line for line as Docker prints it.

use anyhow::Result;
use base64::{Engine, engine::general_purpose::STANDARD};
use mesh_api::{Client, engine::Config, handout::Kind};

use crate::{
    cmd::all_done,
    format::{self, human, inspect, lines::Lines},
    view::{sorted, text},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names, ids or unique prefixes
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Format: 'json' or a Go template
    #[arg(short, long)]
    format: Option<String>,
    /// Show what matters for people
    #[arg(long, conflicts_with = "format")]
    pretty: bool,
}

pub(crate) async fn run(client: &Client, kind: Kind, args: Args) -> Result<()> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for name in &args.names {
        match client.handout(kind, name).await {
            Ok(one) => found.push(one),
            Err(error) if error.is_not_found() => missing.push(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    if args.pretty {
        for one in &found {
            format::write(render(kind, one))?;
        }
    } else {
        inspect::print(&found, args.format.as_deref())?;
    }
    all_done(missing)
}

fn render(kind: Kind, one: &Config) -> Vec<u8> {
    let spec = one.spec.clone().unwrap_or_default();
    let at = |at: &Option<String>| human::moment(at.as_deref());
    let (created, updated) = (at(&one.created_at), at(&one.updated_at));
    let mut out = Lines::default();
    match kind {
        Kind::Secret => {
            out.put(format!("ID:              {}", text(&one.id)));
            out.put(format!("Name:              {}", text(&spec.name)));
        }
        Kind::Config => {
            out.put(format!("ID:\t\t\t{}", text(&one.id)));
            out.put(format!("Name:\t\t\t{}", text(&spec.name)));
        }
    }
    let labels = sorted(spec.labels.as_ref());
    if !labels.is_empty() {
        out.put("Labels:");
    }
    for (name, value) in labels {
        let value = if value.is_empty() {
            String::new()
        } else {
            format!("={value}")
        };
        out.put(format!(" - {name}{value}"));
    }
    match kind {
        Kind::Secret => {
            out.put("Driver:            ");
            out.put(format!("Created at:        {created}"));
            out.put(format!("Updated at:        {updated}"));
            out.0.into_bytes()
        }
        Kind::Config => {
            out.put(format!("Created at:            \t{created}"));
            out.put(format!("Updated at:            \t{updated}"));
            out.put("Data:");
            let mut bytes = out.0.into_bytes();
            let data = STANDARD.decode(text(&spec.data));
            bytes.extend(data.unwrap_or_default());
            bytes.push(b'\n');
            bytes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_docker_prints_them() {
        let one: Config = serde_json::from_value(serde_json::json!({
            "ID": "abcdefghijklmnopqrstuvwxy", "CreatedAt": "2026-11-22T09:00:00.25Z", "UpdatedAt": "2026-11-22T09:30:00Z",
            "Spec": {"Name": "key", "Labels": {"a": "b", "c": ""}, "Data": "Y29uZgo="}
        }))
        .expect("a config");
        let shown = |kind| String::from_utf8(render(kind, &one)).expect("text");
        assert_eq!(
            shown(Kind::Secret),
            "ID:              abcdefghijklmnopqrstuvwxy\nName:              key\nLabels:\n - a=b\n - c\n\
             Driver:            \nCreated at:        2026-11-22 09:00:00.25 +0000 utc\n\
             Updated at:        2026-11-22 09:30:00 +0000 utc\n"
        );
        assert_eq!(
            shown(Kind::Config),
            "ID:\t\t\tabcdefghijklmnopqrstuvwxy\nName:\t\t\tkey\nLabels:\n - a=b\n - c\n\
             Created at:            \t2026-11-22 09:00:00.25 +0000 utc\n\
             Updated at:            \t2026-11-22 09:30:00 +0000 utc\nData:\nconf\n\n"
        );
    }
}
