//! A two-node world, and what the packet path of the first node makes of it.

use std::sync::Arc;

use mesh_api::proto::{
    Attachment, EndpointState, Network, Peer, Port, Protocol, PublishMode, Service, Task,
    VirtualAddress,
};

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn attachments(last: u8) -> Vec<Attachment> {
    [("over", "10.0.16"), ("in", "10.0.0")]
        .map(|(network, prefix)| Attachment {
            network_id: network.into(),
            address: format!("{prefix}.{last}/20"),
            aliases: Vec::new(),
        })
        .into()
}

fn world() -> Assignment {
    let mut world = Assignment::default();
    for (id, vni, subnet, ingress) in [
        ("over", 4097, "10.0.16.0/20", false),
        ("in", 4096, "10.0.0.0/20", true),
    ] {
        let network = Network {
            id: id.into(),
            vni,
            subnet: subnet.into(),
            ingress,
            subnet_v6: if ingress { "" } else { "fd00:1::/64" }.into(),
            ..Default::default()
        };
        world.networks.insert(id.into(), network);
    }
    for (id, data_path_address) in [("here", "192.0.2.1"), ("there", "192.0.2.2")] {
        let peer = Peer {
            id: id.into(),
            hostname: id.into(),
            data_path_address: data_path_address.into(),
            cipher: None,
            mtu: if id == "there" { 9000 } else { 0 },
        };
        world.peers.insert(id.into(), peer);
    }
    for (id, node, last, state) in [
        ("local", "here", 11, EndpointState::Active),
        ("remote", "there", 12, EndpointState::Draining),
    ] {
        let endpoint = mesh_api::proto::Endpoint {
            id: id.into(),
            service_id: "s".into(),
            node_id: node.into(),
            attachments: attachments(last),
            state: state.into(),
            ..Default::default()
        };
        world.add_endpoint(endpoint);
    }
    let task = Task {
        id: "local".into(),
        service_id: "s".into(),
        attachments: attachments(11),
        ..Default::default()
    };
    world.tasks.insert("local".into(), task);
    let port = |published, mode: PublishMode| Port {
        protocol: Protocol::Tcp.into(),
        published,
        target: 8080,
        mode: mode.into(),
    };
    let service = Service {
        id: "s".into(),
        name: "web".into(),
        vips: ["over", "in"]
            .map(|network| VirtualAddress {
                network_id: network.into(),
                address: "10.0.16.2/20".into(),
                aliases: Vec::new(),
            })
            .into(),
        ports: vec![port(80, PublishMode::Ingress), port(81, PublishMode::Host)],
        ..Default::default()
    };
    world.services.insert("s".into(), service.into());
    world
}

fn facts() -> NodeFacts {
    NodeFacts {
        uplinks: [3].into(),
        own_addresses: [ip("192.0.2.1")].into(),
        vtep: ip("192.0.2.1"),
    }
}

fn links() -> Vec<LinkFacts> {
    let link = |index, network: Option<&str>, address: &str| LinkFacts {
        index,
        task: "local".into(),
        network: network.map(Into::into),
        address: ip(address),
    };
    vec![
        link(7, Some("over"), "10.0.16.11"),
        link(8, None, "10.0.0.11"),
    ]
}

/// Made of nothing that was there before.
fn anew(world: &Assignment, links: &[LinkFacts]) -> Desired {
    datapath(world, &facts(), links, &mut Parts::default())
}

#[test]
fn everything_of_a_small_world() {
    let desired = anew(&world(), &links());
    assert_eq!(desired.ingress_vni, 4096);
    assert_eq!(desired.peers, [(ip("192.0.2.2"), Some(9000))].into());
    assert_eq!(
        desired.links[&7],
        Link::Overlay {
            vni: 4097,
            prefix: Some("fd00:1::".parse().expect("an address")),
            address: ip("10.0.16.11"),
            mac: [0x02, 0x42, 10, 0, 16, 11],
            encrypted: false,
        }
    );
    assert!(matches!(desired.links[&8], Link::Gateway { .. }));

    let locations: Vec<_> = desired
        .endpoints
        .iter()
        .map(|(key, endpoint)| (*key, endpoint.location.clone()))
        .collect();
    assert_eq!(
        locations,
        [
            ((4096, ip("10.0.0.11")), Location::Local(8)),
            ((4096, ip("10.0.0.12")), Location::Remote(ip("192.0.2.2"))),
            ((4097, ip("10.0.16.11")), Location::Local(7)),
            ((4097, ip("10.0.16.12")), Location::Remote(ip("192.0.2.2"))),
        ]
    );

    let service = &desired.services["s"];
    assert_eq!(service.vips.len(), 1, "the ingress network has no VIP");
    let drains: Vec<_> = service.vips[&(4097, ip("10.0.16.2"))]
        .iter()
        .map(|backend| backend.draining)
        .collect();
    assert_eq!(drains, [false, true]);
    assert_eq!(service.ingress.len(), 2);
    assert_eq!(service.ports.len(), 1, "host mode is not the mesh's");
}

#[test]
fn a_local_task_without_its_link_is_not_reachable() {
    let desired = anew(&world(), &[]);
    assert!(desired.links.is_empty());
    assert_eq!(desired.endpoints.len(), 2, "only the remote task");
}

#[test]
fn a_node_local_gateway_address_is_nobodys_endpoint() {
    let link = LinkFacts {
        index: 9,
        task: "local".into(),
        network: None,
        address: ip("172.31.0.5"),
    };
    let desired = anew(&world(), &[link]);
    assert!(
        desired
            .endpoints
            .keys()
            .all(|(_, address)| *address != ip("172.31.0.5"))
    );
    assert_eq!(desired.links.len(), 1);
}

#[test]
fn what_has_not_changed_is_the_same_object() {
    let mut world = world();
    let other = Service {
        id: "other".into(),
        ..Default::default()
    };
    world.services.insert("other".into(), other.into());
    let mut parts = Parts::default();
    let mut before = datapath(&world, &facts(), &links(), &mut parts);
    let mut changed = |world: &Assignment, links: &[LinkFacts]| {
        let now = datapath(world, &facts(), links, &mut parts);
        assert_eq!(now, anew(world, links), "step by step as at once");
        let services = now.services.iter();
        let changed = services
            .filter(|(id, service)| !Arc::ptr_eq(service, &before.services[*id]))
            .map(|(id, _)| id.clone())
            .collect::<Vec<_>>();
        before = now;
        changed
    };
    assert!(changed(&world, &links()).is_empty());
    let mut endpoint = world.endpoints["s"]["remote"].clone();
    endpoint.set_state(EndpointState::Active);
    world.add_endpoint(endpoint);
    assert_eq!(changed(&world, &links()), ["s"], "a task in the cluster");
    assert_eq!(changed(&world, &[]), ["s"], "a task here lost its links");
    let mut renamed = other_of(&world);
    renamed.name = "renamed".into();
    world.services.insert("other".into(), renamed.into());
    assert_eq!(changed(&world, &[]), ["other"], "a service");
    world.networks.get_mut("over").expect("it").vni = 5000;
    assert_eq!(changed(&world, &[]), ["other", "s"], "what all depend on");
    let moved = world.peers.get_mut("there").expect("it");
    moved.data_path_address = "192.0.2.3".into();
    changed(&world, &[]);
    world.tasks.clear();
    changed(&world, &[]);
}

fn other_of(world: &Assignment) -> Service {
    world.services["other"].as_ref().clone()
}
