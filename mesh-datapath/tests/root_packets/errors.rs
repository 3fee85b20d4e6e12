//! ICMP errors about flows that are rewritten on their way, and packets that are too big for a tunnel.

use std::net::Ipv4Addr;

use etherparse::{IcmpEchoHeader, Icmpv4Type, icmpv4};
use mesh_common::{DropReason, Place, SCOPE_PORT, SCOPE_PUBLISHED, SCOPE_RETURN, SCOPE_TASK, wire};

use crate::{
    common::INGRESS,
    fragments::noted,
    frames::*,
    row::{Row, check_all, check_in, row},
    six::six,
    traffic::*,
    world::*,
};

/// A router between the client and the node.
const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// What an uplink of 1,500 bytes leaves for a packet in a tunnel.
pub(crate) const MTU: u16 = 1450;

fn unreachable() -> Icmpv4Type {
    Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port)
}

fn needs_fragments(next_hop_mtu: u16) -> Icmpv4Type {
    Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::FragmentationNeeded {
        next_hop_mtu,
    })
}

fn exceeded() -> Icmpv4Type {
    Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit)
}

/// An error about a packet, of which it quotes the IP header and eight bytes: the ports, and of TCP the number.
pub(crate) fn about(kind: Icmpv4Type, from: Ipv4Addr, to: Ipv4Addr, packet: &Frame) -> Frame {
    quoting(kind, from, to, packet, packet)
}

/// The quoted datagram keeps the checksum it had, as it is not all there.
fn quoting(kind: Icmpv4Type, from: Ipv4Addr, to: Ipv4Addr, sent: &Frame, seen: &Frame) -> Frame {
    icmp(from, to, kind).quote(sent, seen)
}

/// From outside, about replies of tasks.
fn from_outside() -> Vec<Row> {
    let outside = |kind, packet: &Frame| about(kind, ROUTER, NODE, packet);
    let reply = |port| tcp((NODE, port), WHO);
    let inside = near(about(exceeded(), ROUTER, SIDE_GATE, &tcp(SERVER, WHO)));
    let datagram = udp((NODE, 81), WHO);
    let seen = near(quoting(
        unreachable(),
        CLIENT,
        SIDE_GATE,
        &udp(SERVER, WHO),
        &datagram,
    ));
    let echo = Icmpv4Type::EchoReply(IcmpEchoHeader { id: 5, seq: 6 });
    vec![
        row(
            "about a reply of a task here",
            outside(exceeded(), &reply(81)),
        )
        .delivers(inside),
        row(
            "about a reply of a task there",
            outside(needs_fragments(1400), &reply(80)),
        )
        .forwards(far(outside(needs_fragments(1400), &reply(80)))),
        row(
            "about a reply by datagram",
            about(unreachable(), CLIENT, NODE, &datagram),
        )
        .bound(published(wire::UDP, 81), SIDE_GATE)
        .delivers(seen),
        row(
            "about a port that is not published",
            outside(exceeded(), &reply(443)),
        ),
        row(
            "about a service without a task",
            outside(exceeded(), &reply(82)),
        ),
        row(
            "about another host's packet",
            about(exceeded(), ROUTER, NOBODY, &reply(81)),
        ),
        row(
            "about a ping",
            about(exceeded(), ROUTER, NODE, &icmp(NODE, CLIENT, echo)),
        ),
        row(
            "about a fragment without ports",
            outside(exceeded(), &reply(81).fragment(9, false)),
        ),
        row(
            "about a packet with IP options",
            outside(exceeded(), &reply(81).options(1)),
        ),
        row("about nothing", icmp(ROUTER, NODE, exceeded()).payload(b"")),
    ]
}

/// Messages, and what they quote, that end at every byte: without the quoted ports they are nobody's.
fn cut(there: impl Fn(Row, &[u8]) -> Row) -> Vec<Row> {
    const PORTS: usize = 66;
    let message = about(exceeded(), ROUTER, NODE, &tcp((NODE, 81), WHO)).bytes();
    let inside = near(about(exceeded(), ROUTER, SIDE_GATE, &tcp(SERVER, WHO))).bytes();
    let rows = (34..=message.len()).map(|length| {
        let name = format!("about a reply of a task, {length} bytes of it");
        let row = row(name, &message[..length]);
        if length < PORTS {
            row
        } else {
            there(row, &inside[..length])
        }
    });
    rows.collect()
}

#[test]
fn errors_cut() {
    check_all(
        Place::UplinkTc,
        &cut(|row, inside| row.delivers(inside.to_vec())),
    );
    // XDP leaves all of them to tc.
    check_all(Place::UplinkXdp, &cut(|row, _| row));
}

