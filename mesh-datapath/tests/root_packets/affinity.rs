//! Session affinity: clients keep their task when tasks are added, until the time is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use mesh_common::wire::{self, OVERHEAD};
use mesh_datapath::{PublishedPort, Service};

use crate::{
    frames::{Frame, Mac, syn, task, tcp},
    reuse::{ALL, active, add_tasks},
    world::{NODE, Side, TARGET, UP, World},
};

/// Seconds that clients keep theirs.
const AFFINITY_S: u32 = 60;
/// Where the service is published.
const PORT: u16 = 8085;
/// Port of every client's first connection; the second has the next one.
const FIRST: u16 = 40_000;

fn clients() -> impl Iterator<Item = Ipv4Addr> {
    (120..=250).map(|last| Ipv4Addr::new(192, 0, 2, last))
}

/// Where a client's packet goes: the MAC in the tunnel.
fn sent(world: &mut World, frame: Frame, six: bool) -> Mac {
    let frame = if six { frame.six() } else { Some(frame) };
    let packet = frame.expect("it can be said in IPv6").bytes();
    let sent = world.run("uplink_xdp", &packet, UP).expect("a verdict");
    let mac = &sent.packet[OVERHEAD..OVERHEAD + 6];
    mac.try_into().expect("six bytes")
}

/// The task of each client's new connection from a port.
fn drawn(world: &mut World, port: u16, six: bool) -> BTreeMap<Ipv4Addr, Mac> {
    clients()
        .map(|client| (client, sent(world, syn((client, port), (NODE, PORT)), six)))
        .collect()
}

fn tasks(drawn: &BTreeMap<Ipv4Addr, Mac>) -> BTreeSet<Mac> {
    drawn.values().copied().collect()
}

/// Gives a service with affinity these backends.
fn scale(world: &mut World, backends: &[Ipv4Addr]) {
    world.change(|desired| {
        add_tasks(desired);
        let service = Service {
            name: "sticky".to_owned(),
            ports: [PublishedPort {
                protocol: wire::TCP,
                published: PORT,
                target: TARGET,
            }]
            .into(),
            ingress: active(backends),
            affinity_s: AFFINITY_S,
            ..Service::default()
        };
        desired.services.insert("sticky".to_owned(), service.into());
    });
}

fn until_the_time_is_over(six: bool) {
    let mut world = World::new(Side::Node);
    let few = &ALL[2..];
    scale(&mut world, few);
    let at_first = drawn(&mut world, FIRST, six);
    let macs = |tasks: &[Ipv4Addr]| tasks.iter().copied().map(task).collect::<BTreeSet<_>>();
    assert_eq!(tasks(&at_first), macs(few));

    // More tasks: nobody moves, with whatever port.
    scale(&mut world, &ALL);
    assert_eq!(drawn(&mut world, FIRST + 1, six), at_first);
    world.turn_pools(AFFINITY_S / 2);
    assert_eq!(drawn(&mut world, FIRST + 2, six), at_first);

    // It is over. New connections go by the tasks that there are now, the same for every one of a client; those that
    // are open stay.
    world.turn_pools(AFFINITY_S - AFFINITY_S / 2);
    let at_last = drawn(&mut world, FIRST + 3, six);
    assert_eq!(tasks(&at_last), macs(&ALL));
    assert_eq!(drawn(&mut world, FIRST + 4, six), at_last);
    for (client, mac) in &at_first {
        let open = tcp((*client, FIRST + 1), (NODE, PORT));
        assert_eq!(sent(&mut world, open, six), *mac, "{client}");
    }

    // A task less: nobody else moves, least of all to where they were before the first change.
    world.restart();
    let (gone, left) = (task(ALL[0]), &ALL[1..]);
    scale(&mut world, left);
    let now = drawn(&mut world, FIRST + 5, six);
    assert_eq!(tasks(&now), macs(left));
    for (client, mac) in at_last.iter().filter(|(_, mac)| **mac != gone) {
        assert_eq!(now[client], *mac, "{client}");
    }
    // Nor do connections that have been silent since then, and have seen two changes.
    for (client, mac) in &at_first {
        let open = tcp((*client, FIRST), (NODE, PORT));
        assert_eq!(sent(&mut world, open, six), *mac, "{client}");
    }
}

#[test]
fn clients_keep_their_task_until_the_time_is_over() {
    until_the_time_is_over(false);
}

#[test]
fn clients_keep_their_task_until_the_time_is_over_in_ipv6() {
    until_the_time_is_over(true);
}
