//! The names of the mesh, from the assignment.

use std::net::IpAddr;

use mesh_api::proto::{EndpointMode, EndpointState};
use mesh_dns::Zone;

use super::{address, on_network, subnet, subnet_v6, v6};
use crate::assignment::Assignment;

/// All names of all networks of this node:
/// `service` and its aliases mean the VIP, or every task with `dnsrr`; `tasks.service` means every
/// task; a task's own name means that task. On a network with IPv6, every name has both kinds of address.
pub fn zone(assignment: &Assignment) -> Zone {
    let mut zone = Zone::default();
    for network in assignment.networks.values().filter(|n| !n.ingress) {
        let six = subnet_v6(network).map(|(first, length)| (IpAddr::V6(first), length));
        let subnets = subnet(&network.subnet).into_iter().chain(six);
        zone.add_network(&network.id, &network.name, subnets);
    }
    let both = |network: &str, address: IpAddr| -> Vec<IpAddr> {
        let prefix = assignment.networks.get(network).and_then(subnet_v6);
        let six = match (prefix, address) {
            (Some((first, _)), IpAddr::V4(four)) => Some(IpAddr::V6(v6(first, four))),
            _ => None,
        };
        [address].into_iter().chain(six).collect()
    };
    let is_overlay = |id: &str| assignment.networks.get(id).is_some_and(|n| !n.ingress);

    for service in assignment.services.values() {
        for vip in service.vips.iter().filter(|v| is_overlay(&v.network_id)) {
            let Some(vip_address) = address(&vip.address) else {
                continue;
            };
            for vip_address in both(&vip.network_id, vip_address) {
                for name in std::iter::once(&service.name).chain(&vip.aliases) {
                    zone.add_name(&vip.network_id, name, vip_address);
                }
                zone.add_reverse(&vip.network_id, vip_address, &service.name);
            }
        }
    }

    for endpoint in assignment
        .endpoints
        .values()
        .flat_map(|tasks| tasks.values())
    {
        let service = assignment.services.get(&endpoint.service_id);
        let round_robin =
            service.is_some_and(|service| service.endpoint_mode() == EndpointMode::Dnsrr);
        for attachment in &endpoint.attachments {
            let network = &attachment.network_id;
            let Some(task_address) = on_network(&endpoint.attachments, network) else {
                continue;
            };
            if !is_overlay(network) {
                continue;
            }
            for task_address in both(network, task_address) {
                zone.add_name(network, &endpoint.name, task_address);
                zone.add_reverse(network, task_address, &endpoint.name);
                // A draining task still answers to its own name, and is no longer found by others.
                if endpoint.state() == EndpointState::Draining {
                    continue;
                }
                if let Some(service) = service {
                    zone.add_name(network, &format!("tasks.{}", service.name), task_address);
                    if round_robin {
                        for name in std::iter::once(&service.name).chain(&attachment.aliases) {
                            zone.add_name(network, name, task_address);
                        }
                    }
                }
            }
        }
    }
    zone
}

#[cfg(test)]
mod tests {
    use mesh_api::proto::{Attachment, Endpoint, Network, Service, VirtualAddress};
    use mesh_dns::Answer;

    use super::*;

    fn world(mode: EndpointMode) -> Assignment {
        let mut world = Assignment::default();
        for (id, ingress) in [("n1", false), ("in", true)] {
            let network = Network {
                id: id.into(),
                name: format!("{id}-name"),
                subnet: "10.0.16.0/20".into(),
                ingress,
                ..Default::default()
            };
            world.networks.insert(id.into(), network);
        }
        let vips = if mode == EndpointMode::Vip {
            vec![VirtualAddress {
                network_id: "n1".into(),
                address: "10.0.16.2/20".into(),
                aliases: vec!["www".into()],
            }]
        } else {
            Vec::new()
        };
        let service = Service {
            id: "s".into(),
            name: "web".into(),
            endpoint_mode: mode.into(),
            vips,
            ..Service::default()
        };
        world.services.insert("s".into(), service.into());
        for (slot, state) in [(1, EndpointState::Active), (2, EndpointState::Draining)] {
            let attachment = |network: &str, address: String| Attachment {
                network_id: network.into(),
                address,
                aliases: vec!["www".into()],
            };
            let endpoint = Endpoint {
                id: format!("t{slot}"),
                service_id: "s".into(),
                name: format!("web.{slot}.t{slot}"),
                attachments: vec![
                    attachment("n1", format!("10.0.16.{}/20", 10 + slot)),
                    attachment("in", format!("10.0.0.{slot}/20")),
                ],
                state: state.into(),
                ..Default::default()
            };
            world.add_endpoint(endpoint);
        }
        world
    }

    #[test]
    fn names_have_both_addresses_on_a_network_with_ipv6() {
        let mut world = world(EndpointMode::Vip);
        let network = world.networks.get_mut("n1").expect("the network");
        network.subnet_v6 = "fd00:1::/64".into();
        let zone = zone(&world);
        for (name, four, six) in [
            ("www", "10.0.16.2", "fd00:1::a00:1002"),
            ("tasks.web", "10.0.16.11", "fd00:1::a00:100b"),
            ("web.2.t2", "10.0.16.12", "fd00:1::a00:100c"),
        ] {
            let expected = [four, six].map(|text| text.parse().expect("an address"));
            let found = zone.resolve(&["n1".to_owned()], name);
            assert_eq!(found, Answer::Known(expected.into()), "{name}");
        }
        let vip = "fd00:1::a00:1002".parse().expect("an address");
        assert_eq!(
            zone.reverse(&["n1".to_owned()], vip),
            Answer::Known("web.n1-name".to_owned())
        );
    }

    #[test]
    fn names() {
        let n1 = ["n1".to_owned()];
        for (mode, name, expected) in [
            (EndpointMode::Vip, "web", Some("10.0.16.2")),
            (EndpointMode::Vip, "www", Some("10.0.16.2")),
            (EndpointMode::Vip, "tasks.web", Some("10.0.16.11")),
            (EndpointMode::Vip, "web.2.t2", Some("10.0.16.12")),
            (EndpointMode::Vip, "web.1.t1.n1-name", Some("10.0.16.11")),
            (EndpointMode::Dnsrr, "web", Some("10.0.16.11")),
            (EndpointMode::Dnsrr, "www", Some("10.0.16.11")),
            (EndpointMode::Vip, "db", None),
        ] {
            let zone = zone(&world(mode));
            let expected = match expected {
                Some(text) => Answer::Known(vec![text.parse().expect("an address")]),
                None => Answer::Foreign,
            };
            assert_eq!(zone.resolve(&n1, name), expected, "{name} with {mode:?}");
            assert!(!matches!(
                zone.resolve(&["in".into()], "web"),
                Answer::Known(_)
            ));
        }
    }
}
