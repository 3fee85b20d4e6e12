//! `inspect`: objects of any kind, of the node or of the cluster.

use anyhow::{Result, bail};
use mesh_api::{Client, client::encode};
use serde_json::Value;

use crate::format;

/// Kinds in the order in which Docker looks for a name, and where each is.
const KINDS: [(&str, &str, &str); 9] = [
    ("container", "/containers/", "/json"),
    ("image", "/images/", "/json"),
    ("network", "/networks/", ""),
    ("volume", "/volumes/", ""),
    ("service", "/services/", ""),
    ("task", "/tasks/", ""),
    ("node", "/nodes/", ""),
    ("secret", "/secrets/", ""),
    ("config", "/configs/", ""),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Objects: names, ids or unique prefixes
    #[arg(required = true, value_name = "NAME|ID")]
    objects: Vec<String>,
    /// Format: 'json' or a Go template
    #[arg(short, long)]
    format: Option<String>,
    /// Only objects of this kind
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let kinds = kinds(args.kind.as_deref())?;
    let mut found = Vec::new();
    let mut missing = None;
    for reference in &args.objects {
        match find(client, kinds, reference).await? {
            Some(object) => found.push(object),
            None => {
                missing = Some(reference);
                break;
            }
        }
    }
    // What was found is shown all the same, as Docker does.
    format::inspect::print(&found, args.format.as_deref())?;
    match (missing, &args.kind) {
        (None, _) => Ok(()),
        (Some(reference), None) => bail!("Error: No such object: {reference}"),
        (Some(reference), Some(kind)) => bail!("Error: No such {kind}: {reference}"),
    }
}

/// The kinds to look for.
fn kinds(wanted: Option<&str>) -> Result<&'static [(&'static str, &'static str, &'static str)]> {
    let Some(wanted) = wanted.filter(|kind| !kind.is_empty()) else {
        return Ok(&KINDS);
    };
    match KINDS.iter().position(|(kind, ..)| *kind == wanted) {
        Some(at) => Ok(&KINDS[at..=at]),
        None => bail!("{wanted:?} is not a valid value for --type"),
    }
}

/// The first object of these kinds that the reference names.
async fn find(
    client: &Client,
    kinds: &[(&str, &str, &str)],
    reference: &str,
) -> Result<Option<Value>> {
    for (_, before, after) in kinds {
        let path = format!("{before}{}{after}", encode(reference));
        match client.get::<Value>(&path, &[]).await {
            Ok(object) => return Ok(Some(object)),
            Err(error) if error.is_not_found() => {}
            // A worker knows nothing of the cluster's objects; they are looked for after its own.
            Err(error) if kinds.len() > 1 && is_no_manager(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

fn is_no_manager(error: &mesh_api::client::ClientError) -> bool {
    let is_503 = error.status().is_some_and(|status| status.as_u16() == 503);
    is_503 && error.to_string().contains("not a swarm manager")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        assert_eq!(kinds(None).expect("all").len(), KINDS.len());
        let one = kinds(Some("volume")).expect("one");
        assert_eq!(one, [("volume", "/volumes/", "")]);
        let error = kinds(Some("pod")).expect_err("none such");
        assert_eq!(error.to_string(), "\"pod\" is not a valid value for --type");
    }
}
