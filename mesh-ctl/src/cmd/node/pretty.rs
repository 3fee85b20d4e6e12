//! `node inspect --pretty`

use std::fmt::Write;

use mesh_api::engine::Node;

use crate::{
    format::human,
    view::{sorted, word},
};

pub(super) fn render(node: &Node) -> String {
    let mut out = String::new();
    let spec = node.spec.clone().unwrap_or_default();
    let known = node.description.clone().unwrap_or_default();
    let status = node.status.clone().unwrap_or_default();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut line = |name: &str, value: String| {
        let gap = if name.starts_with(' ') { 24 } else { 0 };
        let _ = writeln!(out, "{:<gap$}{value}", format!("{name}:\t"));
    };
    line("ID", text(&node.id));
    if spec.name.as_deref().is_some_and(|name| !name.is_empty()) {
        line("Name", text(&spec.name));
    }
    let labels = sorted(spec.labels.as_ref());
    if !labels.is_empty() {
        line("Labels", String::new());
        for (name, value) in labels {
            line(&format!(" - {name}={value}"), String::new());
        }
    }
    line("Hostname", format!("\t{}", text(&known.hostname)));
    line(
        "Joined at",
        node.created_at
            .map(|at| format!("\t{}", at.format("%Y-%m-%d %H:%M:%S%.f UTC")))
            .unwrap_or_default(),
    );
    line("Status", String::new());
    line(" State", human::title(&word(status.state)));
    if status
        .message
        .as_deref()
        .is_some_and(|message| !message.is_empty())
    {
        line(" Message", text(&status.message));
    }
    line(" Availability", human::title(&word(spec.availability)));
    line(" Address", text(&status.addr));
    if let Some(manager) = &node.manager_status {
        line("Manager Status", String::new());
        line(" Address", text(&manager.addr));
        line(" Raft Status", human::title(&word(manager.reachability)));
        let leader = if manager.leader == Some(true) {
            "Yes"
        } else {
            "No"
        };
        line(" Leader", leader.to_owned());
    }
    let platform = known.platform.unwrap_or_default();
    line("Platform", String::new());
    line(" Operating System", text(&platform.os));
    line(" Architecture", text(&platform.architecture));
    let resources = known.resources.unwrap_or_default();
    line("Resources", String::new());
    line(
        " CPUs",
        (resources.nano_cpus.unwrap_or(0) / 1_000_000_000).to_string(),
    );
    let memory = u64::try_from(resources.memory_bytes.unwrap_or(0)).unwrap_or(0);
    line(" Memory", human::binary_size(memory));
    let engine = known.engine.unwrap_or_default();
    line(
        "Engine Version",
        format!("\t{}", text(&engine.engine_version)),
    );
    let labels = sorted(engine.labels.as_ref());
    if !labels.is_empty() {
        line("Engine Labels", String::new());
        for (name, value) in labels {
            line(&format!(" - {name}={value}"), String::new());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_matters() {
        let node: Node = serde_json::from_value(serde_json::json!({
            "ID": "n1", "Spec": {"Availability": "active", "Labels": {"zone": "a"}},
            "Description": {"Hostname": "h1", "Resources": {"NanoCPUs": 2000000000_i64, "MemoryBytes": 1073741824}},
            "Status": {"State": "ready", "Addr": "10.0.0.1"},
            "ManagerStatus": {"Leader": true, "Reachability": "reachable", "Addr": "10.0.0.1:2377"}
        }))
        .expect("node");
        let text = render(&node);
        for part in [
            "ID:\tn1",
            "zone=a",
            "h1",
            "Ready",
            "Active",
            "Yes",
            "1GiB",
            "10.0.0.1:2377",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