/// Out of tunnels.
fn from_the_peer() -> Vec<Row> {
    let to_task =
        |frame: Frame| vxlan(PEER, NODE, INGRESS, frame.macs(task(SIDE_GATE), node(PEER)));
    let to_node = |frame: Frame| vxlan(PEER, NODE, INGRESS, frame.macs(node(NODE), node(PEER)));
    let overlay = |frame: Frame| vxlan(PEER, NODE, VNI, frame.macs(task(NEAR), task(FAR)));
    let reply = tcp((PEER, 81), WHO);
    let caller = (NEAR_GATE, 5000);
    let called = nat((NODE, 80), caller, Way::Link(GATE, task(NEAR_GATE)));
    let (me, there) = ((NEAR, 5001), (FAR, 80));
    let virtual_ = nat((FAR_VIP, 80), me, Way::Link(OVER, task(NEAR)));
    let substitute = mesh_common::Nat {
        sport_be: 1999_u16.to_be(),
        ..nat((PEER, 81), WHO, Way::Node(PEER))
    };
    let inside =
        |kind, from, packet: &Frame| about(kind, from, NEAR, packet).macs(task(NEAR), task(FAR));
    let (datagram, translated) = (udp(me, there), udp(me, (FAR_VIP, 80)));
    vec![
        row(
            "asked there: about a reply of a task here",
            to_task(about(exceeded(), ROUTER, PEER, &reply)),
        )
        .delivers(near(about(
            exceeded(),
            ROUTER,
            SIDE_GATE,
            &tcp(SERVER, WHO),
        ))),
        row(
            "asked there: about one to a substitute",
            to_task(about(exceeded(), ROUTER, PEER, &reply)),
        )
        .knows((key(SCOPE_PORT, wire::TCP, WHO, (PEER, 81)), substitute))
        .delivers(near(about(
            exceeded(),
            ROUTER,
            SIDE_GATE,
            &tcp(SERVER, (CLIENT, 1999)),
        ))),
        row(
            "asked there: about a port not published",
            to_task(about(exceeded(), ROUTER, PEER, &tcp((PEER, 443), WHO))),
        )
        .drops(DropReason::NotPublished),
        row(
            "of a task there, about the call of a task here",
            to_node(about(
                unreachable(),
                NODE,
                NEAR_GATE,
                &tcp(caller, (NODE, 80)),
            )),
        )
        .knows((key(SCOPE_RETURN, wire::TCP, (NODE, 80), caller), called))
        .returns(
            about(unreachable(), NODE, NEAR_GATE, &tcp(caller, (NODE, 80)))
                .macs(task(NEAR_GATE), gateway()),
        ),
        row(
            "of a task there, for a client outside: the tunnel device's",
            to_node(about(unreachable(), NODE, CLIENT, &open(80))),
        ),
        row(
            "overlay: about a segment to a virtual address",
            overlay(about(unreachable(), FAR, NEAR, &tcp(me, there))),
        )
        .knows((key(VNI, wire::TCP, there, me), virtual_))
        .delivers(inside(unreachable(), FAR_VIP, &tcp(me, (FAR_VIP, 80)))),
        row(
            "overlay: about a datagram to a virtual address",
            overlay(about(unreachable(), FAR, NEAR, &datagram)),
        )
        .knows((key(VNI, wire::UDP, there, me), virtual_))
        .delivers(
            quoting(unreachable(), FAR_VIP, NEAR, &translated, &datagram)
                .macs(task(NEAR), task(FAR)),
        ),
        row(
            "overlay: about a segment to the task itself",
            overlay(about(unreachable(), FAR, NEAR, &tcp(me, there))),
        )
        .delivers(inside(unreachable(), FAR, &tcp(me, there))),
        row(
            "overlay: for nobody",
            overlay(about(unreachable(), FAR, NOBODY, &tcp(me, there))),
        )
        .drops(DropReason::NoEndpoint),
    ]
}

