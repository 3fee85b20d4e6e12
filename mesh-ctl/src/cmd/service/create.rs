//! `service create`

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use mesh_api::{
    Client,
    engine::{
        EndpointSpec, Limit, ResourceObject, ServiceSpec, ServiceSpecMode,
        ServiceSpecModeReplicated, ServiceSpecModeReplicatedJob, TaskSpec, TaskSpecContainerSpec,
        TaskSpecPlacement, TaskSpecResources,
    },
    handout::Kind,
};

use super::{
    WaitFlags, health_flags::HealthFlags, list_flags::ListFlags, registry_flags::RegistryFlags,
    rollout_flags::RolloutFlags, spec_flags::SpecFlags,
};
use crate::flags::{environment, handout, image, labels, network, non_empty, port, words};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Image that the tasks run
    image: String,
    /// Command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// Name of the service; one is made up if none is given
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Number of tasks; 1 where not said
    #[arg(long, value_parser = clap::value_parser!(u32), allow_hyphen_values = true)]
    replicas: Option<u32>,
    /// replicated, global, replicated-job or global-job
    #[arg(long, default_value = "replicated",
          value_parser = ["replicated", "global", "replicated-job", "global-job"])]
    mode: String,
    /// Of a replicated job: number of tasks at the same time; as many as --replicas where not said
    #[arg(long, value_parser = clap::value_parser!(u32), allow_hyphen_values = true)]
    max_concurrent: Option<u32>,
    /// Publish a port: 8080:80[/udp], or published=8080,target=80,protocol=tcp,mode=ingress|host
    #[arg(short, long = "publish", value_name = "PORT")]
    publish: Vec<String>,
    /// Attach to a network: name, or name=net,alias=other
    #[arg(long = "network", value_name = "NETWORK")]
    networks: Vec<String>,
    /// How the service's name resolves: vip or dnsrr
    #[arg(long, default_value = "vip", value_parser = ["vip", "dnsrr"])]
    endpoint_mode: String,
    /// Variable, as NAME=value
    #[arg(short, long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// File of variables
    #[arg(long, value_name = "FILE")]
    env_file: Vec<String>,
    /// Label of the service, as key=value
    #[arg(short, long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// Secret to hand to tasks: its name, or source=..,target=..,uid=..,gid=..,mode=..
    #[arg(long = "secret", value_name = "SECRET")]
    secrets: Vec<String>,
    /// Config to hand to tasks: its name, or source=..,target=..,uid=..,gid=..,mode=..
    #[arg(long = "config", value_name = "CONFIG")]
    configs: Vec<String>,
    /// Where tasks may run, as node.role==worker
    #[arg(long = "constraint", value_name = "CONSTRAINT")]
    constraints: Vec<String>,
    /// Replaces the image's entry point; quoted as in a shell
    #[arg(long)]
    entrypoint: Option<String>,
    #[command(flatten)]
    lists: ListFlags,
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
    let (wait, registry) = (args.wait.clone(), args.registry.clone());
    let (secrets, configs) = (args.secrets.clone(), args.configs.clone());
    let mut spec = spec(args)?;
    let template = spec.task_template.get_or_insert_default();
    let container = template.container_spec.get_or_insert_default();
    handout::add(client, container, Kind::Secret, &secrets).await?;
    handout::add(client, container, Kind::Config, &configs).await?;
    let warning = registry.pin(client, &mut spec).await?;
    let auth = registry.auth(&spec);
    let answer = client.service_create(&spec, auth.as_deref()).await?;
    super::warn(answer.warnings, warning);
    let id = answer
        .id
        .context("the agent gave no id for the new service")?;
    say!("{id}")?;
    wait.wait(client, &id).await
}

fn spec(args: Args) -> Result<ServiceSpec> {
    let mode = mode(&args)?;
    let mut ports = Vec::new();
    for text in &args.publish {
        ports.extend(port::parse(text)?);
    }
    let mut container = TaskSpecContainerSpec {
        image: Some(image::with_tag(&args.image)?),
        args: non_empty(args.command),
        command: args.entrypoint.as_deref().map(words).transpose()?,
        env: non_empty(environment(&args.env_file, &args.env)?),
        ..Default::default()
    };
    args.health.apply(&mut container)?;
    let placement = TaskSpecPlacement {
        constraints: non_empty(args.constraints),
        ..Default::default()
    };
    let networks: Vec<_> = args
        .networks
        .iter()
        .map(|text| network::parse(text))
        .collect::<Result<_>>()?;
    let mut spec = ServiceSpec {
        name: Some(args.name),
        labels: Some(labels(&args.labels)),
        task_template: Some(TaskSpec {
            container_spec: Some(container),
            placement: Some(placement),
            // Docker's client sends both, be they empty.
            resources: Some(TaskSpecResources {
                limits: Some(Limit::default()),
                reservations: Some(ResourceObject::default()),
            }),
            networks: non_empty(networks),
            force_update: Some(0),
            ..Default::default()
        }),
        mode: Some(mode),
        endpoint_spec: Some(EndpointSpec {
            mode: Some(super::endpoint_mode(&args.endpoint_mode)),
            ports: non_empty(ports),
        }),
        ..Default::default()
    };
    args.lists.apply(&mut spec)?;
    args.spec.apply(&mut spec);
    args.rollout.apply(&mut spec);
    let has_rollout = spec.update_config.is_some() || spec.rollback_config.is_some();
    if args.mode.ends_with("-job") && has_rollout {
        bail!("update and rollback configuration is not supported for jobs");
    }
    Ok(spec)
}

