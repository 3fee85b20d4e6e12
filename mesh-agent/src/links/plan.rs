//! Which links a task shall have: names, addresses and MACs. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use mesh_api::proto;
use sha2::{Digest, Sha256};

use crate::desired::{subnet_v6, v6};

/// Bytes that VXLAN over IPv4 adds to a packet.
pub const VXLAN_OVERHEAD: u32 = 50;

/// The other end of every gateway link: the task's default route.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The same for IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// One link of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskLink {
    /// Interface name of the host end.
    pub host_name: String,
    /// Interface name inside the task.
    pub task_name: String,
    /// The task's address on it.
    pub address: Ipv4Addr,
    /// Prefix length of the address inside the task.
    pub prefix: u8,
    /// The task's IPv6 address on it and its prefix length, where the network has IPv6.
    pub v6: Option<(Ipv6Addr, u8)>,
    /// The task's MAC.
    pub mac: [u8; 6],
    /// What it leads to.
    pub kind: LinkKind,
}

/// What a link leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// An overlay network.
    Overlay {
        /// Network id.
        network: String,
    },
    /// The outside, and published ports.
    Gateway,
}

/// The MAC that goes with an address: 02:42 and the four bytes of an IPv4 address.
pub fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

/// What all host ends of an agent are called: `mv`, four digits of its instance.
pub fn host_prefix(instance: &str) -> String {
    format!("mv{}", &hash(&[instance])[..4])
}

/// Name of a host end; 14 characters, of the 15 that fit.
pub fn host_name(instance: &str, task_id: &str, index: usize) -> String {
    format!(
        "{}{}",
        host_prefix(instance),
        &hash(&[task_id, &index.to_string()])[..8]
    )
}

/// The id Docker's commands see for a task's container: 64 hexadecimal digits.
pub fn container_id(task_id: &str) -> String {
    hash(&["container", task_id])
}

fn hash(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.as_bytes());
        hasher.update([0]);
    }
    hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The links of `task`: its networks in order of attachment, then the gateway link, whose address
/// is the ingress address or, without one, `local`; in IPv6 it is in the subnet that begins at `ingress_v6` either
/// way. `None` while a network is unknown: links are
/// numbered, so that a task waits for all of them.
pub fn task_links<'a>(
    instance: &str,
    task: &proto::Task,
    network: impl Fn(&str) -> Option<&'a proto::Network>,
    local: Option<Ipv4Addr>,
    ingress_v6: Option<Ipv6Addr>,
) -> Option<Vec<TaskLink>> {
    let mut links = Vec::new();
    let mut gateway = local;
    let mut internal_only = !task.attachments.is_empty();
    for attachment in &task.attachments {
        let net = network(&attachment.network_id)?;
        let (address, own_prefix) = parse_address(&attachment.address)?;
        if !net.internal {
            internal_only = false;
        }
        if net.ingress {
            gateway = Some(address);
            continue;
        }
        let prefix = net
            .subnet
            .parse::<IpNetwork>()
            .map_or(own_prefix, |subnet| subnet.prefix());
        let index = links.len();
        links.push(TaskLink {
            host_name: host_name(instance, &task.id, index),
            task_name: format!("eth{index}"),
            address,
            prefix,
            v6: subnet_v6(net).map(|(first, length)| (v6(first, address), length)),
            mac: mac_of(address),
            kind: LinkKind::Overlay {
                network: net.id.clone(),
            },
        });
    }
    if let Some(address) = gateway.filter(|_| !internal_only) {
        let index = links.len();
        links.push(TaskLink {
            host_name: host_name(instance, &task.id, index),
            task_name: format!("eth{index}"),
            address,
            prefix: 32,
            v6: ingress_v6.map(|first| (v6(first, address), 128)),
            mac: mac_of(address),
            kind: LinkKind::Gateway,
        });
    }
    Some(links)
}

