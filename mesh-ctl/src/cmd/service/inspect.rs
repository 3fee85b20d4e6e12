//! `service inspect`

use anyhow::{Result, bail};
use mesh_api::Client;

use crate::format::inspect;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Services: names, ids or unique prefixes
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
    /// Format: 'json' or a Go template
    #[arg(short, long)]
    format: Option<String>,
    /// Show what matters for people
    #[arg(long, conflicts_with = "format")]
    pretty: bool,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let mut services = Vec::new();
    let mut missing = Vec::new();
    for reference in &args.services {
        match client.service(reference, args.pretty).await {
            Ok(service) => services.push(service),
            Err(error) if error.is_not_found() => {
                missing.push(format!("Error: no such service: {reference}"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    if args.pretty {
        for service in &services {
            print!("{}", super::pretty::render(service));
        }
    } else {
        inspect::print(&services, args.format.as_deref())?;
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!(missing.join("\n"))
}
