//! What only IPv6 has, on tasks' links and the loopback interface.

use std::net::Ipv6Addr;

use etherparse::{Icmpv6Type, IpNumber};
use mesh_common::{
    Addr, DropReason, FlowKey, Nat, SCOPE_PUBLISHED, SCOPE_RETURN, SCOPE_TASK, wire,
};

use crate::{
    common::INGRESS_V6,
    cut_v6::{self, DEEP, IP, TCP, UDP, deep, passes},
    frames::*,
    neighbours::{Host, advertisement, message, solicitation},
    overlay_tc,
    row::{Row, row},
    six,
    traffic::*,
    v6::{extensions, too_many},
    world::*,
};

/// Every task's gateway, and where a task hears its neighbours.
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x42, 0xaff, 0xfe00, 0x3);
const ALL_NODES: Host = (
    [0x33, 0x33, 0, 0, 0, 1],
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
);

fn v6(address: std::net::Ipv4Addr) -> Ipv6Addr {
    six::address(address).expect("IPv6")
}

/// Questions that get no answer on any link, and what is no question. `me` asks for `target`.
fn refused(me: Host, target: Ipv6Addr) -> Vec<Row> {
    let question = solicitation(me, target);
    let drops = |name: &str, packet: Vec<u8>, reason| row(name, packet).drops(reason);
    let mut far_away = question.clone();
    far_away[21] = 254;
    let mut odd = question.clone();
    odd[78] = 14;
    let mut long = question.clone();
    long[19] = 40;
    long.extend([0; 8]);
    let nobody = (me.0, Ipv6Addr::UNSPECIFIED);
    let group = Icmpv6Type::Unknown {
        type_u8: 143,
        code_u8: 0,
        bytes5to8: [0; 4],
    };
    let mut rows = vec![
        drops(
            "a probe for a duplicate",
            solicitation(nobody, me.1),
            DropReason::NoEndpoint,
        ),
        drops(
            "a probe for another's address",
            solicitation(nobody, target),
            DropReason::NoEndpoint,
        ),
        drops(
            "who has what nobody has",
            solicitation(me, v6(NOBODY)),
            DropReason::NoEndpoint,
        ),
        drops(
            "who has its own address",
            solicitation(me, me.1),
            DropReason::NoEndpoint,
        ),
        drops(
            "a question with another's MAC",
            solicitation((task(FAR), me.1), target),
            DropReason::Spoofed,
        ),
        drops(
            "a question with another's address",
            solicitation((me.0, v6(CLIENT)), target),
            DropReason::Spoofed,
        ),
        drops("a question from afar", far_away, DropReason::Malformed),
        drops("a question with an odd option", odd, DropReason::Malformed),
        drops("a question with two options", long, DropReason::Malformed),
        drops(
            "who is a router",
            message(
                Icmpv6Type::Unknown {
                    type_u8: 133,
                    code_u8: 0,
                    bytes5to8: [0; 4],
                },
                me,
                ALL_NODES,
                b"",
            ),
            DropReason::NotUnicast,
        ),
        drops(
            "groups that the task is in",
            message(group, (me.0, LINK_LOCAL), ALL_NODES, b""),
            DropReason::NotUnicast,
        ),
        drops(
            "an answer that nobody asked for, to all",
            advertisement(me, ALL_NODES, false, true),
            DropReason::NotUnicast,
        ),
    ];
    for length in 54..86 {
        let name = format!("a question, {length} bytes of it");
        let reason = match length {
            // The type is missing: a message to a group.
            54 => DropReason::NotUnicast,
            _ => DropReason::Malformed,
        };
        rows.push(row(name, &question[..length]).drops(reason));
    }
    rows
}

