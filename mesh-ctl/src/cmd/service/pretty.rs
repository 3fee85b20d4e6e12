//! `service inspect --pretty`, line for line as Docker prints it; but a job's mode and numbers, and generic resources, for which
//! Docker has no line.

use std::time::Duration;

use chrono::{DateTime, Utc};
use mesh_api::handout::{Kind, references};
use mesh_api::{
    engine::{
        EndpointPortConfig, HealthConfig, Limit, Mount, ResourceObject, Service,
        ServiceUpdateStatus, TaskSpec, TaskSpecContainerSpec,
    },
    generic_resource::texts,
    human::go_duration,
    moment,
};

use crate::{
    format::{human, lines::Lines},
    view::{sorted, text, word},
};

/// The service; `networks` are the names of the networks its tasks are on.
pub(super) fn render(service: &Service, networks: &[String], now: DateTime<Utc>) -> String {
    let spec = service.spec.clone().unwrap_or_default();
    let task = spec.task_template.clone().unwrap_or_default();
    let mut out = Lines::default();
    out.put(format!("\nID:\t\t{}", text(&service.id)));
    out.put(format!("Name:\t\t{}", text(&spec.name)));
    let labels = sorted(spec.labels.as_ref());
    if !labels.is_empty() {
        out.put("Labels:");
        for (name, value) in labels {
            out.put(format!(" {name}={value}"));
        }
    }
    out.put(format!(
        "Service Mode:\t{}",
        human::title(super::ls::mode(service))
    ));
    let mode = spec.mode.clone().unwrap_or_default();
    if mode.global.is_none() && mode.global_job.is_none() && mode.replicated_job.is_none() {
        let replicas = mode.replicated.and_then(|replicated| replicated.replicas);
        out.put(format!(" Replicas:\t{}", replicas.unwrap_or(1)));
    }
    if let Some(job) = &mode.replicated_job {
        let completions = job.total_completions.unwrap_or(1);
        out.put(format!(" Completions:\t{completions}"));
        let concurrent = job.max_concurrent.unwrap_or(1);
        out.put(format!(" Max concurrent:\t{concurrent}"));
    }
    if let Some(update) = &service.update_status {
        out.update_status(update, now);
    }
    out.placement(&task);
    if let Some(update) = &spec.update_config {
        out.put("UpdateConfig:");
        out.put(format!(
            " Parallelism:\t{}",
            update.parallelism.unwrap_or(0)
        ));
        out.delay(update.delay);
        out.put(format!(" On failure:\t{}", word(update.failure_action)));
        out.monitor(update.monitor);
        out.put(format!(
            " Max failure ratio: {}",
            update.max_failure_ratio.unwrap_or(0.0)
        ));
        out.put(format!(" Update order:      {}", word(update.order)));
    }
    if let Some(rollback) = &spec.rollback_config {
        out.put("RollbackConfig:");
        out.put(format!(
            " Parallelism:\t{}",
            rollback.parallelism.unwrap_or(0)
        ));
        out.delay(rollback.delay);
        out.put(format!(" On failure:\t{}", word(rollback.failure_action)));
        out.monitor(rollback.monitor);
        out.put(format!(
            " Max failure ratio: {}",
            rollback.max_failure_ratio.unwrap_or(0.0)
        ));
        out.put(format!(" Rollback order:    {}", word(rollback.order)));
    }
    out.container(&task.container_spec.clone().unwrap_or_default());
    out.resources(&task);
    if !networks.is_empty() {
        out.put(format!("Networks: {} ", networks.join(" ")));
    }
    let endpoint = service.endpoint.clone().unwrap_or_default();
    out.put(format!(
        "Endpoint Mode:\t{}",
        word(endpoint.spec.and_then(|spec| spec.mode))
    ));
    let ports = endpoint.ports.unwrap_or_default();
    out.ports(&ports);
    let container = task.container_spec.unwrap_or_default();
    if let Some(check) = &container.health_check {
        out.health_check(check);
    }
    out.put("");
    out.0
}

