//! `service`: services and their tasks.

mod create;
mod health_flags;
mod inspect;
mod list_flags;
mod logs;
mod ls;
mod pretty;
mod ps;
mod registry_flags;
mod rollback;
mod rollout_flags;
mod scale;
mod spec_flags;
mod update;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use mesh_api::{
    Client,
    engine::{EndpointSpecModeEnum as EndpointMode, Service, ServiceSpec},
};

use crate::{
    flags::quantity,
    progress::{self, Waited},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a service
    Create(Box<create::Args>),
    /// Show services in full
    Inspect(inspect::Args),
    /// Show the logs of a service or a task
    Logs(logs::Args),
    /// List services
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    /// List the tasks of services
    Ps(ps::Args),
    /// Remove services
    #[command(visible_alias = "remove")]
    Rm(Rm),
    /// Put a service's previous spec back
    Rollback(rollback::Args),
    /// Set the number of tasks of services
    Scale(scale::Args),
    /// Change a service
    Update(Box<update::Args>),
}

/// How a service's name resolves: one of the words that the flag takes.
fn endpoint_mode(word: &str) -> EndpointMode {
    match word {
        "dnsrr" => EndpointMode::DNSRR,
        _ => EndpointMode::VIP,
    }
}

/// Flags of `service rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// Services: names, ids or unique prefixes
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

/// Whether to wait until the service has converged.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct WaitFlags {
    /// Return at once instead of waiting for the service to converge
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) detach: bool,
    /// Show no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Afterwards wait until all nodes that are up have applied the change, a minute at most or for TIME; with --detach the
    /// new spec alone, not the tasks that come of it
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "1m",
          value_parser = quantity::duration)]
    pub(crate) wait_applied: Option<i64>,
}

impl WaitFlags {
    /// Waits, unless told not to.
    async fn wait(&self, client: &Client, id: &str) -> Result<()> {
        self.end(self.waited(client, id, false).await?)
    }

    /// Waits until a service that is being rolled back has converged, unless told not to.
    async fn wait_for_rollback(&self, client: &Client, id: &str) -> Result<()> {
        self.end(self.waited(client, id, true).await?)
    }

    /// Waits for the service, a rollback of it if told so, and then for the nodes, each unless told not to.
    async fn waited(&self, client: &Client, id: &str, rollback: bool) -> Result<Waited> {
        let waited = match (self.detach, rollback) {
            (true, _) => Waited::Converged,
            (false, true) => progress::wait_for_rollback(client, id, self.quiet).await?,
            (false, false) => progress::wait(client, id, self.quiet).await?,
        };
        let limit = self
            .wait_applied
            .and_then(|nanos| u64::try_from(nanos).ok());
        match limit.map(Duration::from_nanos) {
            Some(limit) if waited == Waited::Converged => {
                progress::applied::wait(client, id, limit, self.quiet).await
            }
            _ => Ok(waited),
        }
    }

    /// What the end of waiting means to the command: Ctrl-C leaves a service to itself.
    ///
    /// # Errors
    /// Its user wants to go on only where nodes have applied it.
    fn end(&self, waited: Waited) -> Result<()> {
        let is_known = waited == Waited::Converged || self.wait_applied.is_none();
        ensure!(
            is_known,
            "interrupted before all nodes that are up had applied the change"
        );
        Ok(())
    }
}

pub(crate) async fn run(client: &Client, command: Command) -> Result<()> {
    match command {
        Command::Create(args) => create::run(client, *args).await,
        Command::Inspect(args) => inspect::run(client, args).await,
        Command::Logs(args) => logs::run(client, args).await,
        Command::Ls(args) => ls::run(client, args).await,
        Command::Ps(args) => ps::run(client, args).await,
        Command::Rm(args) => {
            super::for_each(args.services, async |name| {
                Ok(client.service_remove(&name).await?)
            })
            .await
        }
        Command::Rollback(args) => rollback::run(client, args.service, args.wait).await,
        Command::Scale(args) => scale::run(client, args).await,
        Command::Update(args) => update::run(client, *args).await,
    }
}

/// The id and version of a service.
fn identity(service: &Service) -> Result<(String, u64)> {
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

/// Sets the number of tasks.
fn set_replicas(spec: &mut ServiceSpec, replicas: u32) -> Result<()> {
    let mode = spec.mode.get_or_insert_default();
    if let Some(job) = &mut mode.replicated_job {
        job.total_completions = Some(replicas.into());
    } else if mode.global.is_some() || mode.global_job.is_some() {
        bail!("scale can only be used with replicated or replicated-job mode");
    } else {
        mode.replicated.get_or_insert_default().replicas = Some(replicas.into());
    }
    Ok(())
}

/// Shows what the agent and we ourselves have to say against an order that was carried out.
fn warn(answered: Option<Vec<String>>, own: Option<String>) {
    for warning in answered.into_iter().flatten().chain(own) {
        note!("{warning}");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn replicas_of_each_mode() {
        let set = |mode: serde_json::Value| {
            let mut spec: ServiceSpec =
                serde_json::from_value(json!({ "Mode": mode })).expect("spec");
            set_replicas(&mut spec, 3)?;
            Ok::<_, anyhow::Error>(serde_json::to_value(spec).expect("json")["Mode"].clone())
        };
        assert_eq!(
            set(json!({"Replicated": {"Replicas": 1}})).expect("replicated"),
            json!({"Replicated": {"Replicas": 3}})
        );
        assert_eq!(
            set(json!({"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 1}}))
                .expect("a job"),
            json!({"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 3}})
        );
        assert!(set(json!({"Global": {}})).is_err());
        assert!(set(json!({"GlobalJob": {}})).is_err());
    }
}