/// Without IPv6 on the wire: nothing of a packet gets past these.
fn cut(segment: &[u8], datagram: &[u8], whole: impl Fn(Row, &[u8]) -> Row) -> Vec<Row> {
    let mut rows = Vec::new();
    for (what, packet, ports) in [("TCP", segment, 68), ("UDP", datagram, 58)] {
        for length in 54..ports + 6 {
            let row = row(format!("{what}, {length} bytes of it"), &packet[..length]);
            rows.push(if length < ports {
                row.drops(DropReason::Malformed)
            } else {
                whole(row, &packet[..length])
            });
        }
    }
    rows
}

pub(crate) fn on_overlay() -> Vec<Row> {
    use overlay_tc::{ME, open, sent};
    let me = (task(NEAR), v6(NEAR));
    let local = (task(NEAR), LINK_LOCAL);
    let is_at = |who, to, option| advertisement((task(who), v6(who)), to, false, option);
    let mut bare = solicitation(me, v6(FAR));
    bare.truncate(78);
    bare[19] = 24;
    let mut rows = refused(me, v6(FAR));
    rows.extend([
        row("who has a task there", solicitation(me, v6(FAR))).answers(is_at(FAR, me, true)),
        row("who has a task here", solicitation(me, v6(SIDE))).answers(is_at(SIDE, me, true)),
        row("who has a virtual address", solicitation(me, v6(FAR_VIP)))
            .answers(is_at(FAR_VIP, me, true)),
        row(
            "who has one without a task",
            solicitation(me, v6(EMPTY_VIP)),
        )
        .answers(is_at(EMPTY_VIP, me, true)),
        row(
            "asked from the link-local address",
            solicitation(local, v6(FAR)),
        )
        .answers(is_at(FAR, local, true)),
        row("asked without a MAC", bare).answers(is_at(FAR, me, false)),
        row(
            "who has the gateway, which is on another link",
            solicitation(me, ROUTER),
        )
        .drops(DropReason::NoEndpoint),
        row(
            "who has a task of another network",
            solicitation(me, v6(FAR_GATE)),
        )
        .drops(DropReason::NoEndpoint),
    ]);
    for (name, frame) in extensions(&open(FAR)) {
        rows.push(row(format!("to a task there, {name}"), frame.clone()).tunnels(frame));
    }
    for (name, frame) in extensions(&open(FAR_VIP)) {
        let (_, there) = extensions(&open(FAR))
            .into_iter()
            .find(|(n, _)| *n == name)
            .expect("it");
        rows.push(
            row(format!("virtual: {name}"), frame)
                .tunnels(there)
                .remembers(overlay_tc::reply(wire::TCP, FAR, FAR_VIP))
                .binds(key(VNI, wire::TCP, ME, (FAR_VIP, 80)), FAR)
                .counts(FAR_VIP, FAR, false),
        );
    }
    rows.extend([
        row(
            "to a task there, too many extension headers",
            too_many(open(FAR)),
        )
        .tunnels(too_many(open(FAR))),
        row(
            "virtual: too many extension headers",
            too_many(open(FAR_VIP)),
        )
        .drops(DropReason::Protocol),
        row(
            "from the link-local address",
            open(FAR).with_source_v6(LINK_LOCAL),
        )
        .drops(DropReason::Spoofed),
        row("to this node", overlay_tc::begin(NODE)).drops(DropReason::NoEndpoint),
        row("to a task of another network", overlay_tc::begin(FAR_GATE))
            .drops(DropReason::NoEndpoint),
        row(
            "to a link-local address",
            open(FAR).with_destination_v6(LINK_LOCAL),
        )
        .drops(DropReason::NoEndpoint),
        row(
            "with another's address behind extension headers",
            sent(syn((FAR, 1), (SIDE, 80)), SIDE).extension(IpNumber::IPV6_DESTINATION_OPTIONS, 1),
        )
        .drops(DropReason::Spoofed),
    ]);
    let bytes = |frame: Frame| frame.six().expect("IPv6").bytes();
    let (segment, datagram) = (bytes(open(FAR)), bytes(overlay_tc::datagram(FAR)));
    rows.extend(cut(&segment, &datagram, |row, packet| row.tunnels(packet)));
    finish(rows, OVER)
}

