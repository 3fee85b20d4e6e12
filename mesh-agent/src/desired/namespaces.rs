//! Which networks the sockets of each local task reach. Pure.

use std::collections::{BTreeMap, BTreeSet};

use mesh_datapath::Subnet;

use super::{LinkFacts, subnet};
use crate::assignment::Assignment;

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
        if let Some((first, prefix)) = subnet(&network.subnet) {
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
        let expected = |vni| {
            BTreeSet::from([Subnet {
                first: "10.0.16.0".parse().expect("an address"),
                prefix: 20,
                vni,
            }])
        };
        assert_eq!(
            namespaces(&assignment, &cookies, &links),
            BTreeMap::from([(7, expected(4097)), (8, expected(4098))])
        );
    }
}