/// `10.0.0.2` or `10.0.0.2/20` as address and prefix length.
fn parse_address(text: &str) -> Option<(Ipv4Addr, u8)> {
    let parsed: IpNetwork = text.parse().ok()?;
    match parsed.ip() {
        IpAddr::V4(address) => Some((address, parsed.prefix())),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(id: &str, subnet: &str) -> proto::Network {
        proto::Network {
            id: id.into(),
            subnet: subnet.into(),
            ..Default::default()
        }
    }

    fn task(attachments: &[(&str, &str)]) -> proto::Task {
        proto::Task {
            id: "t1".into(),
            attachments: attachments
                .iter()
                .map(|(network, address)| proto::Attachment {
                    network_id: (*network).into(),
                    address: (*address).into(),
                    aliases: vec![],
                })
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn links_of_a_task() {
        let mut ingress = network("in", "10.0.0.0/20");
        ingress.ingress = true;
        let mut inside = network("i", "10.0.32.0/20");
        inside.internal = true;
        let all = [ingress, network("a", "10.0.16.0/20"), inside];
        let find = |id: &str| all.iter().find(|n| n.id == id);
        let local = Some(Ipv4Addr::new(172, 31, 0, 2));
        // attachments -> (name, address, prefix, overlay network or nothing)
        type Row<'a> = (
            &'a [(&'a str, &'a str)],
            &'a [(&'a str, &'a str, u8, &'a str)],
        );
        let table: &[Row<'_>] = &[
            (&[], &[("eth0", "172.31.0.2", 32, "")]),
            (
                &[("in", "10.0.0.5/20"), ("a", "10.0.16.7/20")],
                &[("eth0", "10.0.16.7", 20, "a"), ("eth1", "10.0.0.5", 32, "")],
            ),
            (
                &[("a", "10.0.16.7")],
                &[
                    ("eth0", "10.0.16.7", 20, "a"),
                    ("eth1", "172.31.0.2", 32, ""),
                ],
            ),
            (&[("i", "10.0.32.2/20")], &[("eth0", "10.0.32.2", 20, "i")]),
        ];
        for (attachments, expected) in table {
            let links = task_links("x", &task(attachments), find, local, None).expect("all known");
            let got: Vec<_> = links
                .iter()
                .map(|l| {
                    let network = match &l.kind {
                        LinkKind::Overlay { network } => network.clone(),
                        LinkKind::Gateway => String::new(),
                    };
                    (
                        l.task_name.clone(),
                        l.address.to_string(),
                        l.prefix,
                        network,
                    )
                })
                .collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|(n, a, p, v)| ((*n).to_owned(), (*a).to_owned(), *p, (*v).to_owned()))
                .collect();
            assert_eq!(got, expected, "{attachments:?}");
        }
        let unknown = task(&[("a", "10.0.16.7"), ("unknown", "10.9.9.9")]);
        assert_eq!(task_links("x", &unknown, find, local, None), None);
    }

    #[test]
    fn links_have_ipv6_where_their_network_has() {
        let six = |text: &str| text.parse::<Ipv6Addr>().expect("an address");
        let mut dual = network("d", "10.0.16.0/20");
        dual.subnet_v6 = "fd00:1::/64".into();
        let all = [dual, network("a", "10.0.32.0/20")];
        let find = |id: &str| all.iter().find(|n| n.id == id);
        let task = task(&[("d", "10.0.16.7"), ("a", "10.0.32.7")]);
        let local = Some(Ipv4Addr::new(172, 31, 0, 2));
        let links = task_links("x", &task, find, local, Some(six("fd00:2::")));
        let found: Vec<_> = links.expect("all known").iter().map(|l| l.v6).collect();
        assert_eq!(
            found,
            [
                Some((six("fd00:1::a00:1007"), 64)),
                None,
                Some((six("fd00:2::ac1f:2"), 128))
            ]
        );
    }

    #[test]
    fn names_fit_and_differ() {
        let name = host_name("n1", "abcdefghijklmnopqrstuvwxy", 0);
        assert_eq!(name.len(), 14);
        assert!(name.starts_with(&host_prefix("n1")));
        assert_ne!(name, host_name("n1", "abcdefghijklmnopqrstuvwxy", 1));
        assert_ne!(name, host_name("n2", "abcdefghijklmnopqrstuvwxy", 0));
        assert_eq!(container_id("t").len(), 64);
    }
}
