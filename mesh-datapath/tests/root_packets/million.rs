//! Flow tables of 2^20 entries: how much memory they take, and that they hold as many flows.

use std::{
    fs,
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::maps::MapData;
use mesh_common::{FlowKey, Nat};

use crate::{
    frames::{gateway, task, udp},
    full::{REDIRECT, drops, fill},
    world::*,
};

const ENTRIES: u32 = 1 << 20;
/// Of these, how many the program makes.
const BY_PROGRAM: u32 = 1 << 15;
/// Bytes of an entry as the flag's help tells them, all tables together.
const BYTES: u64 = 456;

/// A client of its own for each flow.
fn client(flow: u32) -> (Ipv4Addr, u16) {
    let [_, address, high, low] = flow.to_be_bytes();
    let port = u16::from_be_bytes([high, low]);
    (Ipv4Addr::new(203, 0, 113, address + 1), port)
}

/// What the kernel counts for a table.
fn memory(world: &World, table: &str) -> u64 {
    let map = MapData::from_pin(world.maps().join(table)).expect("a pinned map");
    let fd = map.fd().as_fd().as_raw_fd();
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).expect("a description");
    let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    bytes.expect("a size").trim().parse().expect("a number")
}

#[test]
fn a_million_flows_are_remembered() {
    let mut world = World::with(Side::Node, |config| config.flow_entries = ENTRIES);
    let bytes: u64 = ["CONNS", "CONNS_ANY", "FLOWS"]
        .map(|table| memory(&world, table))
        .iter()
        .sum();
    println!("{bytes} bytes, {} each", bytes / u64::from(ENTRIES));
    // Kernels before 6.4 tell less.
    assert!(bytes / u64::from(ENTRIES) <= BYTES, "{bytes}");

    let before = drops(&world);
    let mut packet = udp(client(0), (NODE, 81)).unsummed().bytes();
    let mut ask = |world: &mut World, flow| {
        let (address, port) = client(flow);
        // Source address and port; a datagram without a checksum has nothing else that depends on them but the header's
        // checksum, which is for the task to look at.
        packet[26..30].copy_from_slice(&address.octets());
        packet[34..36].copy_from_slice(&port.to_be_bytes());
        let trial = world.run("uplink_tc", &packet, UP).expect("a verdict");
        assert_eq!(trial.action, REDIRECT, "flow {flow}");
    };
    // Most of them are written as the program would, which takes a tenth of the time.
    ask(&mut world, 0);
    let (known, nat) = world.memory().flows.pop_first().expect("a flow");
    let (asked, task_of) = world.memory().conns.pop_first().expect("a flow");
    world.remember((1..ENTRIES - BY_PROGRAM).map(|flow| {
        let (address, port) = client(flow);
        let (client, port_be) = (addr(address), port.to_be());
        let asked = FlowKey {
            src: client,
            sport_be: port_be,
            ..asked
        };
        let known = FlowKey {
            dst: client,
            dport_be: port_be,
            ..known
        };
        let nat = Nat {
            dst: client,
            dport_be: port_be,
            ..nat
        };
        (asked, task_of, known, nat)
    }));
    for flow in ENTRIES - BY_PROGRAM..ENTRIES {
        ask(&mut world, flow);
    }
    for table in ["conns_any", "flows"] {
        let fill = fill(&mut world, table);
        println!("{fill:?}");
        assert_eq!((fill.capacity, fill.refused), (ENTRIES, 0));
        assert_eq!(fill.inserted, u64::from(BY_PROGRAM) + 1);
        // Each processor keeps some entries free for itself.
        assert!(fill.entries > ENTRIES / 100 * 99, "{fill:?}");
    }
    // More than there is room for, and the answers of some that came before.
    for flow in ENTRIES..ENTRIES + 1000 {
        ask(&mut world, flow);
    }
    for flow in (ENTRIES / 2..ENTRIES).step_by(1000) {
        let answer = udp((SIDE_GATE, TARGET), client(flow)).macs(gateway(), task(SIDE_GATE));
        let trial = world.run("gateway_tc", &answer.bytes(), SIDE_GATE_LINK);
        assert_eq!(trial.expect("a verdict").action, REDIRECT, "flow {flow}");
    }
    assert_eq!(drops(&world), before);
}
