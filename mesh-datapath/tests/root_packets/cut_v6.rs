//! Packets of IPv6 that end at every byte: behind extension headers, as fragments, in tunnels, and errors with what they
//! quote. One that ends before its ports, or before the ports that it quotes, is treated as one that has none. One that ends
//! behind its checksum is for who gets it to refuse.

use etherparse::{Icmpv4Type, icmpv4};
use mesh_common::{DropReason, Place, SCOPE_PUBLISHED, SCOPE_TASK, wire};

use crate::{
    common::INGRESS,
    errors::about,
    fragments::noted,
    frames::*,
    overlay_tc::{self, ME},
    row::{Row, check_all, row},
    traffic::*,
    v6::extensions,
    world::*,
};

/// The shortest packet of IPv6 that the kernel tries a tc program on: with an IP header.
pub(crate) const IP: usize = wire::ETH_LEN + wire::IPV6_LEN;
/// Behind four extension headers.
pub(crate) const DEEP: usize = IP + 40;
/// Behind a fragment's header.
const FRAGMENT: usize = IP + 8;
/// What is to be there of a TCP header: the flags, the checksum.
pub(crate) const TCP: [usize; 2] = [14, 18];
/// Of UDP's: the ports, the checksum.
pub(crate) const UDP: [usize; 2] = [4, 8];
/// Ends of an error's own header, and of the ports that it quotes.
const ERROR: usize = IP + 8;
const QUOTED: usize = ERROR + wire::IPV6_LEN + 4;
/// Headers of a tunnel, the Ethernet header in it included.
const TUNNEL: usize = wire::OVERHEAD;

/// With four extension headers.
pub(crate) fn deep(frame: &Frame) -> Frame {
    let [.., (_, frame)] = extensions(frame);
    frame
}

fn first(frame: Frame) -> Frame {
    frame.fragment(0, true)
}

fn last(frame: Frame) -> Frame {
    frame.fragment(90, false)
}

/// A packet's row, at every length from `least` on. Up to `ports` it is as `before` says. From there on it is looked at; but
/// up to `checksum` the kernel refuses to change what is not there.
pub(crate) fn cut(
    least: usize,
    [ports, checksum]: [usize; 2],
    before: fn(Row) -> Row,
    whole: &Row,
) -> Vec<Row> {
    let whole = whole.six().expect("IPv6");
    let rows = (least..=whole.packet.bytes().len()).map(|length| {
        let row = whole.clone().cut(length);
        if length < ports {
            before(row.unnoticed())
        } else if length < checksum {
            row.drops(DropReason::Kernel)
        } else {
            row
        }
    });
    rows.collect()
}

/// Where these are in a packet whose transport header is at `offset`.
pub(crate) fn at(offset: usize, places: [usize; 2]) -> [usize; 2] {
    places.map(|place| offset + place)
}

/// What is not changed: only the first of two places counts.
fn unchanged([ports, _]: [usize; 2]) -> [usize; 2] {
    [ports; 2]
}

pub(crate) fn passes(row: Row) -> Row {
    row
}

fn malformed(row: Row) -> Row {
    row.drops(DropReason::Malformed)
}

/// To a task here, as it came in.
fn unchanged_to_a_task(row: Row) -> Row {
    let packet = row.packet.clone();
    row.delivers(packet)
}

/// A fragment whose header is there as far as it says where it belongs: not yet, and from there on as one of which nothing
/// more is known.
fn fragment_of(row: Row, unknown: fn(Row) -> Row) -> Row {
    const PLACE: usize = IP + 4;
    if row.packet.bytes().len() < PLACE {
        malformed(row)
    } else {
        unknown(row)
    }
}

fn exceeded() -> Icmpv4Type {
    Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit)
}

fn on_the_uplink() -> Vec<Row> {
    let to_task = row("behind extension headers", deep(&begin(81)))
        .delivers(near(deep(&syn(WHO, SERVER))))
        .remembers(outside(wire::TCP, 81))
        .counts("tcp/81", SIDE_GATE, true);
    let to_other = row("behind extension headers, a task there", deep(&begin(80)))
        .forwards(far(deep(&begin(80))))
        .counts("tcp/80", FAR_GATE, true);
    let note = noted(SCOPE_PUBLISHED, WHO, (NODE, 81));
    let fragment = |name: &str, of: fn(Frame) -> Frame| {
        row(name, of(datagram(81)))
            .delivers(near(of(udp(WHO, SERVER))))
            .binds(published(wire::UDP, 81), SIDE_GATE)
            .remembers(outside(wire::UDP, 81))
            .counts("udp/81", SIDE_GATE, true)
    };
    let error = row(
        "about a reply of a task",
        about(exceeded(), CLIENT, NODE, &tcp((NODE, 81), WHO)),
    )
    .delivers(near(about(
        exceeded(),
        CLIENT,
        SIDE_GATE,
        &tcp(SERVER, WHO),
    )));
    [
        cut(IP, at(DEEP, TCP), passes, &to_task),
        cut(IP, unchanged(at(DEEP, TCP)), passes, &to_other),
        cut(
            IP,
            at(FRAGMENT, UDP),
            passes,
            &fragment("first", first).notes(note),
        ),
        cut(
            IP,
            [FRAGMENT; 2],
            passes,
            &fragment("last", last).has_noted(note),
        ),
        cut(IP, [QUOTED; 2], passes, &error),
    ]
    .concat()
}

