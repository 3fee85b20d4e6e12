//! `service inspect --pretty`

use std::fmt::Write;

use mesh_api::engine::Service;

use crate::{
    format::human,
    view::{sorted, word},
};

pub(super) fn render(service: &Service) -> String {
    let spec = service.spec.clone().unwrap_or_default();
    let task = spec.task_template.clone().unwrap_or_default();
    let container = task.container_spec.clone().unwrap_or_default();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "{}", format!("{name}:\t{value}").trim_end());
    };
    line("\nID", &text(&service.id));
    line("Name", &text(&spec.name));
    for (name, value) in sorted(spec.labels.as_ref()) {
        line("Label", &format!("{name}={value}"));
    }
    line("Service Mode", &human::title(super::ls::mode(service)));
    if let Some(replicated) = spec.mode.as_ref().and_then(|mode| mode.replicated.as_ref()) {
        line(" Replicas", &replicated.replicas.unwrap_or(1).to_string());
    }
    if let Some(update) = &service.update_status {
        line("UpdateStatus", "");
        line(" State", &word(update.state));
        line(" Message", &text(&update.message));
    }
    line("Placement", "");
    for constraint in task
        .placement
        .and_then(|placement| placement.constraints)
        .unwrap_or_default()
    {
        line(" Constraint", &constraint);
    }
    if let Some(update) = &spec.update_config {
        line("UpdateConfig", "");
        line(" Parallelism", &update.parallelism.unwrap_or(1).to_string());
        line(" On failure", &word(update.failure_action));
        line(" Update order", &word(update.order));
    }
    line("ContainerSpec", "");
    line(" Image", &text(&container.image));
    for (name, list) in [
        ("Command", &container.command),
        ("Args", &container.args),
        ("Env", &container.env),
    ] {
        if let Some(list) = list {
            line(&format!(" {name}"), &list.join(" "));
        }
    }
    for mount in container.mounts.unwrap_or_default() {
        line("Mounts", "");
        line(" Target", &text(&mount.target));
        line("  Source", &text(&mount.source));
        line("  ReadOnly", &mount.read_only.unwrap_or(false).to_string());
        line("  Type", &word(mount.typ));
    }
    if let Some(resources) = &task.resources {
        line("Resources", "");
        let limits = resources.limits.clone().unwrap_or_default();
        let kept = resources.reservations.clone().unwrap_or_default();
        for (name, cpus, memory) in [
            ("Reservations", kept.nano_cpus, kept.memory_bytes),
            ("Limits", limits.nano_cpus, limits.memory_bytes),
        ] {
            if cpus.is_some() || memory.is_some() {
                line(&format!(" {name}"), "");
            }
            if let Some(cpus) = cpus {
                line("  CPU", &(cpus as f64 / 1e9).to_string());
            }
            if let Some(memory) = memory.and_then(|memory| u64::try_from(memory).ok()) {
                line("  Memory", &human::binary_size(memory));
            }
        }
    }
    for network in task.networks.unwrap_or_default() {
        line("Networks", &text(&network.target));
    }
    let endpoint = service.endpoint.clone().unwrap_or_default();
    let mode = endpoint.spec.and_then(|spec| spec.mode);
    line("Endpoint Mode", &word(mode));
    for port in endpoint.ports.unwrap_or_default() {
        line("Ports", "");
        line(
            " PublishedPort =",
            &port.published_port.unwrap_or(0).to_string(),
        );
        line("  Protocol =", &word(port.protocol));
        line("  TargetPort =", &port.target_port.unwrap_or(0).to_string());
        line("  PublishMode =", &word(port.publish_mode));
    }
    out.replace("=:\t", "= ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_matters() {
        let service: Service = serde_json::from_value(serde_json::json!({
            "ID": "s1",
            "Spec": {"Name": "web", "Mode": {"Replicated": {"Replicas": 2}},
                     "TaskTemplate": {"ContainerSpec": {"Image": "nginx", "Args": ["a", "b"]},
                                      "Resources": {"Limits": {"MemoryBytes": 67108864}}}},
            "Endpoint": {"Spec": {"Mode": "vip"},
                         "Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}]}
        }))
        .expect("service");
        let text = render(&service);
        for part in [
            "Name:\tweb",
            "Replicas:\t2",
            "Args:\ta b",
            "Memory:\t64MiB",
            "Endpoint Mode:\tvip",
            "PublishedPort = 8080",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
