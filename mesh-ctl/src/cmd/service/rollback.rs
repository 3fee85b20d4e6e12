//! `service rollback`

use anyhow::Result;
use mesh_api::Client;

use super::WaitFlags;
use crate::progress;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Service: name, id or unique prefix
    service: String,
    #[command(flatten)]
    wait: WaitFlags,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let service = client.service(&args.service, false).await?;
    let (id, version) = super::identity(&service)?;
    let spec = service.spec.unwrap_or_default();
    let answer = client.service_rollback(&id, version, &spec).await?;
    super::warn(answer.warnings, None);
    say!("{}", args.service)?;
    if args.wait.detach {
        return Ok(());
    }
    progress::wait_for_rollback(client, &id, args.wait.quiet).await
}
