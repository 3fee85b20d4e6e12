//! The tc program of the uplink, on tunnel packets: to tasks here, and replies to clients here.

use etherparse::{ArpOperation, IcmpEchoHeader, Icmpv4Type, IpNumber};
use mesh_common::{DropReason, Nat, Place, SCOPE_PORT, SCOPE_RETURN, SCOPE_TASK, flow_hash, wire};

use crate::{
    common::INGRESS,
    fragments::noted,
    frames::*,
    row::{Row, check_all, row},
    traffic::*,
    world::*,
};

/// From the other node, which was asked, for the task here.
fn asked(frame: Frame) -> Frame {
    vxlan(PEER, NODE, INGRESS, frame.macs(task(SIDE_GATE), node(PEER)))
}

/// From the other node's task, for a task here.
fn overlay(frame: Frame) -> Frame {
    vxlan(PEER, NODE, VNI, frame.macs(task(NEAR), task(FAR)))
}

/// The client's port and all that are tried in its place are taken, but the flow with the client's own is over.
fn every_port_taken(begin: Frame, hash: u32) -> Row {
    let taken = (0..8).map(|attempt| {
        let port =
            1024 + u16::try_from(hash.wrapping_add(attempt * 7919) % 64_512).expect("a port");
        let (_, nat) = outside(wire::TCP, 81);
        (key(SCOPE_TASK, wire::TCP, SERVER, (CLIENT, port)), nat)
    });
    taken.fold(
        row(
            "every port is taken, one by a flow that is over",
            asked(begin),
        )
        .delivers(near(syn(WHO, SERVER)))
        .knows(closed(outside(wire::TCP, 81)))
        .remembers(through(wire::TCP))
        .only_v4(),
        Row::knows,
    )
}

/// A client whose port was taken by itself, through this node, when it asked the other: what of that is gone since changes
/// nothing for the task.
fn once_substituted() -> Vec<Row> {
    let substitute = (CLIENT, 1999_u16);
    let noted = |protocol| {
        let note = Nat {
            sport_be: substitute.1.to_be(),
            ..through(protocol).1
        };
        (key(SCOPE_PORT, protocol, WHO, (PEER, 81)), note)
    };
    let instead = |protocol| {
        (
            key(SCOPE_TASK, protocol, SERVER, substitute),
            through(protocol).1,
        )
    };
    let stranger = (
        key(SCOPE_TASK, wire::TCP, SERVER, substitute),
        outside(wire::TCP, 81).1,
    );
    let open = || asked(tcp(WHO, (PEER, 81)));
    let first = || asked(syn(WHO, (PEER, 81)));
    let datagram = || asked(udp(WHO, (PEER, 81)));
    vec![
        row("a substitute, when the other flow's entry is gone", open())
            .delivers(near(tcp(substitute, SERVER)))
            .knows(instead(wire::TCP))
            .knows(noted(wire::TCP)),
        row("a substitute, when both entries are gone", open())
            .delivers(near(tcp(substitute, SERVER)))
            .knows(noted(wire::TCP))
            .remembers(instead(wire::TCP)),
        row(
            "a first segment again, when the other flow's entry is gone",
            first(),
        )
        .delivers(near(syn(substitute, SERVER)))
        .knows(instead(wire::TCP))
        .knows(noted(wire::TCP)),
        row(
            "datagrams with a substitute, when the other flow has been silent",
            datagram(),
        )
        .delivers(near(udp(substitute, SERVER)))
        .knows(silent(122, outside(wire::UDP, 81)))
        .knows(instead(wire::UDP))
        .knows(noted(wire::UDP)),
        row(
            "datagrams with a substitute, when the other flow's entry is gone",
            datagram(),
        )
        .delivers(near(udp(substitute, SERVER)))
        .knows(noted(wire::UDP))
        .remembers(instead(wire::UDP)),
        row(
            "a substitute that is another flow's by now, when the client's own port is free",
            first(),
        )
        .delivers(near(syn(WHO, SERVER)))
        .knows(stranger)
        .knows(noted(wire::TCP))
        .forgets(noted(wire::TCP).0)
        .remembers(through(wire::TCP)),
    ]
}

