//! Little room for rows and backends: whoever finds none has less, and everything else works.

use std::net::{IpAddr, Ipv4Addr};

use mesh_datapath::{Backend, Desired, Endpoint, Location, PublishedPort, Room, Service, mac_of};

use crate::{common::INGRESS, frames::syn, world::*};

/// Its full row has 8,553 slots.
const BACKENDS: u8 = 60;
const SERVICES: u16 = 40;
/// Lines of rows beside those of the world's own services: too few for all.
const LINES: u32 = 1200;

/// `TC_ACT_REDIRECT`.
const REDIRECT: u32 = 7;

fn task(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 1, number).into()
}

/// Adds a service whose backends are tasks of the other node.
fn add(desired: &mut Desired, number: u16, tasks: impl Iterator<Item = u8>) {
    let mut ingress = Vec::new();
    for address in tasks.map(task) {
        let endpoint = Endpoint {
            mac: mac_of(address),
            location: Location::Remote(PEER.into()),
            encrypted: false,
        };
        desired.endpoints.insert((INGRESS, address), endpoint);
        ingress.push(Backend {
            address,
            draining: false,
        });
    }
    let service = Service {
        name: format!("many{number}"),
        ports: [PublishedPort {
            protocol: 6,
            published: port(number),
            target: TARGET,
        }]
        .into(),
        ingress,
        ..Service::default()
    };
    desired
        .services
        .insert(format!("many{number:03}"), service.into());
}

fn port(number: u16) -> u16 {
    20_000 + number
}

/// How many of 50 new flows go on to a task.
fn answered(world: &mut World, service: u16) -> usize {
    let flows = (0..50).map(|flow| syn((CLIENT, 30_000 + flow), (NODE, port(service))));
    flows
        .filter(|flow| {
            let trial = world.run("uplink_tc", &flow.bytes(), UP);
            trial.expect("a verdict").action == REDIRECT
        })
        .count()
}

fn room(world: &mut World) -> Room {
    world.inside(|datapath| datapath.room())
}

#[test]
fn rows_get_shorter_before_any_service_goes_without() {
    let own = room(&mut World::new(Side::Node)).rows_bytes;
    let mut world = World::with(Side::Node, |config| {
        config.row_bytes = u32::try_from(own).expect("few rows") + LINES * 64;
        config.backend_slots = 8192;
    });
    assert_eq!(
        (room(&mut world).short_rows, room(&mut world).missing_rows),
        (0, 0)
    );
    world.change(|desired| {
        for number in 0..SERVICES {
            add(desired, number, 0..BACKENDS);
        }
    });
    let full = room(&mut world);
    assert!(full.short_rows > 5 && full.missing_rows > 5, "{full:?}");
    assert!(
        full.short_rows + full.missing_rows < usize::from(SERVICES),
        "{full:?}"
    );
    assert!(full.rows_bytes <= full.rows_capacity_bytes);
    let answered_by = |world: &mut World, services: std::ops::Range<u16>| -> Vec<usize> {
        services.map(|number| answered(world, number)).collect()
    };
    let all = answered_by(&mut world, 0..SERVICES);
    assert!(all.iter().all(|count| [0, 50].contains(count)), "{all:?}");
    let without = all.iter().filter(|count| **count == 0).count();
    assert_eq!(without, full.missing_rows);
    // One that has a row, and finds no room for that of other backends, goes on by the old one.
    world.change(|desired| {
        for number in 0..SERVICES {
            let first = u8::from(number == 0);
            add(desired, number, first..BACKENDS + first);
        }
    });
    assert_eq!(room(&mut world).missing_rows, full.missing_rows + 1);
    assert!(answered(&mut world, 0) > 40);
    // What others leave is had in the same apply.
    world.change(|desired| {
        for number in 0..4 {
            add(desired, number, 0..BACKENDS);
        }
        for number in SERVICES - 4..SERVICES {
            add(desired, number, 0..BACKENDS);
        }
    });
    let after = room(&mut world);
    assert_eq!(after.missing_rows, 0, "{after:?}");
    let rest = answered_by(&mut world, SERVICES - 4..SERVICES);
    assert_eq!(rest, [50; 4]);
}

#[test]
fn backends_without_an_entry_get_no_flows_and_the_others_do() {
    let own = room(&mut World::new(Side::Node)).backends;
    let mut world = World::with(Side::Node, |config| {
        config.backend_slots = own + 100;
    });
    world.change(|desired| {
        add(desired, 0, 0..BACKENDS);
        add(desired, 1, 0..BACKENDS);
        add(desired, 2, 0..1);
    });
    let full = room(&mut world);
    assert_eq!(full.backends, full.backends_capacity);
    assert_eq!(full.backends_left_out, 21);
    assert_eq!(full.missing_rows, 0);
    assert_eq!(
        [0, 1, 2].map(|number| answered(&mut world, number)),
        [50, 50, 0]
    );
    world.change(|desired| {
        add(desired, 1, 0..BACKENDS);
        add(desired, 2, 0..1);
    });
    assert_eq!(room(&mut world).backends_left_out, 0);
    assert_eq!([1, 2].map(|number| answered(&mut world, number)), [50, 50]);
}
