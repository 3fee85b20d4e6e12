//! `service scale`

use anyhow::{Context, Result, bail};
use mesh_api::{Client, engine::Service};

use super::WaitFlags;
use crate::progress;

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
                println!("{service} scaled to {replicas}");
                changed.push(id);
            }
            Err(error) => errors.push(format!("{service}: {error:#}")),
        }
    }
    if !args.wait.detach {
        for id in &changed {
            if let Err(error) = progress::wait(client, id, args.wait.quiet).await {
                errors.push(format!("{id}: {error:#}"));
            }
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    bail!(errors.join("\n"))
}

async fn scale(client: &Client, reference: &str, replicas: u32) -> Result<String> {
    let service = client.service(reference, false).await?;
    let (id, version) = identity(&service)?;
    let mut spec = service.spec.unwrap_or_default();
    let mode = spec.mode.get_or_insert_default();
    if let Some(job) = &mut mode.replicated_job {
        job.total_completions = Some(replicas.into());
    } else if mode.global.is_some() || mode.global_job.is_some() {
        bail!("scale can only be used with replicated or replicated-job mode");
    } else {
        mode.replicated.get_or_insert_default().replicas = Some(replicas.into());
    }
    let answer = client.service_update(&id, version, &spec, None).await?;
    for warning in answer.warnings.unwrap_or_default() {
        eprintln!("{warning}");
    }
    Ok(id)
}

/// The id and version of a service.
pub(super) fn identity(service: &Service) -> Result<(String, u64)> {
    let id = service
        .id
        .clone()
        .context("the agent gave a service without an id")?;
    let version = service
        .version
        .as_ref()
        .and_then(|version| version.index)
        .context("the agent gave a service without a version")?;
    Ok((id, version))
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
