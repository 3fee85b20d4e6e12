//! What the programs tell of packets while somebody asks, and that nothing else changes by it.

use std::net::{IpAddr, SocketAddr};

use mesh_common::{DropReason, Place, Verdict};
use mesh_datapath::{Trace, TraceFilter, TracedPacket};

use crate::{
    common::{INGRESS, INGRESS_V6, LAN_V6, six},
    frames::*,
    traffic::*,
    world::*,
};

/// A packet, the program it meets, and what is told of it.
#[derive(Clone)]
struct Case {
    name: &'static str,
    program: &'static str,
    interface: u32,
    packet: Vec<u8>,
    place: Place,
    outcome: &'static str,
    dropped: bool,
    /// As they are afterwards.
    ends: [SocketAddr; 2],
    peer: Option<IpAddr>,
}

fn cases() -> Vec<Case> {
    let end = |(address, port): End| SocketAddr::new(address.into(), port);
    let asks = Case {
        name: "a client's packet for another node's task, in XDP",
        program: "uplink_xdp",
        interface: UP,
        packet: begin(80).bytes(),
        place: Place::UplinkXdp,
        outcome: Verdict::Forwarded.name(),
        dropped: false,
        ends: [end(WHO), end((NODE, 80))],
        peer: Some(PEER.into()),
    };
    let arrives = syn(WHO, (NODE, 81)).macs(task(SIDE_GATE), node(PEER));
    let stranger = tcp((NOBODY, TARGET), WHO).macs(gateway(), task(NEAR_GATE));
    vec![
        Case {
            name: "the same in IPv6, in the twin",
            packet: begin(80).six().expect("there is one").bytes(),
            ends: [
                SocketAddr::new(six(LAN_V6, WHO.0).into(), WHO.1),
                SocketAddr::new(six(LAN_V6, NODE).into(), 80),
            ],
            ..asks.clone()
        },
        Case {
            name: "the same in tc",
            program: "uplink_tc",
            place: Place::UplinkTc,
            ..asks.clone()
        },
        Case {
            name: "what came by tunnel, into a task",
            program: "uplink_tc",
            packet: vxlan(PEER, NODE, INGRESS, arrives).bytes(),
            place: Place::UplinkTc,
            outcome: Verdict::Delivered.name(),
            ends: [end(WHO), end((SIDE_GATE, TARGET))],
            peer: None,
            ..asks.clone()
        },
        Case {
            name: "what came by tunnel, still in it",
            packet: vxlan(
                PEER,
                NODE,
                INGRESS,
                begin(81).macs(task(SIDE_GATE), node(PEER)),
            )
            .bytes(),
            outcome: Verdict::Handover.name(),
            ends: [end(WHO), end((NODE, 81))],
            ..asks.clone()
        },
        Case {
            name: "a packet that is dropped",
            program: "gateway_tc",
            interface: GATE,
            packet: stranger.bytes(),
            place: Place::Gateway,
            outcome: DropReason::Spoofed.name(),
            dropped: true,
            ends: [end((NOBODY, TARGET)), end(WHO)],
            peer: None,
        },
        Case {
            name: "a packet that is not ours",
            packet: begin(443).bytes(),
            outcome: Verdict::Pass.name(),
            ends: [end(WHO), end((NODE, 443))],
            peer: None,
            ..asks.clone()
        },
        asks,
    ]
}

fn all_of(trace: &mut Trace) -> Vec<TracedPacket> {
    std::iter::from_fn(|| trace.next_packet()).collect()
}

fn begin_trace(world: &mut World, filter: &TraceFilter) -> Trace {
    world
        .inside(|datapath| datapath.trace(filter))
        .expect("a trace")
}

#[test]
fn every_verdict_is_told_when_asked_and_none_when_not() {
    let mut world = World::new(Side::Node);
    for case in cases() {
        let Case {
            name,
            program,
            packet,
            interface,
            ..
        } = &case;
        let mut over = begin_trace(&mut world, &TraceFilter::default());
        world
            .inside(|datapath| datapath.end_trace())
            .expect("ended");
        let before = world.run(program, packet, *interface).expect(name);
        assert_eq!(all_of(&mut over), [], "{name}: nobody asks");

        let mut trace = begin_trace(&mut world, &TraceFilter::default());
        let during = world.run(program, packet, *interface).expect(name);
        world
            .inside(|datapath| datapath.end_trace())
            .expect("ended");
        assert_eq!(
            (during.action, &during.packet),
            (before.action, &before.packet),
            "{name}"
        );
        let told = all_of(&mut trace);
        let [packet] = told[..] else {
            panic!("{name}: {told:?}");
        };
        assert_eq!(packet.place, case.place.name(), "{name}");
        assert_eq!(
            (packet.outcome, packet.dropped),
            (case.outcome, case.dropped),
            "{name}"
        );
        assert_eq!([packet.src, packet.dst], case.ends, "{name}");
        assert_eq!(packet.peer, case.peer, "{name}");
        assert_eq!((packet.ifindex, packet.protocol), (*interface, 6), "{name}");
        assert_eq!(packet.length as usize, during.packet.len(), "{name}");
        assert!(
            packet.time_ns <= mesh_datapath::boot_nanoseconds(),
            "{name}"
        );
        assert_eq!(trace.lost().expect("a number"), 0);
    }
}

#[test]
fn only_what_is_asked_for_is_told() {
    let mut world = World::new(Side::Node);
    let filter = TraceFilter::default();
    let of = |client: std::net::Ipv4Addr| TraceFilter {
        client: Some(client.into()),
        ..filter.clone()
    };
    let to = |ports: &[u16]| TraceFilter {
        ports: ports.to_vec(),
        ..filter.clone()
    };
    let by = |protocol| TraceFilter {
        protocol: Some(protocol),
        ..filter.clone()
    };
    let table = [
        (of(CLIENT), true),
        (of(NODE), true),
        (of(PEER), false),
        (to(&[80]), true),
        (to(&[1, 2, 3, 4, 5, 6, 7, 80]), true),
        (to(&[WHO.1]), true),
        (to(&[81, 8080]), false),
        (by(6), true),
        (by(17), false),
        (
            TraceFilter {
                client: Some(CLIENT.into()),
                ..to(&[81])
            },
            false,
        ),
        (
            TraceFilter {
                client: Some(six(INGRESS_V6, CLIENT).into()),
                ..filter.clone()
            },
            false,
        ),
    ];
    for (filter, expected) in table {
        let mut trace = begin_trace(&mut world, &filter);
        world
            .run("uplink_xdp", &begin(80).bytes(), UP)
            .expect("a verdict");
        assert_eq!(
            all_of(&mut trace).len(),
            usize::from(expected),
            "{filter:?}"
        );
    }
}

#[test]
fn what_there_is_no_room_for_is_counted() {
    /// More than the ring has room for.
    const PACKETS: usize = 5000;
    let mut world = World::new(Side::Node);
    let mut trace = begin_trace(&mut world, &TraceFilter::default());
    let packet = begin(443).bytes();
    for _ in 0..PACKETS {
        world.run("uplink_xdp", &packet, UP).expect("a verdict");
    }
    let told = all_of(&mut trace).len();
    assert!(told > 1000, "{told}");
    assert_eq!(
        told as u64 + trace.lost().expect("a number"),
        PACKETS as u64
    );
}
