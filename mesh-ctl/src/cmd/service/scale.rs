//! `service scale`

use anyhow::Result;
use mesh_api::Client;

use super::WaitFlags;
use crate::{cmd::all_done, progress::Waited};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Services and their number of tasks, as service=3
    #[arg(required = true, value_name = "SERVICE=REPLICAS", value_parser = target)]
    targets: Vec<(String, u32)>,
    #[command(flatten)]
    wait: WaitFlags,
}

fn target(text: &str) -> Result<(String, u32), String> {
    let (service, replicas) = text
        .split_once('=')
        .filter(|(service, _)| !service.is_empty())
        .ok_or_else(|| format!("invalid scale specifier '{text}': write it as service=replicas"))?;
    let replicas = replicas
        .parse()
        .map_err(|_| format!("invalid replicas value {replicas}: it is a number from 0 up"))?;
    Ok((service.to_owned(), replicas))
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    let mut errors = Vec::new();
    let mut changed = Vec::new();
    for (service, replicas) in &args.targets {
        match scale(client, service, *replicas).await {
            Ok(id) => {
                // The others are scaled also where nobody reads on.
                drop(say!("{service} scaled to {replicas}"));
                changed.push(id);
            }
            Err(error) => errors.push(format!("{service}: {error:#}")),
        }
    }
    for id in &changed {
        let waited = args.wait.waited(client, id, false).await;
        // Ctrl-C ends the waiting for all.
        let is_interrupted = matches!(waited, Ok(Waited::Interrupted));
        if let Err(error) = waited.and_then(|waited| args.wait.end(waited)) {
            errors.push(format!("{id}: {error:#}"));
        }
        if is_interrupted {
            break;
        }
    }
    all_done(errors)
}

async fn scale(client: &Client, reference: &str, replicas: u32) -> Result<String> {
    let service = client.service(reference, false).await?;
    let (id, version) = super::identity(&service)?;
    let mut spec = service.spec.unwrap_or_default();
    super::set_replicas(&mut spec, replicas)?;
    let answer = client.service_update(&id, version, &spec, None).await?;
    super::warn(answer.warnings, None);
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::target;

    #[test]
    fn specifiers() {
        assert_eq!(target("web=5"), Ok(("web".to_owned(), 5)));
        for text in ["web", "web=", "web=-1", "=5", "web=x"] {
            assert!(target(text).is_err(), "{text}");
        }
    }
}
