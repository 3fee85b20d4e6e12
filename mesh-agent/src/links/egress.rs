//! Masquerading of what tasks send to the outside, and no way in but published ports: one nftables
//! table per agent and family, replaced whole.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    process::Stdio,
};

use ipnetwork::IpNetwork;
use tokio::io::AsyncWriteExt;

use super::LinkError;
use crate::protocol;

/// A port of the node that leads to one local task (`mode=host`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// IP protocol number.
    pub protocol: u8,
    /// Port on the node, host byte order.
    pub published: u16,
    /// The task's address on its gateway link, of either family.
    pub address: IpAddr,
    /// Port in the task, host byte order.
    pub target: u16,
}

/// What the table shall say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Egress {
    /// Subnets of addresses that gateway links carry.
    pub sources: Vec<IpNetwork>,
    /// Ports of the node itself.
    pub host_ports: Vec<HostPort>,
    /// Whom tasks take callers on the node's `::1` for, and themselves where an IPv6 port of the node leads them back.
    pub loopback_v6: Option<Ipv6Addr>,
}

/// Name of an agent's table.
fn table(instance: &str) -> String {
    format!("mesh-{instance}")
}

/// Families of tables: as nft says it, and whether addresses of it are IPv6.
const FAMILIES: [(&str, bool); 2] = [("ip", false), ("ip6", true)];

/// The rule set, as a script that replaces the tables in one transaction.
pub fn script(instance: &str, link_prefix: &str, egress: &Egress) -> String {
    FAMILIES
        .map(|(family, six)| {
            let own = Egress {
                sources: egress
                    .sources
                    .iter()
                    .filter(|s| s.is_ipv6() == six)
                    .copied()
                    .collect(),
                host_ports: egress
                    .host_ports
                    .iter()
                    .filter(|port| port.address.is_ipv6() == six)
                    .copied()
                    .collect(),
                ..*egress
            };
            table_of(family, instance, link_prefix, &own)
        })
        .concat()
}

