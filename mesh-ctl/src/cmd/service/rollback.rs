//! `service rollback`

use anyhow::Result;
use mesh_api::Client;

use super::WaitFlags;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Service: name, id or unique prefix
    pub(super) service: String,
    #[command(flatten)]
    pub(super) wait: WaitFlags,
}

/// Goes back to the spec before the last update.
pub(super) async fn run(client: &Client, name: String, wait: WaitFlags) -> Result<()> {
    let service = client.service(&name, false).await?;
    let (id, version) = super::identity(&service)?;
    let spec = service.spec.unwrap_or_default();
    let answer = client.service_rollback(&id, version, &spec).await?;
    super::warn(answer.warnings, None);
    say!("{name}")?;
    wait.wait_for_rollback(client, &id).await
}