/// Clients that asked the other node.
fn from_the_peer() -> Vec<Row> {
    let begin = || syn(WHO, (PEER, 81));
    let open = || tcp(WHO, (PEER, 81));
    let datagram = || udp(WHO, (PEER, 81));
    let drops = |name: &str, frame: Frame, reason| row(name, frame).drops(reason);
    let to = |mac| vxlan(PEER, NODE, INGRESS, begin().macs(mac, node(PEER)));
    // The same client asks this node as well, from the same port: the task is to tell them apart.
    let hash = flow_hash(
        u32::from_ne_bytes(CLIENT.octets()),
        u32::from_ne_bytes(PEER.octets()),
        WHO.1.to_be(),
        81_u16.to_be(),
        wire::TCP,
    );
    let port = 1024 + u16::try_from(hash % 64_512).expect("a port");
    let substitute = (CLIENT, port);
    let instead = (
        key(SCOPE_TASK, wire::TCP, SERVER, substitute),
        through(wire::TCP).1,
    );
    let noted = Nat {
        sport_be: port.to_be(),
        ..instead.1
    };
    let note = (key(SCOPE_PORT, wire::TCP, WHO, (PEER, 81)), noted);
    vec![
        row("asked there: the first segment", asked(begin()))
            .delivers(near(syn(WHO, SERVER)))
            .remembers(through(wire::TCP)),
        row("asked there: in the middle", asked(open()))
            .delivers(near(tcp(WHO, SERVER)))
            .knows(through(wire::TCP)),
        row(
            "asked there: a datagram from port zero",
            asked(udp((CLIENT, 0), (PEER, 81))),
        )
        .delivers(near(udp((CLIENT, 0), SERVER)))
        .remembers((
            key(SCOPE_TASK, wire::UDP, SERVER, (CLIENT, 0)),
            nat((PEER, 81), (CLIENT, 0), Way::Node(PEER)),
        )),
        row("asked there: a datagram", asked(datagram()))
            .delivers(near(udp(WHO, SERVER)))
            .remembers(through(wire::UDP)),
        row(
            "asked there: a datagram without a checksum",
            asked(datagram().unsummed()),
        )
        .delivers(near(udp(WHO, SERVER).unsummed()))
        .remembers(through(wire::UDP)),
        row(
            "the client's port is taken by itself, through this node",
            asked(begin()),
        )
        .delivers(near(syn(substitute, SERVER)))
        .knows(outside(wire::TCP, 81))
        .remembers(instead)
        .remembers(note)
        .only_v4(),
        row("more with the substitute", asked(open()))
            .delivers(near(tcp(substitute, SERVER)))
            .knows(outside(wire::TCP, 81))
            .knows(instead)
            .knows(note),
        row(
            "the port is taken by a flow that is over, but the task may be in TIME-WAIT",
            asked(begin()),
        )
        .delivers(near(syn(substitute, SERVER)))
        .knows(closed(silent(59, outside(wire::TCP, 81))))
        .remembers(instead)
        .remembers(note)
        .only_v4(),
        row(
            "the port is taken by a flow that was over a minute ago",
            asked(begin()),
        )
        .delivers(near(syn(WHO, SERVER)))
        .knows(closed(silent(62, outside(wire::TCP, 81))))
        .remembers(through(wire::TCP)),
        every_port_taken(begin(), hash),
        row(
            "the port is taken, but that flow has been silent for a day",
            asked(begin()),
        )
        .delivers(near(syn(WHO, SERVER)))
        .knows(silent(86_402, outside(wire::TCP, 81)))
        .remembers(through(wire::TCP)),
        row(
            "the port is taken, and that flow was silent for an hour only",
            asked(begin()),
        )
        .delivers(near(syn(substitute, SERVER)))
        .knows(silent(3600, outside(wire::TCP, 81)))
        .remembers(instead)
        .remembers(note)
        .only_v4(),
        row(
            "the port is taken, but that flow of datagrams has been silent",
            asked(datagram()),
        )
        .delivers(near(udp(WHO, SERVER)))
        .knows(silent(122, outside(wire::UDP, 81)))
        .remembers(through(wire::UDP)),
        drops(
            "a port taken, in the middle of a flow nobody knows",
            asked(open()),
            DropReason::PortsTaken,
        )
        .knows(outside(wire::TCP, 81)),
        drops(
            "asked there, for a port not published",
            asked(syn(WHO, (PEER, 443))),
            DropReason::NotPublished,
        ),
        drops(
            "asked there, with IP options",
            asked(begin().options(1)),
            DropReason::NotPublished,
        ),
        drops(
            "asked there, for a task of theirs",
            to(task(FAR_GATE)),
            DropReason::NoEndpoint,
        ),
        drops(
            "asked there, for no task",
            to(task(NOBODY)),
            DropReason::NoEndpoint,
        ),
        drops(
            "asked there, for a MAC of no known kind",
            to([2, 0x44, 10, 0, 0, 4]),
            DropReason::NoEndpoint,
        ),
        row("for the node, which asked nothing", to(node(NODE))),
    ]
}