/// Out of tunnels, from the first byte that a tc program is tried on.
fn in_tunnels() -> Vec<Row> {
    const LEAST: usize = wire::ETH_LEN + wire::IPV4_LEN;
    const ALONE: usize = TUNNEL + IP;
    /// Behind the tunnel's ports it is a tunnel; a frame in it is there with its Ethernet header.
    fn tunnels(row: Row) -> Row {
        match row.packet.bytes().len() {
            38..62 => malformed(row),
            // An IP header alone says nothing of what follows.
            ALONE if row.name.contains("about") => row.drops(DropReason::NotPublished),
            _ => row,
        }
    }
    let overlay = |frame: Frame| vxlan(PEER, NODE, VNI, frame.macs(task(NEAR), task(FAR)));
    let asked = |frame: Frame| vxlan(PEER, NODE, INGRESS, frame.macs(task(SIDE_GATE), node(PEER)));
    let (from, to) = ((FAR, 5000), (NEAR, 80));
    let task_to_task = row(
        "overlay: behind extension headers",
        overlay(deep(&tcp(from, to))),
    )
    .delivers(deep(&tcp(from, to)).macs(task(NEAR), task(FAR)));
    let client = row(
        "asked there: behind extension headers",
        asked(deep(&syn(WHO, (PEER, 81)))),
    )
    .delivers(near(deep(&syn(WHO, SERVER))))
    .remembers(through(wire::TCP));
    let error = row(
        "asked there: about a reply of a task",
        asked(about(exceeded(), CLIENT, PEER, &tcp((PEER, 81), WHO))),
    )
    .delivers(near(about(
        exceeded(),
        CLIENT,
        SIDE_GATE,
        &tcp(SERVER, WHO),
    )));
    [
        cut(
            LEAST,
            unchanged(at(TUNNEL + DEEP, TCP)),
            tunnels,
            &task_to_task,
        ),
        cut(LEAST, at(TUNNEL + DEEP, TCP), tunnels, &client),
        cut(LEAST, [TUNNEL + QUOTED; 2], tunnels, &error),
    ]
    .concat()
}

fn on_the_gateway() -> Vec<Row> {
    let here = (NEAR_GATE, TARGET);
    let sent = |frame: Frame| frame.macs(gateway(), task(NEAR_GATE));
    let flow = |protocol| {
        (
            key(SCOPE_TASK, protocol, here, WHO),
            nat((NODE, 86), WHO, Way::Uplink(UP)),
        )
    };
    let out = row(
        "out, behind extension headers",
        sent(deep(&tcp((NEAR_GATE, 5000), (CLIENT, 443)))),
    )
    .by(GATE);
    let answer = row(
        "an answer behind extension headers",
        sent(deep(&tcp(here, WHO))),
    )
    .by(GATE)
    .knows(flow(wire::TCP))
    .returns_by_route(sent(deep(&tcp((NODE, 86), WHO))));
    let fragment = |name: &str, of: fn(Frame) -> Frame| {
        row(name, sent(of(udp(here, WHO))))
            .by(GATE)
            .knows(flow(wire::UDP))
            .returns_by_route(sent(of(udp((NODE, 86), WHO))))
    };
    let note = noted(SCOPE_TASK, here, WHO);
    let error = row(
        "about a client's segment",
        sent(about(exceeded(), NEAR_GATE, CLIENT, &tcp(WHO, here))),
    )
    .by(GATE)
    .knows(flow(wire::TCP))
    .returns_by_route(sent(about(exceeded(), NODE, CLIENT, &tcp(WHO, (NODE, 86)))));
    [
        cut(IP, unchanged(at(DEEP, TCP)), malformed, &out),
        cut(IP, at(DEEP, TCP), malformed, &answer),
        cut(
            IP,
            at(FRAGMENT, UDP),
            malformed,
            &fragment("first", first).notes(note),
        ),
        cut(
            IP,
            [FRAGMENT; 2],
            |row| fragment_of(row, passes),
            &fragment("last", last).has_noted(note),
        ),
        cut(IP, [QUOTED; 2], passes, &error),
    ]
    .concat()
}