fn table_of(family: &str, instance: &str, link_prefix: &str, egress: &Egress) -> String {
    use std::fmt::Write;
    let name = table(instance);
    let mut text = format!(
        "table {family} {name} {{}}\ndelete table {family} {name}\ntable {family} {name} {{\n"
    );
    text.push_str(
        "  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n",
    );
    for source in &egress.sources {
        let _ = writeln!(
            text,
            "    {family} saddr {source} oifname != {{ \"lo\", \"{link_prefix}*\" }} masquerade"
        );
    }
    // A caller on the node's 127.0.0.1 or ::1 that was led to a task: the task could not answer that address. Nor would
    // a task that was led back to itself take a packet from its own.
    let callers = match egress.loopback_v6 {
        _ if egress.host_ports.is_empty() => None,
        _ if family == "ip" => Some(("127.0.0.0/8", "masquerade".to_owned())),
        // The node may have no other address of IPv6 to masquerade under.
        own => own.map(|own| ("::1", format!("snat to {own}"))),
    };
    if let Some((source, change)) = callers {
        let tasks: BTreeSet<_> = egress.host_ports.iter().map(|port| port.address).collect();
        let selves: Vec<_> = tasks
            .iter()
            .map(|task| format!("{task} . {task}"))
            .collect();
        for ends in [
            format!("{family} saddr {source}"),
            format!(
                "{family} saddr . {family} daddr {{ {} }}",
                selves.join(", ")
            ),
        ] {
            let _ = writeln!(text, "    {ends} oifname \"{link_prefix}*\" {change}");
        }
    }
    text.push_str("  }\n");
    if family == "ip" {
        // The links route the node's 127.0.0.0/8 for such callers' replies. These have another destination until
        // they are translated back; what has that one here is a task's try to reach the node's own services.
        let _ = writeln!(
            text,
            "  chain local {{\n    type filter hook prerouting priority raw; policy accept;\n    \
             iifname \"{link_prefix}*\" ip daddr 127.0.0.0/8 drop\n  }}"
        );
    }
    // A segment of no connection that is known here answers a client of a published port whose flow has been evicted
    // from the table. Masqueraded, it would make the client reset the connection; it is sent again, and goes its way
    // once the client's next packet has brought the entry back.
    // As on Docker's gateway bridge: nobody reaches a task over its gateway link but by a published
    // port. The packet path delivers those itself; ports of this node alone come by DNAT.
    let _ = writeln!(
        text,
        "  chain forward {{\n    type filter hook forward priority filter; policy accept;\n    \
         oifname \"{link_prefix}*\" ct state new ct status ! dnat drop\n    \
         iifname \"{link_prefix}*\" tcp flags & (syn | ack) != syn ct state new counter drop\n  }}"
    );
    if !egress.host_ports.is_empty() {
        for (chain, rank) in [("prerouting", "dstnat"), ("output", "-100")] {
            let _ = writeln!(
                text,
                "  chain {chain} {{\n    type nat hook {chain} priority {rank}; policy accept;"
            );
            for port in &egress.host_ports {
                let _ = writeln!(
                    text,
                    "    fib daddr type local {} dport {} dnat to {}",
                    protocol::name(port.protocol),
                    port.published,
                    SocketAddr::new(port.address, port.target)
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

/// Whether the tables are there.
pub async fn exists(instance: &str) -> bool {
    for (family, _) in FAMILIES {
        let list = tokio::process::Command::new("nft")
            .args(["list", "table", family, &table(instance)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !list.await.is_ok_and(|status| status.success()) {
            return false;
        }
    }
    true
}

/// The script that takes the tables away.
pub fn removal(instance: &str) -> String {
    let name = table(instance);
    FAMILIES
        .map(|(family, _)| format!("table {family} {name} {{}}\ndelete table {family} {name}\n"))
        .concat()
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
                "fd00:1::/64".parse().unwrap(),
            ],
            host_ports: ["172.31.0.2", "fd00:1::ac1f:2"]
                .map(|address| HostPort {
                    protocol: 6,
                    published: 8080,
                    address: address.parse().unwrap(),
                    target: 80,
                })
                .into(),
            loopback_v6: Some("fd00:1::7f00:1".parse().unwrap()),
        };
        let text = script("n1", "mvabcd", &egress);
        assert!(text.starts_with("table ip mesh-n1 {}\ndelete table ip mesh-n1\n"));
        assert!(
            text.contains("ip saddr 10.0.0.0/20 oifname != { \"lo\", \"mvabcd*\" } masquerade")
        );
        for to in ["172.31.0.2:80", "[fd00:1::ac1f:2]:80"] {
            let rule = format!("tcp dport 8080 dnat to {to}\n");
            assert_eq!(text.matches(&rule).count(), 2);
        }
        assert!(text.contains("ip saddr 127.0.0.0/8 oifname \"mvabcd*\" masquerade"));
        assert!(text.contains(
            "ip saddr . ip daddr { 172.31.0.2 . 172.31.0.2 } oifname \"mvabcd*\" masquerade\n"
        ));
        assert!(text.contains("iifname \"mvabcd*\" ip daddr 127.0.0.0/8 drop"));
        let stray =
            "iifname \"mvabcd*\" tcp flags & (syn | ack) != syn ct state new counter drop\n";
        assert_eq!(text.matches(stray).count(), 2);
        let six = text.split_once("table ip6 mesh-n1 {\n").unwrap().1;
        assert!(!six.contains("127.0.0.0"));
        assert!(six.contains("ip6 saddr ::1 oifname \"mvabcd*\" snat to fd00:1::7f00:1\n"));
        assert!(six.contains(
            "{ fd00:1::ac1f:2 . fd00:1::ac1f:2 } oifname \"mvabcd*\" snat to fd00:1::7f00:1\n"
        ));
        assert!(six.contains("    ip6 saddr fd00:1::/64 oifname"));
        assert!(!six.contains("10.0.0.0"));
        assert_eq!(text.matches('{').count(), text.matches('}').count());
        assert!(!script("n1", "mv", &Egress::default()).contains("dnat to"));
    }
}
