//! What is given out: addresses and ports belong to one at a time, and can be given out again once they are given back.

use crate::{
    Command,
    fixture::{World, on, replicated},
    state::PublishMode,
};
use mesh_api::engine;
use proptest::prelude::*;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// A network with room for 13 addresses: of 16, its own, the gateway and the broadcast address are for nobody.
const SUBNET: &str = "10.50.0.0/28";
const ROOM: usize = 13;

/// One thing that users do.
#[derive(Debug, Clone)]
enum Step {
    /// A service of so many replicas, with these published ports; 0: any.
    Make(i64, Vec<u16>),
    /// One of the services changes its size.
    Scale(usize, i64),
    /// One of them is removed.
    Remove(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let port = prop_oneof![Just(0_u16), 8000_u16..8004, 30_000_u16..30_003];
    let ports = prop::collection::vec(port, 0..3);
    prop_oneof![
        3 => (0_i64..6, ports).prop_map(|(replicas, ports)| Step::Make(replicas, ports)),
        2 => (any::<usize>(), 0_i64..6).prop_map(|(which, replicas)| Step::Scale(which, replicas)),
        2 => any::<usize>().prop_map(Step::Remove),
    ]
}

fn spec(name: &str, replicas: i64, ports: &[u16]) -> engine::ServiceSpec {
    let mut spec = on(replicated(name, replicas), &["net"]);
    let ports: Vec<_> = ports
        .iter()
        .map(|port| json!({"Protocol": "tcp", "TargetPort": 80, "PublishedPort": port, "PublishMode": "ingress"}))
        .collect();
    spec.endpoint_spec = serde_json::from_value(json!({"Ports": ports})).expect("ports");
    spec
}

/// Looks at all addresses and ports that have an owner.
fn check(world: &World, network: &str) -> Result<(), TestCaseError> {
    let of_tasks = world.state.tasks().filter(|t| t.owns_addresses());
    let of_tasks = of_tasks.flat_map(|t| t.attachments.iter().map(|a| (a, &t.id)));
    let of_services = world.state.services();
    let of_services = of_services.flat_map(|s| s.vips.iter().map(|a| (a, &s.id)));
    let mut owners: BTreeMap<(&str, Ipv4Addr), &str> = BTreeMap::new();
    for (address, owner) in of_tasks.chain(of_services) {
        let on = world
            .state
            .network(&address.network_id)
            .expect("its network");
        let (own, at) = (on.subnet, address.address);
        prop_assert!(own.contains(at) && at != own.network(), "{at} on {own}");
        prop_assert!(at != own.broadcast() && at != on.gateway, "{at} on {own}");
        let other = owners.insert((&address.network_id, at), owner);
        prop_assert_eq!(other, None, "{} has {} as well", owner, at);
    }
    let here = owners.keys().filter(|(id, _)| *id == network).count();
    prop_assert_eq!(here, world.state.indexes().taken(network), "on {}", SUBNET);
    let mut ports = BTreeSet::new();
    for service in world.state.services() {
        for port in &service.ports {
            prop_assert_eq!(port.mode, PublishMode::Ingress);
            prop_assert!(
                ports.insert((port.protocol, port.published)),
                "{port:?} twice"
            );
            let is_ours = (30_000..=32_767).contains(&port.published);
            prop_assert!(!port.dynamic || is_ours, "{port:?}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn addresses_and_ports_have_one_owner_and_come_back(steps in prop::collection::vec(step(), 1..25)) {
        let mut world = World::new(&["n1", "n2"]);
        let network = world.network("net", SUBNET).expect("a network");
        let mut services: Vec<String> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Make(replicas, ports) => {
                    let in_use = world.state.services().flat_map(|s| &s.ports).map(|p| p.published);
                    let in_use: BTreeSet<u16> = in_use.collect();
                    let named: Vec<u16> = ports.iter().copied().filter(|port| *port > 0).collect();
                    let has_twins = named.iter().collect::<BTreeSet<_>>().len() < named.len();
                    let is_full = world.state.indexes().taken(&network) == ROOM;
                    let is_refused = is_full || has_twins || named.iter().any(|port| in_use.contains(port));
                    match world.service(spec(&format!("s{number}"), replicas, &ports)) {
                        Ok(id) => {
                            // The number that was chosen may be one that is named after it.
                            prop_assert!(!is_refused, "{ports:?} beside {in_use:?}");
                            services.push(id);
                        }
                        Err(error) => {
                            let text = error.to_string();
                            prop_assert!(is_refused || text.contains("duplicate published ports"), "{text}");
                        }
                    }
                }
                Step::Scale(which, replicas) if !services.is_empty() => {
                    world.scale(&services[which % services.len()].clone(), replicas);
                }
                Step::Remove(which) if !services.is_empty() => {
                    let id = services.swap_remove(which % services.len());
                    world.call(Command::RemoveService { id }).expect("it is there");
                }
                Step::Scale(..) | Step::Remove(_) => {}
            }
            world.settle();
            check(&world, &network)?;
            world.work();
            check(&world, &network)?;
        }
        for id in services {
            world.call(Command::RemoveService { id }).expect("it is there");
        }
        world.work();
        prop_assert_eq!(world.state.indexes().taken(&network), 0);
        // All of it, at once: one address is the service's.
        let ports: Vec<u16> = (8000..8004).collect();
        let id = world.service(spec("last", ROOM as i64 - 1, &ports)).expect("all is free");
        world.work();
        check(&world, &network)?;
        let running = ["n1", "n2"].map(|node| world.running_on(&id, node));
        prop_assert_eq!(running.iter().sum::<usize>(), ROOM - 1);
    }
}