/// Of tasks, about what came by a published port.
fn on_the_gateway() -> Vec<Row> {
    let here = (NEAR_GATE, TARGET);
    let sent = |frame: Frame| frame.macs(gateway(), task(NEAR_GATE));
    let error = |packet: &Frame| sent(about(unreachable(), NEAR_GATE, CLIENT, packet));
    let flow = |protocol| key(SCOPE_TASK, protocol, here, WHO);
    let through_peer = |frame: Frame| frame.macs(node(PEER), node(NODE));
    let datagram = udp(WHO, here);
    let asked = |at| quoting(unreachable(), at, CLIENT, &udp(WHO, (at, 86)), &datagram);
    let rows = [
        row("about a client's datagram", error(&datagram))
            .knows((flow(wire::UDP), nat((NODE, 86), WHO, Way::Uplink(UP))))
            .returns_by_route(sent(asked(NODE))),
        row("about a client's segment", error(&tcp(WHO, here)))
            .knows((flow(wire::TCP), nat((NODE, 86), WHO, Way::Uplink(UP))))
            .returns_by_route(sent(about(
                unreachable(),
                NODE,
                CLIENT,
                &tcp(WHO, (NODE, 86)),
            ))),
        row(
            "about a datagram of a client that asked the other node",
            error(&datagram),
        )
        .knows((flow(wire::UDP), nat((PEER, 86), WHO, Way::Node(PEER))))
        .returns_in_tunnel(through_peer(asked(PEER))),
        row(
            "the same, whose replies need not go there",
            error(&datagram),
        )
        .knows((flow(wire::UDP), nat((PEER, 86), WHO, Way::Direct(PEER))))
        .returns_in_tunnel(through_peer(asked(PEER))),
        row("about a flow that nobody knows", error(&datagram)),
        row(
            "an error with another's address",
            sent(about(unreachable(), SIDE_GATE, CLIENT, &datagram)),
        )
        .drops(DropReason::Spoofed),
    ];
    rows.map(|row| row.by(GATE)).into()
}

/// Of tasks, about what came on an overlay network.
fn on_the_overlay() -> Vec<Row> {
    let (server, caller) = ((NEAR, 80), (SIDE, 5001));
    let sent = |to, frame: Frame| frame.macs(task(to), task(NEAR));
    let error = |from: End| about(unreachable(), NEAR, from.0, &tcp(from, server));
    let far = (FAR, 5001);
    let virtual_ = nat((OWN_VIP, 80), caller, Way::Link(SIDE_OVER, task(SIDE)));
    let hairpin = nat((OWN_VIP, 80), (NEAR, 5001), Way::Link(OVER, task(NEAR)));
    let myself = (OWN_VIP, 5001);
    let back = about(
        unreachable(),
        OWN_VIP,
        NEAR,
        &tcp((NEAR, 5001), (OWN_VIP, 80)),
    );
    let rows = [
        row("overlay: to a task there", sent(FAR, error(far))).tunnels(sent(FAR, error(far))),
        row("overlay: to a task here", sent(SIDE, error(caller)))
            .delivers(sent(SIDE, error(caller))),
        row(
            "overlay: to a task here that called a virtual address",
            sent(SIDE, error(caller)),
        )
        .knows((key(VNI, wire::TCP, server, caller), virtual_))
        .delivers(sent(
            SIDE,
            about(unreachable(), OWN_VIP, SIDE, &tcp(caller, (OWN_VIP, 80))),
        )),
        row("overlay: to itself", sent(OWN_VIP, error(myself)))
            .knows((key(VNI, wire::TCP, server, myself), hairpin))
            .delivers(back.macs(task(NEAR), task(OWN_VIP))),
        row(
            "overlay: to a virtual address",
            sent(FAR_VIP, error((FAR_VIP, 5001))),
        )
        .drops(DropReason::Protocol),
        row(
            "overlay: with another's address",
            sent(FAR, about(unreachable(), SIDE, FAR, &tcp(far, server))),
        )
        .drops(DropReason::Spoofed),
    ];
    rows.map(|row| row.by(OVER)).into()
}

/// Length of what is in front of a datagram's payload: the sizes of the two protocols differ by that.
fn headers(six: bool) -> usize {
    wire::UDP_LEN + if six { wire::IPV6_LEN } else { wire::IPV4_LEN }
}

/// The answer to a packet that does not fit, as it is more than `most` long: IP header and twenty bytes of it.
fn too_big(packet: &Frame, six: bool, most: u16) -> Frame {
    let bytes = if six {
        packet.six().expect("IPv6")
    } else {
        packet.clone()
    }
    .bytes();
    let quote = &bytes[wire::ETH_LEN..][..headers(six) - wire::UDP_LEN + 20];
    icmp(
        packet.ip.destination.into(),
        packet.ip.source.into(),
        needs_fragments(most),
    )
    .payload(quote)
    .macs(packet.smac, packet.dmac)
    .unnumbered()
}

