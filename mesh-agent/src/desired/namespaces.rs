//! Which networks the sockets of each local task reach. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mesh_datapath::Subnet;

use super::{LinkFacts, subnet, subnet_v6};
use crate::assignment::Assignment;

/// Of a network's IPv6 subnet only so much is used: the other 32 bits are an IPv4 address.
const V6_LENGTH: u8 = 96;

/// The overlay networks behind each namespace, by its cookie. `cookies` are those of the tasks' namespaces, by
/// task id; a task without one is left to the packet programs.
pub fn namespaces(
    assignment: &Assignment,
    cookies: &BTreeMap<String, u64>,
    links: &[LinkFacts],
) -> BTreeMap<u64, BTreeSet<Subnet>> {
    let mut all: BTreeMap<u64, BTreeSet<Subnet>> = BTreeMap::new();
    for link in links {
        let (Some(cookie), Some(network)) = (
            cookies.get(&link.task),
            link.network
                .as_ref()
                .and_then(|id| assignment.networks.get(id)),
        ) else {
            continue;
        };
        let six = subnet_v6(network).map(|(first, _)| (IpAddr::V6(first), V6_LENGTH));
        for (first, prefix) in subnet(&network.subnet).into_iter().chain(six) {
            all.entry(*cookie).or_default().insert(Subnet {
                first,
                prefix,
                vni: network.vni,
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use mesh_api::proto::Network;

    use super::*;

    #[test]
    fn only_overlay_links_of_known_namespaces_count() {
        let mut assignment = Assignment::default();
        for (id, vni) in [("a", 4097), ("b", 4098)] {
            let network = Network {
                id: id.into(),
                vni,
                // Equal subnets are told apart by the namespace.
                subnet: "10.0.16.0/20".into(),
                subnet_v6: if id == "b" { "fd00:1::/64" } else { "" }.into(),
                ..Default::default()
            };
            assignment.networks.insert(id.into(), network);
        }
        let link = |task: &str, network: Option<&str>| LinkFacts {
            index: 1,
            task: task.into(),
            network: network.map(Into::into),
            address: "10.0.16.2".parse().expect("an address"),
        };
        let links = [
            link("one", Some("a")),
            link("one", None),
            link("two", Some("b")),
            link("new", Some("a")),
            link("one", Some("unknown")),
        ];
        let cookies = BTreeMap::from([("one".to_owned(), 7), ("two".to_owned(), 8)]);
        let subnet = |first: &str, prefix, vni| Subnet {
            first: first.parse().expect("an address"),
            prefix,
            vni,
        };
        let one = BTreeSet::from([subnet("10.0.16.0", 20, 4097)]);
        let two = [subnet("10.0.16.0", 20, 4098), subnet("fd00:1::", 96, 4098)];
        assert_eq!(
            namespaces(&assignment, &cookies, &links),
            BTreeMap::from([(7, one), (8, two.into())])
        );
    }
}
