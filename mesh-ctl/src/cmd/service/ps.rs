//! `service ps`

use anyhow::Result;
use mesh_api::Client;

use crate::{
    cmd::all_done,
    view::task_table::{self, TaskFlags},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Services: names, ids or unique prefixes
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
    #[command(flatten)]
    flags: TaskFlags,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let mut filters = args.flags.list.filters()?;
    let mut missing = Vec::new();
    let mut found = false;
    for reference in &args.services {
        match client.service(reference, false).await {
            Ok(service) => {
                filters = filters.with("service", service.id.unwrap_or_default());
                found = true;
            }
            Err(error) if error.is_not_found() => {
                missing.push(format!("no such service: {reference}"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    if found {
        let tasks = client.tasks(&filters).await?;
        task_table::print(client, &args.flags, tasks).await?;
    }
    all_done(missing)
}