/// Packets that fit no tunnel; `most`: what one takes.
pub(crate) fn sizes(place: Place, six: bool, most: u16) -> Vec<Row> {
    let payload = |of: u16| usize::from(of) - headers(six);
    let fits = |frame: Frame| frame.payload(&vec![5; payload(most)]);
    let large = |frame: Frame| frame.payload(&vec![5; payload(most) + 1]);
    let segment = large(open(80));
    let last = datagram(80).fragment(90, true).payload(&vec![5; 1450]);
    let whole = |frame: Frame| frame.ip(|ip| ip.dont_fragment = true);
    let cuttable = |frame: Frame| frame.ip(|ip| ip.dont_fragment = false);
    let too_big = |packet: &Frame| too_big(packet, six, most);
    match place {
        Place::UplinkXdp => vec![
            row("as large as the tunnel takes", fits(datagram(80)))
                .forwards(far(fits(datagram(80))))
                .binds(published(wire::UDP, 80), FAR_GATE)
                .counts("udp/80", FAR_GATE, true),
            row("larger", large(datagram(80)))
                .hands_over()
                .binds(published(wire::UDP, 80), FAR_GATE)
                .counts_flow("udp/80", FAR_GATE),
        ],
        Place::UplinkTc => vec![
            row("as large as the tunnel takes", fits(datagram(80)))
                .forwards(far(fits(datagram(80))))
                .binds(published(wire::UDP, 80), FAR_GATE)
                .counts("udp/80", FAR_GATE, true),
            row("larger", whole(large(datagram(80))))
                .answers(too_big(&whole(large(datagram(80)))))
                .binds(published(wire::UDP, 80), FAR_GATE)
                .counts("udp/80", FAR_GATE, true),
            row("a segment that is larger", whole(segment.clone()))
                .answers(too_big(&whole(segment)))
                .counts("tcp/80", FAR_GATE, false),
            row(
                "larger, and may be fragmented",
                cuttable(large(datagram(80))),
            )
            .answers(too_big(&cuttable(large(datagram(80)))))
            .binds(published(wire::UDP, 80), FAR_GATE)
            .counts("udp/80", FAR_GATE, true),
            row("larger, and a later fragment", last.clone())
                .drops(DropReason::TooBig)
                .binds(published(wire::UDP, 80), FAR_GATE)
                .counts("udp/80", FAR_GATE, true)
                .has_noted(noted(SCOPE_PUBLISHED, WHO, (NODE, 80))),
        ],
        Place::Overlay => {
            let sent = |to| udp((NEAR, 5001), (to, 80)).macs(task(to), task(NEAR));
            let rows = [
                row(
                    "to a task there, as large as the tunnel takes",
                    fits(sent(FAR)),
                )
                .tunnels(fits(sent(FAR))),
                row("to a task there, larger", whole(large(sent(FAR))))
                    .answers(too_big(&whole(large(sent(FAR))))),
                row("to a task here, larger", whole(large(sent(SIDE))))
                    .delivers(whole(large(sent(SIDE)))),
                row("to a virtual address, larger", whole(large(sent(FAR_VIP))))
                    .answers(too_big(&whole(large(sent(FAR_VIP)))))
                    .binds(key(VNI, wire::UDP, (NEAR, 5001), (FAR_VIP, 80)), FAR)
                    .counts(FAR_VIP, FAR, true),
                row(
                    "to a task there, larger, and may be fragmented",
                    cuttable(large(sent(FAR))),
                )
                .answers(too_big(&cuttable(large(sent(FAR))))),
            ];
            rows.map(|row| row.by(OVER)).into()
        }
        _ => {
            let here = (NEAR_GATE, TARGET);
            let sent = udp(here, WHO).macs(gateway(), task(NEAR_GATE));
            let known = (
                key(SCOPE_TASK, wire::UDP, here, WHO),
                nat((PEER, 86), WHO, Way::Node(PEER)),
            );
            vec![
                row("an answer that is larger", whole(large(sent.clone())))
                    .by(GATE)
                    .knows(known)
                    .answers(too_big(&whole(large(sent)))),
            ]
        }
    }
}

/// The rows of a place.
pub(crate) fn rows(place: Place) -> Vec<Row> {
    about_flows(place)
        .into_iter()
        .chain(sizes(place, false, MTU))
        .collect()
}

/// The same in IPv6.
pub(crate) fn rows_v6(place: Place) -> Vec<Row> {
    six([about_flows(place), sizes(place, true, MTU)].concat())
}

fn about_flows(place: Place) -> Vec<Row> {
    match place {
        Place::UplinkTc => [from_outside(), from_the_peer()].concat(),
        Place::Overlay => on_the_overlay(),
        _ => on_the_gateway(),
    }
}

#[test]
fn errors_by_the_uplink() {
    check_all(Place::UplinkTc, &rows(Place::UplinkTc));
}

#[test]
fn errors_of_tasks() {
    check_all(Place::Gateway, &rows(Place::Gateway));
    check_all(Place::Overlay, &rows(Place::Overlay));
}

#[test]
fn sizes_of_another_nodes_wire() {
    for (told, most) in [(None, MTU), (Some(9000), MTU), (Some(1400), 1350)] {
        let mut world = World::new(Side::Node);
        world.change(|desired| desired.peers = [(PEER.into(), told)].into());
        for place in [
            Place::UplinkXdp,
            Place::UplinkTc,
            Place::Overlay,
            Place::Gateway,
        ] {
            check_in(&mut world, place, &sizes(place, false, most));
            check_in(&mut world, place, &six(sizes(place, true, most)));
        }
    }
}
