//! `node inspect --pretty`, line for line as Docker prints it; but generic resources, for which Docker has no line.

use std::collections::HashMap;

use mesh_api::{engine::Node, generic_resource::texts};

use crate::{
    format::{human, lines::Lines},
    view::{sorted, text, word},
};

/// The node.
pub(super) fn render(node: &Node) -> String {
    let spec = node.spec.clone().unwrap_or_default();
    let known = node.description.clone().unwrap_or_default();
    let status = node.status.clone().unwrap_or_default();
    let mut out = Lines::default();
    out.put(format!("ID:\t\t\t{}", text(&node.id)));
    if let Some(name) = spec.name.as_deref().filter(|name| !name.is_empty()) {
        out.put(format!("Name:\t\t\t{name}"));
    }
    out.labels("Labels", spec.labels.as_ref());
    out.put(format!(
        "Hostname:              \t{}",
        text(&known.hostname)
    ));
    if node.created_at.is_some() {
        let at = human::moment(node.created_at.as_deref());
        out.put(format!("Joined at:             \t{at}"));
    }
    out.put("Status:");
    out.put(format!(
        " State:\t\t\t{}",
        human::title(&word(status.state))
    ));
    if let Some(message) = status
        .message
        .as_deref()
        .filter(|message| !message.is_empty())
    {
        out.put(format!(" Message:              \t{message}"));
    }
    out.put(format!(
        " Availability:         \t{}",
        human::title(&word(spec.availability))
    ));
    if let Some(address) = status.addr.as_deref().filter(|address| !address.is_empty()) {
        out.put(format!(" Address:\t\t{address}"));
    }
    if let Some(manager) = &node.manager_status {
        let leader = if manager.leader == Some(true) {
            "Yes"
        } else {
            "No"
        };
        out.put("Manager Status:");
        out.put(format!(" Address:\t\t{}", text(&manager.addr)));
        out.put(format!(
            " Raft Status:\t\t{}",
            human::title(&word(manager.reachability))
        ));
        out.put(format!(" Leader:\t\t{leader}"));
    }
    let platform = known.platform.unwrap_or_default();
    out.put("Platform:");
    out.put(format!(" Operating System:\t{}", text(&platform.os)));
    out.put(format!(
        " Architecture:\t\t{}",
        text(&platform.architecture)
    ));
    let resources = known.resources.unwrap_or_default();
    let memory = u64::try_from(resources.memory_bytes.unwrap_or(0)).unwrap_or(0);
    out.put("Resources:");
    out.put(format!(
        " CPUs:\t\t\t{}",
        resources.nano_cpus.unwrap_or(0) / 1_000_000_000
    ));
    out.put(format!(" Memory:\t\t{}", human::binary_size(memory)));
    let generic = resources.generic_resources.unwrap_or_default();
    let generic = texts(&generic);
    if !generic.is_empty() {
        out.put(" Generic:");
    }
    for (kind, text) in generic {
        out.put(format!("  {kind}={text}"));
    }
    let engine = known.engine.unwrap_or_default();
    out.put(format!(
        "Engine Version:\t\t{}",
        text(&engine.engine_version)
    ));
    out.labels("Engine Labels", engine.labels.as_ref());
    if let Some(tls) = &known.tls_info {
        out.put("TLS Info:");
        out.put(" TrustRoot:");
        out.put(text(&tls.trust_root));
        let subject = text(&tls.cert_issuer_subject);
        out.put(format!(" Issuer Subject:\t{subject}"));
        let key = text(&tls.cert_issuer_public_key);
        out.put(format!(" Issuer Public Key:\t{key}"));
    }
    out.0
}

impl Lines {
    fn labels(&mut self, heading: &str, labels: Option<&HashMap<String, String>>) {
        let labels = sorted(labels);
        if !labels.is_empty() {
            self.put(format!("{heading}:"));
        }
        for (name, value) in labels {
            self.put(format!(" - {name}={value}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What the stock client prints for this very node.
    const GOLDEN: &str = "\
ID:\t\t\te39nxco66pmyxz3lq80by22go
Labels:
 - zone=a
Hostname:              \tn1
Joined at:             \t2026-11-21 03:25:25.279 +0000 utc
Status:
 State:\t\t\tReady
 Availability:         \tActive
 Address:\t\t192.168.231.1
Manager Status:
 Address:\t\t192.168.231.1:2377
 Raft Status:\t\tReachable
 Leader:\t\tYes
Platform:
 Operating System:\tlinux
 Architecture:\t\tx86_64
Resources:
 CPUs:\t\t\t2
 Memory:\t\t1GiB
Engine Version:\t\t0.1.0
TLS Info:
 TrustRoot:
-----BEGIN CERTIFICATE-----
MIIB
-----END CERTIFICATE-----

 Issuer Subject:\tMBMx
 Issuer Public Key:\tMFkw
";

    #[test]
    fn generic_resources() {
        let named = |name: &str| json!({"NamedResourceSpec": {"Kind": "gpu", "Value": name}});
        let ssd = json!({"DiscreteResourceSpec": {"Kind": "ssd", "Value": 4}});
        let resources = json!({"NanoCPUs": 1, "GenericResources": [named("a"), named("b"), ssd]});
        let node = json!({"Description": {"Resources": resources}});
        let shown = render(&serde_json::from_value(node).expect("node"));
        let expected = " Memory:\t\t0B\n Generic:\n  gpu=a,b\n  ssd=4\nEngine Version:";
        assert!(shown.contains(expected), "{shown}");
    }

    #[test]
    fn as_docker_prints_it() {
        let node: Node = serde_json::from_value(serde_json::json!({
            "ID": "e39nxco66pmyxz3lq80by22go", "CreatedAt": "2026-11-21T03:25:25.279Z",
            "Spec": {"Availability": "active", "Labels": {"zone": "a"}},
            "Description": {
                "Hostname": "n1", "Platform": {"OS": "linux", "Architecture": "x86_64"},
                "Resources": {"NanoCPUs": 2_000_000_000_i64, "MemoryBytes": 1 << 30},
                "Engine": {"EngineVersion": "0.1.0"},
                "TLSInfo": {
                    "TrustRoot": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
                    "CertIssuerSubject": "MBMx", "CertIssuerPublicKey": "MFkw"
                }
            },
            "Status": {"State": "ready", "Addr": "192.168.231.1"},
            "ManagerStatus": {"Leader": true, "Reachability": "reachable", "Addr": "192.168.231.1:2377"}
        }))
        .expect("node");
        assert_eq!(render(&node), GOLDEN);
    }
}
