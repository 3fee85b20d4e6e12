//! Masquerading of what tasks send to the outside, and no way in but published ports: one nftables
//! table per agent, replaced whole.

use std::{net::Ipv4Addr, process::Stdio};

use ipnetwork::Ipv4Network;
use tokio::io::AsyncWriteExt;

use super::LinkError;

/// A port of the node that leads to one local task (`mode=host`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// IP protocol number.
    pub protocol: u8,
    /// Port on the node, host byte order.
    pub published: u16,
    /// The task's address on its gateway link.
    pub address: Ipv4Addr,
    /// Port in the task, host byte order.
    pub target: u16,
}

/// What the table shall say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Egress {
    /// Subnets of addresses that gateway links carry.
    pub sources: Vec<Ipv4Network>,
    /// Ports of the node itself.
    pub host_ports: Vec<HostPort>,
}

/// Name of an agent's table.
pub fn table(instance: &str) -> String {
    format!("mesh-{instance}")
}

/// The rule set, as a script that replaces the table in one transaction.
pub fn script(instance: &str, link_prefix: &str, egress: &Egress) -> String {
    use std::fmt::Write;
    let name = table(instance);
    let mut text = format!("table ip {name} {{}}\ndelete table ip {name}\ntable ip {name} {{\n");
    text.push_str(
        "  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n",
    );
    for source in &egress.sources {
        let _ = writeln!(
            text,
            "    ip saddr {source} oifname != {{ \"lo\", \"{link_prefix}*\" }} masquerade"
        );
    }
    text.push_str("  }\n");
    // As on Docker's gateway bridge: nobody reaches a task over its gateway link but by a published
    // port. The packet path delivers those itself; ports of this node alone come by DNAT.
    let _ = writeln!(
        text,
        "  chain forward {{\n    type filter hook forward priority filter; policy accept;\n    \
         oifname \"{link_prefix}*\" ct state new ct status != dnat drop\n  }}"
    );
    if !egress.host_ports.is_empty() {
        for (chain, rank) in [("prerouting", "dstnat"), ("output", "-100")] {
            let _ = writeln!(
                text,
                "  chain {chain} {{\n    type nat hook {chain} priority {rank}; policy accept;"
            );
            for port in &egress.host_ports {
                let protocol = match port.protocol {
                    6 => "tcp",
                    17 => "udp",
                    _ => "sctp",
                };
                let _ = writeln!(
                    text,
                    "    fib daddr type local {protocol} dport {} dnat to {}:{}",
                    port.published, port.address, port.target
                );
            }
            text.push_str("  }\n");
        }
    }
    text.push_str("}\n");
    text
}

/// Hands a script to `nft`.
///
/// # Errors
/// When `nft` is missing or refuses.
pub async fn apply(script: &str) -> Result<(), LinkError> {
    let mut child = tokio::process::Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| LinkError::Nft(format!("cannot run nft: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(script.as_bytes())
            .await
            .map_err(LinkError::io("write to nft"))?;
    }
    let output = child
        .wait_with_output()
        .await
        .map_err(LinkError::io("wait for nft"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(LinkError::Nft(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ))
    }
}

/// Whether the table is there.
pub async fn exists(instance: &str) -> bool {
    tokio::process::Command::new("nft")
        .args(["list", "table", "ip", &table(instance)])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await
        .is_ok_and(|status| status.success())
}

/// The script that takes the table away.
pub fn removal(instance: &str) -> String {
    let name = table(instance);
    format!("table ip {name} {{}}\ndelete table ip {name}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_replaces_the_table() {
        let egress = Egress {
            sources: vec![
                "10.0.0.0/20".parse().unwrap(),
                "172.31.0.0/16".parse().unwrap(),
            ],
            host_ports: vec![HostPort {
                protocol: 6,
                published: 8080,
                address: Ipv4Addr::new(172, 31, 0, 2),
                target: 80,
            }],
        };
        let text = script("n1", "mvabcd", &egress);
        assert!(text.starts_with("table ip mesh-n1 {}\ndelete table ip mesh-n1\n"));
        assert!(
            text.contains("ip saddr 10.0.0.0/20 oifname != { \"lo\", \"mvabcd*\" } masquerade")
        );
        assert_eq!(
            text.matches("tcp dport 8080 dnat to 172.31.0.2:80").count(),
            2
        );
        assert_eq!(text.matches('{').count(), text.matches('}').count());
        assert!(!script("n1", "mv", &Egress::default()).contains("prerouting"));
    }
}
