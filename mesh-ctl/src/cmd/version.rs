//! `version`

use anyhow::Result;
use mesh_api::{API_VERSION, Client};
use serde_json::json;

use crate::{format::inspect, view::text};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Format: 'json' or a Go template
    #[arg(short, long)]
    format: Option<String>,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let server = client.version().await;
    let own = env!("CARGO_PKG_VERSION");
    let os = std::env::consts::OS;
    // Go's names, as in the server's answer.
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    if let Some(format) = &args.format {
        let both = json!({
            "Client": {"Version": own, "ApiVersion": API_VERSION, "Os": os, "Arch": arch},
            "Server": server.as_ref().ok(),
        });
        say!("{}", inspect::one(&both, format)?)?;
        server?;
        return Ok(());
    }
    say!(
        "Client:\n Version:      {own}\n API version:  {API_VERSION}\n OS/Arch:      {os}/{arch}"
    )?;
    let server = server?;
    say!(
        "\nServer:\n Version:      {}\n API version:  {} (minimum version {})\n OS/Arch:      {}/{}\n Kernel:       {}",
        text(&server.version),
        text(&server.api_version),
        text(&server.min_api_version),
        text(&server.os),
        text(&server.arch),
        text(&server.kernel_version),
    )?;
    Ok(())
}