/// Nanoseconds as Go writes them.
fn go(nanos: i64) -> String {
    go_duration(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
}

impl Lines {
    fn update_status(&mut self, update: &ServiceUpdateStatus, now: DateTime<Utc>) {
        self.put("UpdateStatus:");
        self.put(format!(" State:\t\t{}", word(update.state)));
        for (name, at) in [
            ("Started", &update.started_at),
            ("Completed", &update.completed_at),
        ] {
            if let Some(at) = moment::read(at.as_deref()) {
                self.put(format!(" {name}:\t{}", human::ago(now, at).to_lowercase()));
            }
        }
        self.put(format!(" Message:\t{}", text(&update.message)));
    }

    fn placement(&mut self, task: &TaskSpec) {
        let placement = task.placement.clone().unwrap_or_default();
        self.put("Placement:");
        if let Some(constraints) = placement.constraints.filter(|list| !list.is_empty()) {
            self.put(format!(" Constraints:\t[{}]", constraints.join(" ")));
        }
        if let Some(most) = placement.max_replicas.filter(|most| *most > 0) {
            self.put(format!(" Max Replicas Per Node:\t{most}"));
        }
    }

    fn delay(&mut self, delay: Option<i64>) {
        if let Some(delay) = delay.filter(|delay| *delay > 0) {
            self.put(format!(" Delay:\t\t{}", go(delay)));
        }
    }

    fn monitor(&mut self, monitor: Option<i64>) {
        if let Some(monitor) = monitor.filter(|monitor| *monitor > 0) {
            self.put(format!(" Monitoring Period: {}", go(monitor)));
        }
    }

    fn container(&mut self, container: &TaskSpecContainerSpec) {
        self.put("ContainerSpec:");
        self.put(format!(" Image:\t\t{}", text(&container.image)));
        let lists = [
            (" Command:\t", &container.command),
            (" Args:\t\t", &container.args),
            (" Env:\t\t", &container.env),
        ];
        for (name, list) in lists {
            if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
                self.put(format!("{name}{} ", list.join(" ")));
            }
        }
        if let Some(dir) = &container.dir {
            self.put(format!(" Dir:\t\t{dir}"));
        }
        if let Some(init) = container.init {
            self.put(format!(" Init:\t\t{init}"));
        }
        if let Some(user) = &container.user {
            self.put(format!(" User: {user}"));
        }
        let mounts = container.mounts.as_deref().unwrap_or_default();
        if !mounts.is_empty() {
            self.put("Mounts:");
            mounts.iter().for_each(|mount| self.mount(mount));
        }
        for (kind, heading) in [(Kind::Config, "Configs:"), (Kind::Secret, "Secrets:")] {
            let mut claims = references(container)
                .filter(|claim| claim.kind == kind)
                .peekable();
            if claims.peek().is_some() {
                self.put(heading);
            }
            for claim in claims {
                let target = claim.file.map_or("", |file| file.name);
                self.put(format!(" Target:\t{target}"));
                self.put(format!("  Source:\t{}", claim.name));
            }
        }
    }

    fn mount(&mut self, mount: &Mount) {
        self.put(format!(" Target:\t{}", text(&mount.target)));
        self.put(format!("  Source:\t{}", text(&mount.source)));
        self.put(format!("  ReadOnly:\t{}", mount.read_only.unwrap_or(false)));
        self.put(format!("  Type:\t\t{}", word(mount.typ)));
    }

    fn resources(&mut self, task: &TaskSpec) {
        let Some(resources) = &task.resources else {
            return;
        };
        self.put("Resources:");
        if let Some(ResourceObject {
            nano_cpus,
            memory_bytes,
            generic_resources,
        }) = &resources.reservations
        {
            let generic = texts(generic_resources.as_deref().unwrap_or_default());
            let generic = generic
                .into_iter()
                .map(|(kind, number)| format!("{kind}={number}"));
            let generic: Vec<String> = generic.collect();
            self.share("Reservations", *nano_cpus, *memory_bytes, &generic);
        }
        if let Some(Limit {
            nano_cpus,
            memory_bytes,
            ..
        }) = resources.limits
        {
            self.share("Limits", nano_cpus, memory_bytes, &[]);
        }
    }

    fn share(
        &mut self,
        name: &str,
        nano_cpus: Option<i64>,
        memory_bytes: Option<i64>,
        generic: &[String],
    ) {
        let cpus = nano_cpus.filter(|nanos| *nanos > 0);
        let memory = memory_bytes
            .and_then(|bytes| u64::try_from(bytes).ok())
            .filter(|b| *b > 0);
        if cpus.is_none() && memory.is_none() && generic.is_empty() {
            return;
        }
        self.put(format!(" {name}:"));
        if let Some(cpus) = cpus {
            self.put(format!("  CPU:\t\t{}", cpus as f64 / 1e9));
        }
        if let Some(memory) = memory {
            self.put(format!("  Memory:\t{}", human::binary_size(memory)));
        }
        if !generic.is_empty() {
            self.put(format!("  Generic:\t{}", generic.join(" ")));
        }
    }

    /// Docker's template leaves a blank at the end.
    fn health_check(&mut self, check: &HealthConfig) {
        self.put(" Healthcheck:");
        self.put(format!("  Interval = {}", go(check.interval.unwrap_or(0))));
        self.put(format!("  Retries = {}", check.retries.unwrap_or(0)));
        self.put(format!(
            "  StartPeriod =\t{}",
            go(check.start_period.unwrap_or(0))
        ));
        self.put(format!("  Timeout =\t{}", go(check.timeout.unwrap_or(0))));
        let test = check.test.as_deref().unwrap_or_default();
        if !test.is_empty() {
            self.put("  Tests:");
            let words: Vec<String> = test.iter().map(|w| format!("\t Test = {w}")).collect();
            self.put(format!("{} ", words.join("\n")));
        }
    }

    fn ports(&mut self, ports: &[EndpointPortConfig]) {
        if !ports.is_empty() {
            self.put("Ports:");
        }
        for port in ports {
            self.put(format!(
                " PublishedPort = {}",
                port.published_port.unwrap_or(0)
            ));
            self.put(format!("  Protocol = {}", word(port.protocol)));
            self.put(format!("  TargetPort = {}", port.target_port.unwrap_or(0)));
            self.put(format!("  PublishMode = {} ", word(port.publish_mode)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the stock client prints for this very service.
    const GOLDEN: &str = "
ID:\t\t4vmb9kwvzn9n11dlgxqni5uox
Name:\t\tfull
Labels:
 a=b
Service Mode:\tReplicated
 Replicas:\t1
Placement:
 Constraints:\t[node.role==manager]
UpdateConfig:
 Parallelism:\t2
 On failure:\tpause
 Monitoring Period: 5s
 Max failure ratio: 0
 Update order:      stop-first
ContainerSpec:
 Image:\t\tbusybox:latest
 Args:\t\tsleep 300 \n Env:\t\tA=b \n Init:\t\tfalse
 User: root
Mounts:
 Target:\t/x
  Source:\t/tmp
  ReadOnly:\ttrue
  Type:\t\tbind
Configs:
 Target:\t/etc/conf
  Source:\tconf
Secrets:
 Target:\tkey
  Source:\tkey
Resources:
 Reservations:
  Memory:\t32MiB
 Limits:
  CPU:\t\t0.5
  Memory:\t64MiB
Networks: front 
Endpoint Mode:\tvip
Ports:
 PublishedPort = 90
  Protocol = tcp
  TargetPort = 90
  PublishMode = ingress 

";

    #[test]
    fn health_checks() {
        let mut out = Lines::default();
        out.health_check(&HealthConfig {
            test: Some(vec!["CMD-SHELL".to_owned(), "true".to_owned()]),
            interval: Some(100_000_000),
            ..HealthConfig::default()
        });
        assert_eq!(
            out.0,
            " Healthcheck:\n  Interval = 100ms\n  Retries = 0\n  StartPeriod =\t0s\n  Timeout =\t0s\n  Tests:\n\t Test = CMD-SHELL\n\t Test = true \n"
        );
    }

    #[test]
    fn generic_resources() {
        let reserved = |reserved: serde_json::Value| {
            let resources = serde_json::json!({"Resources": {"Reservations": reserved}});
            let mut out = Lines::default();
            out.resources(&serde_json::from_value(resources).expect("a template"));
            out.0
        };
        let gpu = serde_json::json!({"DiscreteResourceSpec": {"Kind": "gpu", "Value": 2}});
        let ssd = serde_json::json!({"DiscreteResourceSpec": {"Kind": "ssd", "Value": 1}});
        assert_eq!(
            reserved(serde_json::json!({"GenericResources": [gpu, ssd]})),
            "Resources:\n Reservations:\n  Generic:\tgpu=2 ssd=1\n"
        );
        assert_eq!(
            reserved(serde_json::json!({"GenericResources": []})),
            "Resources:\n"
        );
    }

    #[test]
    fn as_docker_prints_it() {
        let service: Service = serde_json::from_value(serde_json::json!({
            "ID": "4vmb9kwvzn9n11dlgxqni5uox",
            "Spec": {
                "Name": "full", "Labels": {"a": "b"}, "Mode": {"Replicated": {"Replicas": 1}},
                "UpdateConfig": {"Parallelism": 2, "FailureAction": "pause", "Monitor": 5_000_000_000_i64,
                                 "MaxFailureRatio": 0, "Order": "stop-first"},
                "TaskTemplate": {
                    "ContainerSpec": {
                        "Image": "busybox:latest", "Args": ["sleep", "300"], "Env": ["A=b"],
                        "Init": false, "User": "root",
                        "Mounts": [{"Type": "bind", "Source": "/tmp", "Target": "/x", "ReadOnly": true}],
                        "Secrets": [{"SecretID": "1", "SecretName": "key", "File": {"Name": "key"}}],
                        "Configs": [{"ConfigID": "2", "ConfigName": "conf", "File": {"Name": "/etc/conf"}}]
                    },
                    "Placement": {"Constraints": ["node.role==manager"]},
                    "Resources": {"Limits": {"NanoCPUs": 500_000_000, "MemoryBytes": 64 << 20},
                                  "Reservations": {"MemoryBytes": 32 << 20}}
                }
            },
            "Endpoint": {"Spec": {"Mode": "vip"}, "Ports": [
                {"Protocol": "tcp", "TargetPort": 90, "PublishedPort": 90, "PublishMode": "ingress"}
            ]}
        }))
        .expect("service");
        assert_eq!(render(&service, &["front".to_owned()], Utc::now()), GOLDEN);
    }
}
