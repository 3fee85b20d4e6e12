//! The program on the loopback interface: calls of the node's own processes.

use std::net::Ipv4Addr;

use etherparse::{IcmpEchoHeader, Icmpv4Type};
use mesh_common::{
    DropReason, FlowKey, Nat, Place, SCOPE_PUBLISHED, SCOPE_RETURN, SCOPE_TASK, wire,
};

use crate::{
    fragments::noted,
    frames::*,
    row::{Row, check_all, row},
    traffic::*,
    world::*,
};

const HOME: Ipv4Addr = Ipv4Addr::LOCALHOST;
const PORT: u16 = 33_000;
/// How tasks see every process.
const SEEN: End = (NODE, PORT);

/// From a process to itself, in frames without MACs.
fn sent(frame: Frame) -> Frame {
    frame.macs([0; 6], [0; 6])
}

fn begin(at: Ipv4Addr, port: u16) -> Frame {
    sent(syn((at, PORT), (at, port)))
}

fn open(at: Ipv4Addr, port: u16) -> Frame {
    sent(tcp((at, PORT), (at, port)))
}

/// How the answer of the task here is treated.
fn here(protocol: u8, at: Ipv4Addr) -> (FlowKey, Nat) {
    let nat = nat((at, 81), (at, PORT), Way::Loopback);
    (key(SCOPE_TASK, protocol, SERVER, SEEN), nat)
}

/// How an answer that comes back from the other node is treated.
fn there(protocol: u8, at: Ipv4Addr) -> (FlowKey, Nat) {
    let nat = nat((at, 80), (at, PORT), Way::Loopback);
    (key(SCOPE_RETURN, protocol, (NODE, 80), SEEN), nat)
}

fn bound(port: u16) -> FlowKey {
    key(SCOPE_PUBLISHED, wire::UDP, SEEN, (NODE, port))
}

pub(crate) fn rows() -> Vec<Row> {
    let echo = Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 5, seq: 6 });
    let rows = vec![
        row("localhost, a task here", begin(HOME, 81))
            .delivers(near(syn(SEEN, SERVER)))
            .remembers(here(wire::TCP, HOME))
            .counts("tcp/81", SIDE_GATE, true),
        row("localhost, in the middle", open(HOME, 81))
            .knows(here(wire::TCP, HOME))
            .delivers(near(tcp(SEEN, SERVER)))
            .counts("tcp/81", SIDE_GATE, false),
        row("the node's own address, a task here", begin(NODE, 81))
            .delivers(near(syn(SEEN, SERVER)))
            .remembers(here(wire::TCP, NODE))
            .counts("tcp/81", SIDE_GATE, true),
        row(
            "another loopback address",
            begin([127, 0, 0, 53].into(), 81),
        )
        .delivers(near(syn(SEEN, SERVER)))
        .remembers(here(wire::TCP, [127, 0, 0, 53].into()))
        .counts("tcp/81", SIDE_GATE, true),
        row("localhost, a task there", begin(HOME, 80))
            .forwards(far(syn(SEEN, (NODE, 80))))
            .remembers(there(wire::TCP, HOME))
            .counts("tcp/80", FAR_GATE, true),
        row("localhost, a task there, in the middle", open(HOME, 80))
            .knows(there(wire::TCP, HOME))
            .forwards(far(tcp(SEEN, (NODE, 80))))
            .counts("tcp/80", FAR_GATE, false),
        row("the node's own address, a task there", begin(NODE, 80))
            .forwards(far(syn(SEEN, (NODE, 80))))
            .remembers(there(wire::TCP, NODE))
            .counts("tcp/80", FAR_GATE, true),
        row(
            "a datagram to localhost, a task here",
            sent(udp((HOME, PORT), (HOME, 81))),
        )
        .delivers(near(udp(SEEN, SERVER)))
        .remembers(here(wire::UDP, HOME))
        .binds(bound(81), SIDE_GATE)
        .counts("udp/81", SIDE_GATE, true),
        row(
            "a datagram to localhost, a task there",
            sent(udp((HOME, PORT), (HOME, 80))),
        )
        .forwards(far(udp(SEEN, (NODE, 80))))
        .remembers(there(wire::UDP, HOME))
        .binds(bound(80), FAR_GATE)
        .counts("udp/80", FAR_GATE, true),
        row(
            "a datagram without a checksum",
            sent(udp((HOME, PORT), (HOME, 81))).unsummed(),
        )
        .delivers(near(udp(SEEN, SERVER).unsummed()))
        .remembers(here(wire::UDP, HOME))
        .binds(bound(81), SIDE_GATE)
        .counts("udp/81", SIDE_GATE, true),
        row("no task, which the stack refuses", begin(HOME, 82)),
        row("a port that is not published", begin(HOME, 443)),
        row("another host's address", begin(NOBODY, 81)),
        row("a task's address", begin(SIDE_GATE, 81)),
        row(
            "the stack's own answer",
            sent(tcp((HOME, 81), (HOME, PORT))),
        ),
        row("ping of localhost", sent(icmp(HOME, HOME, echo))),
        row("IP options", begin(HOME, 81).options(1)),
        row(
            "the first fragment",
            sent(udp((HOME, PORT), (HOME, 81))).fragment(0, true),
        )
        .delivers(near(udp(SEEN, SERVER).fragment(0, true)))
        .remembers(here(wire::UDP, HOME))
        .binds(bound(81), SIDE_GATE)
        .counts("udp/81", SIDE_GATE, true)
        .notes(noted(SCOPE_PUBLISHED, (HOME, PORT), (HOME, 81))),
        row(
            "the last fragment",
            sent(udp((HOME, PORT), (HOME, 81))).fragment(9, false),
        )
        .delivers(near(udp(SEEN, SERVER).fragment(9, false)))
        .knows(here(wire::UDP, HOME))
        .bound(bound(81), SIDE_GATE)
        .counts("udp/81", SIDE_GATE, false)
        .has_noted(noted(SCOPE_PUBLISHED, (HOME, PORT), (HOME, 81))),
    ];
    let segment = begin(HOME, 81).bytes();
    let cut = (34..48).map(|length| row(format!("TCP, {length} bytes of it"), &segment[..length]));
    let datagram = sent(udp((HOME, PORT), (HOME, 81))).bytes();
    let cut_datagram = (34..42).map(|length| {
        let row = row(format!("UDP, {length} bytes of it"), &datagram[..length]);
        match length {
            ..38 => row,
            // The ports are there; the checksum, which the kernel is asked to change, is not.
            _ => row
                .drops(DropReason::Kernel)
                .remembers(here(wire::UDP, HOME))
                .binds(bound(81), SIDE_GATE)
                .counts("udp/81", SIDE_GATE, true),
        }
    });
    let rows = rows.into_iter().chain(cut).chain(cut_datagram);
    rows.map(|row| row.by_default(LO)).collect()
}

#[test]
fn loopback_tc() {
    check_all(Place::Loopback, &rows());
}