fn mode(args: &Args) -> Result<ServiceSpecMode> {
    let is_global = args.mode.starts_with("global");
    if args.replicas.is_some() && is_global {
        bail!("replicas can only be used with replicated or replicated-job mode");
    }
    if args.spec.limits_replicas_per_node() && is_global {
        bail!("replicas-max-per-node can only be used with replicated or replicated-job mode");
    }
    if args.max_concurrent.is_some() && args.mode != "replicated-job" {
        bail!("max-concurrent can only be used with replicated-job mode");
    }
    let count = args.replicas.map(i64::from);
    Ok(match args.mode.as_str() {
        "global" => ServiceSpecMode {
            global: Some(HashMap::new()),
            ..Default::default()
        },
        "global-job" => ServiceSpecMode {
            global_job: Some(HashMap::new()),
            ..Default::default()
        },
        "replicated-job" => ServiceSpecMode {
            replicated_job: Some(ServiceSpecModeReplicatedJob {
                max_concurrent: args.max_concurrent.map(i64::from).or(count),
                total_completions: count,
            }),
            ..Default::default()
        },
        _ => ServiceSpecMode {
            replicated: Some(ServiceSpecModeReplicated { replicas: count }),
            ..Default::default()
        },
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cmd::arguments;

    fn read(line: &[&str]) -> Result<serde_json::Value> {
        Ok(serde_json::to_value(spec(arguments(line)?)?)?)
    }

    #[test]
    fn the_usual_service() {
        let spec = read(&[
            "--name",
            "web",
            "--replicas",
            "5",
            "-p",
            "80:8080",
            "--network",
            "front",
            "--env",
            "A=b",
            "--limit-memory",
            "64M",
            "--constraint",
            "node.role==worker",
            "nginx",
            "sh",
            "-c",
            "exit 0",
        ])
        .expect("spec");
        assert_eq!(spec["Name"], "web");
        assert_eq!(spec["Mode"], json!({"Replicated": {"Replicas": 5}}));
        let task = &spec["TaskTemplate"];
        assert_eq!(task["ContainerSpec"]["Image"], "nginx:latest");
        assert_eq!(task["ContainerSpec"]["Args"], json!(["sh", "-c", "exit 0"]));
        assert_eq!(task["ContainerSpec"]["Env"], json!(["A=b"]));
        assert_eq!(task["Networks"], json!([{"Target": "front"}]));
        assert_eq!(
            task["Resources"]["Limits"],
            json!({"MemoryBytes": 64 << 20})
        );
        assert_eq!(
            task["Placement"]["Constraints"],
            json!(["node.role==worker"])
        );
        assert_eq!(
            spec["EndpointSpec"],
            json!({"Mode": "vip", "Ports": [
                {"Protocol": "tcp", "TargetPort": 8080, "PublishedPort": 80, "PublishMode": "ingress"}
            ]})
        );
    }

    #[test]
    fn bad_input_is_refused() {
        for line in [
            vec!["--replicas", "-1", "nginx"],
            vec!["--replicas", "x", "nginx"],
            vec!["--mode", "global", "--replicas", "2", "nginx"],
            vec!["--mode", "global-job", "--replicas", "2", "nginx"],
            vec![
                "--mode",
                "global-job",
                "--replicas-max-per-node",
                "2",
                "nginx",
            ],
            vec!["--max-concurrent", "2", "nginx"],
            vec!["--mode", "global-job", "--max-concurrent", "2", "nginx"],
            vec!["--mode", "global-job", "--update-parallelism", "2", "nginx"],
            vec![
                "--mode",
                "replicated-job",
                "--rollback-delay",
                "2s",
                "nginx",
            ],
            vec!["--publish", "99999", "nginx"],
            vec!["--mount", "type=bind,dst=/x", "nginx"],
            vec!["--limit-memory", "lots", "nginx"],
            vec!["--placement-pref", "zone", "nginx"],
            vec!["two words"],
            vec![],
        ] {
            assert!(read(&line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn jobs_and_globals() {
        assert_eq!(
            read(&["--mode", "global", "x"]).expect("global")["Mode"],
            json!({"Global": {}})
        );
        assert_eq!(
            read(&["--mode", "global-job", "x"]).expect("global")["Mode"],
            json!({"GlobalJob": {}})
        );
        for (flags, numbers) in [
            (
                &["--replicas", "3"][..],
                json!({"MaxConcurrent": 3, "TotalCompletions": 3}),
            ),
            (
                &["--replicas", "3", "--max-concurrent", "2"],
                json!({"MaxConcurrent": 2, "TotalCompletions": 3}),
            ),
            (&["--max-concurrent", "2"], json!({"MaxConcurrent": 2})),
            (&[], json!({})),
        ] {
            let line = [&["--mode", "replicated-job"], flags, &["x"]].concat();
            assert_eq!(
                read(&line).expect("job")["Mode"],
                json!({"ReplicatedJob": numbers})
            );
        }
    }
}