pub(crate) fn on_gateway() -> Vec<Row> {
    let here = (NEAR_GATE, TARGET);
    let caller = (NEAR_GATE, 5000);
    let web = (CLIENT, 443);
    let me = (task(NEAR_GATE), v6(NEAR_GATE));
    let local = (task(NEAR_GATE), LINK_LOCAL);
    let sent = |frame: Frame| frame.macs(gateway(), task(NEAR_GATE));
    let router = (gateway(), ROUTER);
    let mut rows = refused(me, ROUTER);
    rows.extend([
        row("who has the gateway", solicitation(me, ROUTER))
            .answers(advertisement(router, me, true, true)),
        row(
            "asked from the link-local address",
            solicitation(local, ROUTER),
        )
        .answers(advertisement(router, local, true, true)),
        row("who has another task", solicitation(me, v6(SIDE_GATE))).drops(DropReason::NoEndpoint),
        row(
            "from the link-local address",
            sent(tcp(caller, web)).with_source_v6(LINK_LOCAL),
        )
        .drops(DropReason::Spoofed),
        row(
            "out: too many extension headers",
            too_many(sent(udp(caller, web))),
        ),
    ]);
    let tunnel = sent(udp((NEAR_GATE, 50_000), (PEER, 4789)));
    for (name, frame) in extensions(&tunnel) {
        rows.push(row(format!("a tunnel to a node, {name}"), frame).drops(DropReason::Spoofed));
    }
    for (name, frame) in extensions(&sent(tcp(caller, web))) {
        rows.push(row(format!("out: {name}"), frame));
    }
    let flow = (
        key(SCOPE_TASK, wire::TCP, here, WHO),
        nat((NODE, 86), WHO, Way::Uplink(UP)),
    );
    let answers = extensions(&sent(tcp(here, WHO))).into_iter();
    for ((name, frame), (_, out)) in answers.zip(extensions(&sent(tcp((NODE, 86), WHO)))) {
        rows.push(
            row(format!("an answer, {name}"), frame)
                .knows(flow)
                .returns_by_route(out),
        );
    }
    let bytes = |frame: Frame| sent(frame).six().expect("IPv6").bytes();
    let (segment, datagram) = (bytes(tcp(caller, web)), bytes(udp(caller, web)));
    rows.extend(cut(&segment, &datagram, |row, _| row));
    finish(rows, GATE)
}

