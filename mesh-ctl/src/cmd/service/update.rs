//! `service update`

use anyhow::{Result, bail};
use mesh_api::{
    Client,
    engine::{
        EndpointPortConfig, EndpointPortConfigProtocolEnum as Protocol, ServiceSpec,
        TaskSpecContainerSpec,
    },
    handout::Kind,
};

use super::{
    WaitFlags, health_flags::HealthFlags, list_flags::ListChanges, registry_flags::RegistryFlags,
    rollout_flags::RolloutFlags, spec_flags::SpecFlags,
};
use crate::flags::{environment, handout, image, labels, network, non_empty, port, words};

/// What changes the spec: flags, and groups of them.
const CHANGES: [&str; 25] = [
    "args",
    "config_add",
    "config_rm",
    "constraint_add",
    "constraint_rm",
    "endpoint_mode",
    "entrypoint",
    "env_add",
    "env_rm",
    "force",
    "image",
    "label_add",
    "label_rm",
    "max_concurrent",
    "network_add",
    "network_rm",
    "publish_add",
    "publish_rm",
    "replicas",
    "secret_add",
    "secret_rm",
    "HealthFlags",
    "ListChanges",
    "RolloutFlags",
    "SpecFlags",
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Service: name, id or unique prefix
    service: String,
    /// Image that the tasks run
    #[arg(long)]
    image: Option<String>,
    /// Number of tasks
    #[arg(long, allow_hyphen_values = true)]
    replicas: Option<u32>,
    /// Of a replicated job: number of tasks at the same time
    #[arg(long, allow_hyphen_values = true)]
    max_concurrent: Option<u32>,
    /// Replace every task even if nothing changes; execute a job again
    #[arg(long)]
    force: bool,
    /// Arguments of the command; quoted as in a shell
    #[arg(long, value_name = "COMMAND")]
    args: Option<String>,
    /// Set a variable, as NAME=value
    #[arg(long, value_name = "VARIABLE")]
    env_add: Vec<String>,
    /// Remove a variable
    #[arg(long, value_name = "NAME")]
    env_rm: Vec<String>,
    /// Set a label, as key=value
    #[arg(long, value_name = "LABEL")]
    label_add: Vec<String>,
    /// Remove a label
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// Publish a port
    #[arg(long, value_name = "PORT")]
    publish_add: Vec<String>,
    /// Stop publishing the ports of a target port
    #[arg(long, value_name = "TARGET")]
    publish_rm: Vec<String>,
    /// Attach to a network
    #[arg(long, value_name = "NETWORK")]
    network_add: Vec<String>,
    /// Detach from a network
    #[arg(long, value_name = "NETWORK")]
    network_rm: Vec<String>,
    /// Hand a secret to tasks
    #[arg(long, value_name = "SECRET")]
    secret_add: Vec<String>,
    /// Hand a secret to tasks no more
    #[arg(long, value_name = "NAME")]
    secret_rm: Vec<String>,
    /// Hand a config to tasks
    #[arg(long, value_name = "CONFIG")]
    config_add: Vec<String>,
    /// Hand a config to tasks no more
    #[arg(long, value_name = "NAME")]
    config_rm: Vec<String>,
    /// Add a placement constraint
    #[arg(long, value_name = "CONSTRAINT")]
    constraint_add: Vec<String>,
    /// Remove a placement constraint
    #[arg(long, value_name = "CONSTRAINT")]
    constraint_rm: Vec<String>,
    /// Replaces the image's entry point; quoted as in a shell, empty for the image's own
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// How the service's name resolves: vip or dnsrr
    #[arg(long, value_parser = ["vip", "dnsrr"])]
    endpoint_mode: Option<String>,
    /// Go back to the spec before the last update
    #[arg(long, conflicts_with_all = CHANGES)]
    rollback: bool,
    #[command(flatten)]
    lists: ListChanges,
    #[command(flatten)]
    spec: SpecFlags,
    #[command(flatten)]
    health: HealthFlags,
    #[command(flatten)]
    rollout: RolloutFlags,
    #[command(flatten)]
    registry: RegistryFlags,
    #[command(flatten)]
    wait: WaitFlags,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<()> {
    if args.rollback {
        return super::rollback::run(client, args.service, args.wait).await;
    }
    let service = client.service(&args.service, false).await?;
    let (id, version) = super::identity(&service)?;
    let mut spec = service.spec.unwrap_or_default();
    change(client, &mut spec, &args).await?;
    let warning = match args.image {
        Some(_) => args.registry.pin(client, &mut spec).await?,
        None => None,
    };
    let auth = args.registry.auth(&spec);
    let answer = client
        .service_update(&id, version, &spec, auth.as_deref())
        .await?;
    super::warn(answer.warnings, warning);
    say!("{}", args.service)?;
    args.wait.wait(client, &id).await
}

async fn change(client: &Client, spec: &mut ServiceSpec, args: &Args) -> Result<()> {
    if let Some(replicas) = args.replicas {
        let mode = spec.mode.get_or_insert_default();
        if mode.global.is_some() || mode.global_job.is_some() || mode.replicated_job.is_some() {
            bail!("replicas can only be used with replicated mode");
        }
        mode.replicated.get_or_insert_default().replicas = Some(replicas.into());
    }
    if let Some(tasks) = args.max_concurrent {
        match spec.mode.as_mut().and_then(|m| m.replicated_job.as_mut()) {
            Some(job) => job.max_concurrent = Some(tasks.into()),
            None => bail!("max-concurrent can only be used with replicated-job mode"),
        }
    }
    args.lists.apply(spec)?;
    args.spec.apply(spec);
    args.rollout.apply(spec);
    if let Some(mode) = &args.endpoint_mode {
        spec.endpoint_spec.get_or_insert_default().mode = Some(super::endpoint_mode(mode));
    }
    let map = spec.labels.get_or_insert_default();
    map.retain(|name, _| !args.label_rm.contains(name));
    map.extend(labels(&args.label_add));
    let task = spec.task_template.get_or_insert_default();
    if args.force {
        task.force_update = Some(task.force_update.unwrap_or(0) + 1);
    }
    let container = task.container_spec.get_or_insert_default();
    self::container(container, args)?;
    args.health.apply(container)?;
    for (kind, removed, added) in [
        (Kind::Secret, &args.secret_rm, &args.secret_add),
        (Kind::Config, &args.config_rm, &args.config_add),
    ] {
        handout::remove(container, kind, removed);
        handout::add(client, container, kind, added).await?;
    }
    if !args.constraint_add.is_empty() || !args.constraint_rm.is_empty() {
        let constraints = task
            .placement
            .get_or_insert_default()
            .constraints
            .get_or_insert_default();
        constraints.retain(|constraint| !args.constraint_rm.contains(constraint));
        constraints.extend(args.constraint_add.iter().cloned());
    }
    if !args.network_rm.is_empty() || !args.network_add.is_empty() {
        let networks = task.networks.get_or_insert_default();
        for name in &args.network_rm {
            let network = client.network(name).await?;
            networks.retain(|attached| {
                attached.target != network.id && attached.target != network.name
            });
        }
        for text in &args.network_add {
            networks.push(network::parse(text)?);
        }
    }
    publish(spec, args)
}

fn container(container: &mut TaskSpecContainerSpec, args: &Args) -> Result<()> {
    if let Some(name) = &args.image {
        container.image = Some(image::with_tag(name)?);
    }
    if let Some(line) = &args.args {
        container.args = Some(words(line)?);
    }
    if let Some(line) = &args.entrypoint {
        container.command = non_empty(words(line)?);
    }
    let added = environment(&[], &args.env_add)?;
    if added.is_empty() && args.env_rm.is_empty() {
        return Ok(());
    }
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let variables = container.env.get_or_insert_default();
    variables.retain(|variable| {
        let variable = name(variable);
        !args.env_rm.contains(&variable) && !added.iter().any(|other| name(other) == variable)
    });
    variables.extend(added);
    Ok(())
}

fn publish(spec: &mut ServiceSpec, args: &Args) -> Result<()> {
    if args.publish_add.is_empty() && args.publish_rm.is_empty() {
        return Ok(());
    }
    let ports = spec
        .endpoint_spec
        .get_or_insert_default()
        .ports
        .get_or_insert_default();
    for text in &args.publish_rm {
        let removed = port::parse(text)?;
        ports.retain(|port| !removed.iter().any(|other| same_target(port, other)));
    }
    for text in &args.publish_add {
        for added in port::parse(text)? {
            ports.retain(|port| !same_published(port, &added) && *port != added);
            ports.push(added);
        }
    }
    Ok(())
}

fn same_target(port: &EndpointPortConfig, other: &EndpointPortConfig) -> bool {
    port.target_port == other.target_port && protocol(port) == protocol(other)
}

/// A port that the manager chooses is no other's.
fn same_published(port: &EndpointPortConfig, other: &EndpointPortConfig) -> bool {
    port.published_port.is_some_and(|port| port > 0)
        && port.published_port == other.published_port
        && protocol(port) == protocol(other)
}

fn protocol(port: &EndpointPortConfig) -> Protocol {
    port.protocol.unwrap_or(Protocol::TCP)
}

#[cfg(test)]
mod tests {
    use clap::Args as _;
    use serde_json::json;

    use super::*;
    use crate::cmd::arguments;

    #[test]
    fn a_rollback_changes_nothing_else() {
        let command = Args::augment_args(clap::Command::new("update"));
        let rollback = command
            .get_arguments()
            .find(|arg| arg.get_id() == "rollback")
            .expect("the flag");
        let conflicts: Vec<_> = command
            .get_arg_conflicts_with(rollback)
            .iter()
            .map(|arg| arg.get_id().clone())
            .collect();
        let combined = ["service", "rollback", "detach", "quiet", "wait_applied"];
        for arg in command.get_arguments() {
            let id = arg.get_id();
            let is_of_registry = id.as_str().contains("resolve") || id.as_str().contains("auth");
            assert_ne!(
                combined.contains(&id.as_str()) || is_of_registry,
                conflicts.contains(id),
                "{id}"
            );
        }
        arguments::<Args>(&["--rollback", "--ulimit-rm", "core", "web"]).expect_err("both");
    }

    /// Ports as (published, target) after an update by these flags.
    fn ports(before: serde_json::Value, line: &[&str]) -> Vec<(Option<i64>, Option<i64>)> {
        let mut spec: ServiceSpec =
            serde_json::from_value(json!({"EndpointSpec": {"Ports": before}})).expect("spec");
        let args = arguments(&[line, &["web"]].concat()).expect("arguments");
        publish(&mut spec, &args).expect("ports");
        spec.endpoint_spec
            .and_then(|endpoint| endpoint.ports)
            .unwrap_or_default()
            .iter()
            .map(|port| (port.published_port, port.target_port))
            .collect()
    }

    #[test]
    fn a_published_port_moves_and_a_chosen_one_stays() {
        let chosen = json!([{"Protocol": "tcp", "TargetPort": 80, "PublishMode": "ingress"}]);
        assert_eq!(
            ports(chosen.clone(), &["--publish-add", "90"]),
            [(None, Some(80)), (None, Some(90))]
        );
        assert_eq!(
            ports(chosen.clone(), &["--publish-add", "80"]),
            [(None, Some(80))]
        );
        assert_eq!(ports(chosen, &["--publish-rm", "80"]), []);
        let fixed = json!([{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080}]);
        assert_eq!(
            ports(fixed, &["--publish-add", "8080:81"]),
            [(Some(8080), Some(81))]
        );
    }
}
