//! `service inspect`

use anyhow::Result;
use mesh_api::{Client, ShownService, engine::Service};

use crate::{
    cmd::all_done,
    format::{self, inspect},
};

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
        let found = match args.pretty {
            true => client
                .service(reference, true)
                .await
                .map(|service| ShownService {
                    service,
                    previous_spec: None,
                }),
            false => client.shown_service(reference).await,
        };
        match found {
            Ok(service) => services.push(service),
            Err(error) if error.is_not_found() => {
                missing.push(format!("Error: no such service: {reference}"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    if args.pretty {
        for ShownService { service, .. } in &services {
            let networks = network_names(client, service).await;
            let text = super::pretty::render(service, &networks, chrono::Utc::now());
            format::write(&text)?;
        }
    } else {
        inspect::print(&services, args.format.as_deref())?;
    }
    all_done(missing)
}

/// The names of the networks its tasks are on; what cannot be looked up is shown as the spec has it.
async fn network_names(client: &Client, service: &Service) -> Vec<String> {
    let attached = service
        .spec
        .as_ref()
        .and_then(|spec| spec.task_template.as_ref()?.networks.clone())
        .unwrap_or_default();
    let mut names = Vec::with_capacity(attached.len());
    for target in attached.into_iter().filter_map(|network| network.target) {
        let found = client
            .network(&target)
            .await
            .ok()
            .and_then(|network| network.name);
        names.push(found.unwrap_or(target));
    }
    names
}