fn on_the_overlay() -> Vec<Row> {
    let to_task = row("behind extension headers", deep(&overlay_tc::open(FAR)))
        .by(OVER)
        .tunnels(deep(&overlay_tc::open(FAR)));
    let balanced = |row: Row, protocol, begins| {
        row.by(OVER)
            .remembers(overlay_tc::reply(protocol, FAR, FAR_VIP))
            .binds(key(VNI, protocol, ME, (FAR_VIP, 80)), FAR)
            .counts(FAR_VIP, FAR, begins)
    };
    let to_vip = row(
        "virtual: behind extension headers",
        deep(&overlay_tc::open(FAR_VIP)),
    )
    .tunnels(deep(&overlay_tc::open(FAR)));
    let fragment = |name: &str, of: fn(Frame) -> Frame| {
        let row = row(name, of(overlay_tc::datagram(FAR_VIP)));
        balanced(row.tunnels(of(overlay_tc::datagram(FAR))), wire::UDP, true)
    };
    let note = noted(VNI, ME, (FAR_VIP, 80));
    let (server, caller) = ((NEAR, 80), (SIDE, 5001));
    let virtual_ = nat((OWN_VIP, 80), caller, Way::Link(SIDE_OVER, task(SIDE)));
    let sent =
        |from, to| about(exceeded(), from, SIDE, &tcp(caller, to)).macs(task(SIDE), task(NEAR));
    let error = row("about a call of a virtual address", sent(NEAR, server))
        .by(OVER)
        .knows((key(VNI, wire::TCP, server, caller), virtual_))
        .delivers(sent(OWN_VIP, (OWN_VIP, 80)));
    [
        cut(IP, unchanged(at(DEEP, TCP)), malformed, &to_task),
        cut(
            IP,
            at(DEEP, TCP),
            malformed,
            &balanced(to_vip, wire::TCP, false),
        ),
        cut(
            IP,
            at(FRAGMENT, UDP),
            |row| fragment_of(row, |row| row.drops(DropReason::Protocol)),
            &fragment("first", first).notes(note),
        ),
        cut(
            IP,
            [FRAGMENT; 2],
            |row| fragment_of(row, |row| row.drops(DropReason::Fragment)),
            &fragment("last", last).has_noted(note),
        ),
        cut(IP, [QUOTED; 2], unchanged_to_a_task, &error),
    ]
    .concat()
}

#[test]
fn uplink_tc_v6_cut() {
    check_all(Place::UplinkTc, &on_the_uplink());
}

#[test]
fn uplink_tc_v6_tunnels_cut() {
    check_all(Place::UplinkTc, &in_tunnels());
}

#[test]
fn gateway_tc_v6_cut() {
    check_all(Place::Gateway, &on_the_gateway());
}

#[test]
fn overlay_tc_v6_cut() {
    check_all(Place::Overlay, &on_the_overlay());
}

/// Without a tunnel nobody looks at them; out of tunnels they are tc's, once these are known as such.
fn by_xdp() -> Vec<Row> {
    const PORTS: usize = wire::ETH_LEN + wire::IPV4_LEN + 4;
    let error = |at| about(exceeded(), CLIENT, at, &tcp((at, 80), WHO));
    let reply = |frame: Frame| vxlan(PEER, NODE, INGRESS, frame.macs(node(NODE), node(PEER)));
    let plain = [
        ("behind extension headers", deep(&begin(80))),
        ("first", first(datagram(80))),
        ("last", last(datagram(80))),
        ("about a reply of a task", error(NODE)),
    ];
    let tunnels = [
        (
            "a reply behind extension headers",
            deep(&tcp((NODE, 80), WHO)),
        ),
        ("first of a reply", first(udp((NODE, 80), WHO))),
        ("last of a reply", last(udp((NODE, 80), WHO))),
        ("asked there: about a reply of a task", error(PEER)),
    ];
    let plain = plain.map(|(name, frame)| {
        let never = [usize::MAX; 2];
        cut(wire::ETH_LEN, never, passes, &row(name, frame))
    });
    let tunnels = tunnels.map(|(name, frame)| {
        let row = row(name, reply(frame)).hands_over();
        cut(wire::ETH_LEN, [PORTS; 2], passes, &row)
    });
    [plain.concat(), tunnels.concat()].concat()
}

#[test]
fn uplink_xdp_v6_cut() {
    check_all(Place::UplinkXdp, &by_xdp());
}
