//! The zone of an assignment. Pure.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use mesh_api::proto::{EndpointMode, EndpointState, Service};
use mesh_dns::Zone;

use crate::{links::plan::container_id, session::assignment::View};

/// The names of everything in `view`. Tasks that drain are left out of lists of tasks, so that
/// nobody starts a new flow to them, but keep their own names.
pub fn zone(view: &View) -> Zone {
    let mut zone = Zone::default();
    for network in overlays(view) {
        let subnet = network.subnet.parse::<IpNetwork>().ok();
        zone.add_network(
            &network.id,
            &network.name,
            subnet.map(|subnet| (subnet.network(), subnet.prefix())),
        );
        if let Some(gateway) = address(&network.gateway) {
            zone.add_reverse(&network.id, gateway, "gateway");
        }
    }
    let on_overlay = |id: &str| overlays(view).any(|network| network.id == id);
    for service in view.services.values() {
        for vip in service
            .vips
            .iter()
            .filter(|vip| on_overlay(&vip.network_id))
        {
            let Some(virtual_address) = vip_on(service, &vip.network_id) else {
                continue;
            };
            for name in std::iter::once(&service.name).chain(&vip.aliases) {
                zone.add_name(&vip.network_id, name, virtual_address);
            }
            zone.add_reverse(&vip.network_id, virtual_address, &service.name);
        }
    }
    for endpoint in view.endpoints.values() {
        let service = view.services.get(&endpoint.service_id);
        let taking = endpoint.state() == EndpointState::Active;
        for attachment in endpoint
            .attachments
            .iter()
            .filter(|a| on_overlay(&a.network_id))
        {
            let network = attachment.network_id.as_str();
            let Some(own) = address(&attachment.address) else {
                continue;
            };
            zone.add_name(network, &endpoint.name, own);
            zone.add_name(network, &container_id(&endpoint.id)[..12], own);
            zone.add_reverse(network, own, &endpoint.name);
            let virtual_address = service.and_then(|service| vip_on(service, network));
            if let (Some(service), true) = (service, taking) {
                zone.add_name(network, &format!("tasks.{}", service.name), own);
                if virtual_address.is_none() {
                    zone.add_name(network, &service.name, own);
                }
            }
            for alias in &attachment.aliases {
                match virtual_address {
                    Some(virtual_address) => zone.add_name(network, alias, virtual_address),
                    None if taking => zone.add_name(network, alias, own),
                    None => {}
                }
            }
        }
    }
    zone
}

/// The networks that have names: all but the one published ports travel on.
fn overlays(view: &View) -> impl Iterator<Item = &mesh_api::proto::Network> {
    view.networks.values().filter(|network| !network.ingress)
}

/// The service's virtual address on a network, if names lead to it there.
fn vip_on(service: &Service, network: &str) -> Option<IpAddr> {
    if service.endpoint_mode() != EndpointMode::Vip {
        return None;
    }
    address(
        &service
            .vips
            .iter()
            .find(|vip| vip.network_id == network)?
            .address,
    )
}

/// An address written with or without a prefix length.
fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpNetwork>().ok().map(|network| network.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_api::proto;
    use mesh_dns::Answer;

    fn endpoint(id: &str, service: &str, at: &str, state: EndpointState) -> proto::Endpoint {
        proto::Endpoint {
            id: id.into(),
            service_id: service.into(),
            name: format!("{service}.{id}"),
            node_id: "n".into(),
            attachments: vec![proto::Attachment {
                network_id: "net".into(),
                address: at.into(),
                aliases: vec!["alias".into()],
            }],
            state: state as i32,
        }
    }

    #[test]
    fn vip_and_dnsrr_services() {
        let mut view = View::default();
        view.networks.insert(
            "net".into(),
            proto::Network {
                id: "net".into(),
                name: "app".into(),
                subnet: "10.0.16.0/20".into(),
                ..Default::default()
            },
        );
        for (id, mode, vip) in [
            ("web", EndpointMode::Vip, "10.0.16.2/20"),
            ("rr", EndpointMode::Dnsrr, ""),
        ] {
            view.services.insert(
                id.into(),
                proto::Service {
                    id: id.into(),
                    name: id.into(),
                    endpoint_mode: mode as i32,
                    vips: vec![proto::VirtualAddress {
                        network_id: "net".into(),
                        address: vip.into(),
                        aliases: vec![],
                    }],
                    ports: vec![],
                },
            );
        }
        for e in [
            endpoint("1", "web", "10.0.16.3/20", EndpointState::Active),
            endpoint("2", "web", "10.0.16.4/20", EndpointState::Draining),
            endpoint("3", "rr", "10.0.16.5/20", EndpointState::Active),
            endpoint("4", "rr", "10.0.16.6/20", EndpointState::Active),
        ] {
            view.endpoints.insert(e.id.clone(), e);
        }
        let zone = zone(&view);
        let ask = |name: &str| match zone.resolve(&["net".into()], name) {
            Answer::Known(list) => list
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" "),
            other => format!("{other:?}"),
        };
        for (name, expected) in [
            ("web", "10.0.16.2"),
            ("tasks.web", "10.0.16.3"),
            ("web.2", "10.0.16.4"),
            ("rr", "10.0.16.5 10.0.16.6"),
            ("tasks.rr", "10.0.16.5 10.0.16.6"),
            ("alias", "10.0.16.2 10.0.16.5 10.0.16.6"),
            ("app", "Foreign"),
        ] {
            assert_eq!(ask(name), expected, "{name}");
        }
    }
}