/// Replies to clients on this node.
fn replies() -> Vec<Row> {
    let reply = |to| {
        vxlan(
            PEER,
            NODE,
            INGRESS,
            tcp((NODE, 80), to).macs(node(NODE), node(PEER)),
        )
    };
    let caller = (NEAR_GATE, 5000);
    let process = (NODE, 33_000);
    let loopback = (std::net::Ipv4Addr::LOCALHOST, 33_000);
    let returning = |to| key(SCOPE_RETURN, wire::TCP, (NODE, 80), to);
    vec![
        row("a reply to a task's call", reply(caller))
            .knows((
                returning(caller),
                nat((NODE, 80), caller, Way::Link(GATE, task(NEAR_GATE))),
            ))
            .returns(tcp((NODE, 80), caller).macs(task(NEAR_GATE), gateway())),
        row("a reply to a process of this node", reply(process))
            .knows((
                returning(process),
                nat((loopback.0, 80), loopback, Way::Loopback),
            ))
            .returns(tcp((loopback.0, 80), loopback).macs([0; 6], [0; 6])),
        row("a reply to a client outside", reply(WHO)).returns_by_route(tcp((NODE, 80), WHO)),
    ]
}

/// Between tasks.
fn overlays() -> Vec<Row> {
    let (from, to) = ((FAR, 5000), (NEAR, 80));
    let inside = |frame: Frame| frame.macs(task(NEAR), task(FAR));
    let delivers =
        |name: &str, frame: Frame| row(name, overlay(frame.clone())).delivers(inside(frame));
    let drops = |name: &str, frame: Frame, reason| row(name, frame).drops(reason);
    let virtual_ = (
        key(VNI, wire::TCP, (FAR, 80), (NEAR, 5001)),
        nat((FAR_VIP, 80), (NEAR, 5001), Way::Link(OVER, task(NEAR))),
    );
    let echo = Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 5, seq: 6 });
    let mut flags = overlay(tcp(from, to)).bytes();
    flags[42] = 0;
    let mut version = overlay(tcp(from, to)).bytes();
    version[64] = 0x44;
    let request = arp(ArpOperation::REQUEST, (task(FAR), FAR), ([0; 6], NEAR));
    let nobody = DropReason::NoEndpoint;
    vec![
        delivers("overlay: TCP", tcp(from, to)),
        delivers("overlay: a first segment", syn(from, to)),
        delivers("overlay: a datagram", udp(from, to)),
        delivers(
            "overlay: a datagram without a checksum",
            udp(from, to).unsummed(),
        ),
        delivers("overlay: ping", icmp(FAR, NEAR, echo)),
        delivers(
            "overlay: a protocol without ports",
            other(FAR, NEAR, IpNumber::GRE),
        ),
        delivers(
            "overlay: the first fragment",
            udp(from, to).fragment(0, true),
        )
        .notes(noted(VNI, from, to)),
        delivers(
            "overlay: the last fragment",
            udp(from, to).fragment(40, false),
        ),
        delivers("overlay: IP options", tcp(from, to).options(3)),
        row(
            "overlay: a reply from behind a virtual address",
            overlay(tcp((FAR, 80), (NEAR, 5001))),
        )
        .knows(virtual_)
        .delivers(inside(tcp((FAR_VIP, 80), (NEAR, 5001)))),
        row(
            "overlay: the same ports, of another protocol",
            overlay(udp((FAR, 80), (NEAR, 5001))),
        )
        .knows(virtual_)
        .delivers(inside(udp((FAR, 80), (NEAR, 5001)))),
        drops(
            "overlay: nobody there",
            overlay(tcp(from, (NOBODY, 80))),
            nobody,
        ),
        drops(
            "overlay: a task of theirs",
            overlay(tcp(from, (FAR, 80))),
            nobody,
        ),
        drops(
            "overlay: broadcast",
            overlay(udp(from, ([255; 4].into(), 80))),
            nobody,
        ),
        drops(
            "overlay: multicast",
            overlay(udp(from, ([224, 0, 0, 1].into(), 80))),
            nobody,
        ),
        drops(
            "overlay: another network",
            vxlan(PEER, NODE, VNI + 1, inside(tcp(from, to))),
            nobody,
        ),
        drops(
            "overlay: a virtual address",
            overlay(tcp(from, (FAR_VIP, 80))),
            nobody,
        ),
        drops(
            "a stranger's tunnel",
            vxlan(NOBODY, NODE, VNI, inside(tcp(from, to))),
            DropReason::UnknownPeer,
        ),
        drops(
            "a stranger's ingress tunnel",
            vxlan(CLIENT, NODE, INGRESS, begin(81)),
            DropReason::UnknownPeer,
        ),
        drops(
            "this node's own tunnel, from outside",
            vxlan(NODE, NODE, VNI, inside(tcp(from, to))),
            DropReason::UnknownPeer,
        ),
        row("a tunnel without a network", flags).drops(DropReason::Malformed),
        drops(
            "an empty tunnel",
            vxlan(PEER, NODE, VNI, b"".to_vec()),
            DropReason::Malformed,
        ),
        row(
            "overlay: ARP, which is the tunnel device's to refuse",
            vxlan(PEER, NODE, VNI, request),
        ),
        row("overlay: a header shorter than a header", version),
        row(
            "a tunnel packet with IP options",
            overlay(tcp(from, to)).options(1),
        ),
    ]
}

/// Headers that end at every byte. The kernel tries no tc program on less than an IP header.
fn cut() -> Vec<Row> {
    let tunnel = overlay(tcp((FAR, 5000), (NEAR, 80))).bytes();
    let mut rows = Vec::new();
    for length in 34..114 {
        let row = row(format!("a tunnel, {length} bytes of it"), &tunnel[..length]);
        rows.push(match length {
            ..38 => row,
            38..62 => row.drops(DropReason::Malformed),
            62..98 => row,
            _ => row.delivers(tunnel[50..length].to_vec()),
        });
    }
    rows
}

pub(crate) fn rows() -> Vec<Row> {
    let parts = [
        from_the_peer(),
        once_substituted(),
        replies(),
        overlays(),
        cut(),
    ];
    parts.into_iter().flatten().collect()
}

#[test]
fn uplink_tc_tunnels() {
    check_all(Place::UplinkTc, &rows());
}