/// Calls of the node's own processes, which tasks see under the address that stands for the node on the ingress network.
pub(crate) fn on_loopback() -> Vec<Row> {
    const PORT: u16 = 33_000;
    const HOME: Ipv6Addr = Ipv6Addr::LOCALHOST;
    let seen = crate::common::six(INGRESS_V6, NODE);
    let ends = |frame: Frame, at: Ipv6Addr| {
        frame
            .with_source_v6(at)
            .with_destination_v6(at)
            .macs([0; 6], [0; 6])
    };
    let call = |at, port| ends(syn((NODE, PORT), (NODE, port)), at);
    let datagram = |at, port| ends(udp((NODE, PORT), (NODE, port)), at);
    let addr = |address: Ipv6Addr| Addr::v6(address.octets());
    let back = |at, port| Nat {
        src: addr(at),
        dst: addr(at),
        ..nat((NODE, port), (NODE, PORT), Way::Loopback)
    };
    let here = |protocol, at| {
        let key = FlowKey {
            src: addr(v6(SIDE_GATE)),
            dst: addr(seen),
            ..key(SCOPE_TASK, protocol, SERVER, (NODE, PORT))
        };
        (key, back(at, 81))
    };
    let own = |scope, protocol, from: u16, to: u16| FlowKey {
        src: addr(seen),
        dst: addr(seen),
        ..key(scope, protocol, (NODE, from), (NODE, to))
    };
    let there = |protocol, at| (own(SCOPE_RETURN, protocol, 80, PORT), back(at, 80));
    let bound = |port| own(SCOPE_PUBLISHED, wire::UDP, PORT, port);
    let mut rows = Vec::new();
    for (who, at) in [("localhost", HOME), ("the node's own address", v6(NODE))] {
        rows.extend([
            row(format!("{who}, a task here"), call(at, 81))
                .delivers(near(syn((NODE, PORT), SERVER)).with_source_v6(seen))
                .remembers(here(wire::TCP, at))
                .counts("tcp/81", SIDE_GATE, true),
            row(format!("{who}, a task there"), call(at, 80))
                .forwards(
                    far(syn((NODE, PORT), (NODE, 80)))
                        .with_source_v6(seen)
                        .with_destination_v6(seen),
                )
                .remembers(there(wire::TCP, at))
                .counts("tcp/80", FAR_GATE, true),
            row(
                format!("a datagram to {who}, a task here"),
                datagram(at, 81),
            )
            .delivers(near(udp((NODE, PORT), SERVER)).with_source_v6(seen))
            .remembers(here(wire::UDP, at))
            .binds(bound(81), SIDE_GATE)
            .counts("udp/81", SIDE_GATE, true),
            row(
                format!("a datagram to {who}, a task there"),
                datagram(at, 80),
            )
            .forwards(
                far(udp((NODE, PORT), (NODE, 80)))
                    .with_source_v6(seen)
                    .with_destination_v6(seen),
            )
            .remembers(there(wire::UDP, at))
            .binds(bound(80), FAR_GATE)
            .counts("udp/80", FAR_GATE, true),
            row(format!("{who}, no task"), call(at, 82)),
            row(
                format!("{who}, a port that is not published"),
                call(at, 443),
            ),
            row(
                format!("{who}, a later fragment"),
                datagram(at, 81).fragment(9, true),
            ),
            row(
                format!("{who}, too many extension headers"),
                too_many(call(at, 81)),
            ),
        ]);
    }
    for (what, at) in [
        ("another host's address", v6(NOBODY)),
        ("a task's address", v6(SIDE_GATE)),
        ("a link-local address", LINK_LOCAL),
    ] {
        rows.push(row(what, call(at, 81)));
    }
    for (what, offset, of) in [
        ("TCP", IP, None),
        (
            "TCP behind extension headers",
            DEEP,
            Some(deep as fn(&Frame) -> Frame),
        ),
    ] {
        let of = |frame: Frame| of.map_or_else(|| frame.clone(), |of| of(&frame));
        let inside = near(of(syn((NODE, PORT), SERVER))).with_source_v6(seen);
        let whole = row(what, of(call(HOME, 81)))
            .delivers(inside)
            .remembers(here(wire::TCP, HOME))
            .counts("tcp/81", SIDE_GATE, true);
        rows.extend(cut_v6::cut(IP, cut_v6::at(offset, TCP), passes, &whole));
    }
    let whole = row("UDP", datagram(HOME, 81))
        .delivers(near(udp((NODE, PORT), SERVER)).with_source_v6(seen))
        .remembers(here(wire::UDP, HOME))
        .binds(bound(81), SIDE_GATE)
        .counts("udp/81", SIDE_GATE, true);
    rows.extend(cut_v6::cut(IP, cut_v6::at(IP, UDP), passes, &whole));
    finish(rows, LO)
}

/// These rows on an interface: in IPv6, where they are not given as bytes.
fn finish(rows: Vec<Row>, interface: u32) -> Vec<Row> {
    let rows = rows.into_iter().map(|row| match row.packet {
        Packet::Frame(_) => row.six().expect("IPv6"),
        Packet::Bytes(_) => row,
    });
    rows.map(|row| row.by_default(interface)).collect()
}
