//! Clients' connections while the backends of a service change: ports used again, entries lost.

use std::net::Ipv4Addr;
use std::sync::Arc;

use mesh_common::{SETTLE_S, wire::OVERHEAD};
use mesh_datapath::{Backend, Desired, Location, Report};

use crate::{
    frames::{Mac, syn, task, tcp, udp},
    world::{CLIENT, FAR_GATE, Memory, NODE, PEER, Side, UP, World, now_s},
};

/// More tasks of the service on port 80, on the other node.
const MORE: [Ipv4Addr; 3] = [
    Ipv4Addr::new(10, 0, 0, 20),
    Ipv4Addr::new(10, 0, 0, 21),
    Ipv4Addr::new(10, 0, 0, 22),
];
/// With the one that it has at first.
pub(crate) const ALL: [Ipv4Addr; 4] = [MORE[0], MORE[1], MORE[2], FAR_GATE];
/// Client ports that are used again and again.
const PORTS: std::ops::Range<u16> = 40_000..40_256;

/// Entries of a table that is soon full.
const ENTRIES: u32 = 1024;

/// The endpoints of [`MORE`].
pub(crate) fn add_tasks(desired: &mut Desired) {
    for address in MORE {
        let endpoint = mesh_datapath::Endpoint {
            mac: mesh_datapath::mac_of(address.into()),
            location: Location::Remote(PEER.into()),
            encrypted: false,
        };
        let key = (crate::common::INGRESS, address.into());
        desired.endpoints.insert(key, endpoint);
    }
}

/// Backends that take new flows.
pub(crate) fn active(addresses: &[Ipv4Addr]) -> Vec<Backend> {
    let backend = |address: &Ipv4Addr| Backend {
        address: (*address).into(),
        draining: false,
    };
    addresses.iter().map(backend).collect()
}

/// Gives the service on port 80 these backends.
fn scale(world: &mut World, backends: &[Ipv4Addr]) {
    world.change(|desired| {
        add_tasks(desired);
        let service = desired.services.get_mut("s80").expect("the service");
        Arc::make_mut(service).ingress = active(backends);
    });
}

/// MAC of the backend that a client's packet goes to.
fn backend(world: &mut World, port: u16, first: bool) -> Mac {
    let frame = if first { syn } else { tcp };
    let packet = frame((CLIENT, port), (NODE, 80)).bytes();
    let sent = world.run("uplink_xdp", &packet, UP).expect("a verdict");
    let mac = &sent.packet[OVERHEAD..OVERHEAD + 6];
    mac.try_into().expect("six bytes")
}

#[test]
fn a_connection_stays_where_its_syn_went() {
    let mut world = World::new(Side::Node);
    // Each change leaves entries behind for some ports; later rows agree about some of these again.
    for backends in [
        &ALL[..],
        &ALL[..2],
        &ALL[1..],
        &ALL[..],
        &ALL[3..],
        &ALL[..],
    ] {
        scale(&mut world, backends);
        for port in PORTS {
            let first = backend(&mut world, port, true);
            let second = backend(&mut world, port, false);
            assert_eq!(first, second, "port {port} with {backends:?}");
        }
    }
}

/// The table of connections forgets whom it likes: those from before a change are found by the row before it.
#[test]
fn an_open_connection_does_not_miss_its_entry() {
    let mut world = World::new(Side::Node);
    for port in PORTS {
        assert_eq!(backend(&mut world, port, true), task(FAR_GATE));
    }
    for backends in [&ALL[..], &ALL[1..], &ALL[..]] {
        scale(&mut world, backends);
        let mut kept = 0;
        for _ in 0..2 {
            for port in PORTS {
                let now = backend(&mut world, port, false);
                assert_eq!(now, task(FAR_GATE), "port {port} with {backends:?}");
            }
            kept = world.memory().conns.len();
            world.set_memory(&Memory::default());
        }
        assert!(kept > 0, "there were entries to lose");
    }
}

/// Datagrams have a table of their own: however many flows of them there are, connections keep theirs.
#[test]
fn datagrams_evict_no_connection() {
    let mut world = World::with(Side::Node, |config| config.flow_entries = ENTRIES);
    scale(&mut world, &ALL);
    let ports = PORTS.start..PORTS.start + 64;
    let began: Vec<Mac> = ports
        .clone()
        .map(|port| backend(&mut world, port, true))
        .collect();
    let moved = began.iter().filter(|mac| **mac != task(FAR_GATE)).count();
    assert!(moved > 0, "some are known by their entries alone");
    for port in 0..8 * u16::try_from(ENTRIES).expect("few") {
        let question = udp((CLIENT, 10_000 + port), (NODE, 80)).bytes();
        world.run("uplink_xdp", &question, UP).expect("a verdict");
    }
    for (port, mac) in ports.zip(began) {
        assert_eq!(backend(&mut world, port, false), mac, "port {port}");
    }
}

/// The row before a change is dropped when it does more harm than good: it has been there for an hour, and of the
/// connections that began since some have lost the entries without which it leads them astray.
#[test]
fn an_evicted_connection_goes_by_the_current_row_after_an_hour() {
    // Before any of the rows changes that the world begins with.
    let began_s = now_s();
    let mut world = World::with(Side::Node, |config| config.flow_entries = ENTRIES);
    let before = PORTS.end..PORTS.end + 64;
    for port in before.clone() {
        assert_eq!(backend(&mut world, port, true), task(FAR_GATE));
    }
    scale(&mut world, &ALL);
    let settle = |world: &mut World, now_s: u32| {
        let (mut report, now_s) = (Report::default(), u64::from(now_s));
        let settled = world.inside(|datapath| datapath.settle(now_s, &mut report));
        settled.expect("settled");
        report.written
    };
    // Nothing has been evicted: those that have been silent all the time are where they were.
    assert_eq!(settle(&mut world, now_s() + SETTLE_S), 0);
    for port in before {
        assert_eq!(backend(&mut world, port, false), task(FAR_GATE));
    }
    let began: Vec<Mac> = PORTS.map(|port| backend(&mut world, port, true)).collect();
    for port in 0..8 * u16::try_from(ENTRIES).expect("few") {
        backend(&mut world, 10_000 + port, true);
    }
    assert_eq!(settle(&mut world, began_s + SETTLE_S - 1), 0);
    assert!(settle(&mut world, now_s() + SETTLE_S) > 0);
    for (port, mac) in PORTS.zip(began) {
        assert_eq!(backend(&mut world, port, false), mac, "port {port}");
    }
}
