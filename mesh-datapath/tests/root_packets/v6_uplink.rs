//! What only IPv6 has, on the uplink.

use std::net::Ipv6Addr;

use etherparse::IpNumber;
use mesh_common::wire;

use crate::{
    common::{INGRESS, INGRESS_V6},
    frames::*,
    neighbours,
    row::{Row, row},
    six::{self, six},
    traffic::*,
    uplink_tc::sums_to_zero,
    v6::{extensions, too_many},
    world::*,
};

/// Addresses from which nobody outside can send.
const MARTIANS: [(&str, Ipv6Addr); 5] = [
    ("from no address", Ipv6Addr::UNSPECIFIED),
    ("from localhost", Ipv6Addr::LOCALHOST),
    ("from a group", Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
    (
        "from the link only",
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9),
    ),
    (
        "from IPv4 in IPv6's words",
        Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0xc000, 0x264),
    ),
];

/// Nobody's here, whichever program looks; `port` is published.
fn foreign(port: u16) -> Vec<Row> {
    let v6 = |address| six::address(address).expect("IPv6");
    let mut version = begin(port).six().expect("IPv6").bytes();
    version[14] = 0x45;
    let question = neighbours::solicitation((CLIENT_MAC, v6(CLIENT)), v6(NODE));
    let mut rows = six(vec![
        row("to a group", begin(port).with_destination_v6(MARTIANS[2].1)),
        row(
            "to the node's link-local address",
            begin(port).with_destination_v6(MARTIANS[3].1),
        ),
        row(
            "to localhost",
            begin(port).with_destination_v6(Ipv6Addr::LOCALHOST),
        ),
        row(
            "to IPv4 in IPv6's words",
            begin(port).with_destination_v6(MARTIANS[4].1),
        ),
        row(
            "to a task, past the published port",
            begin(port).with_destination_v6(v6(SIDE_GATE)),
        ),
        row(
            "published, with too many extension headers",
            too_many(begin(port)),
        ),
        row(
            "no next header",
            other(CLIENT, NODE, IpNumber::IPV6_NO_NEXT_HEADER),
        ),
    ]);
    rows.push(row("who has the node, for the stack", question));
    rows.push(row("IPv4's version under IPv6's EtherType", version));
    let martians = MARTIANS.map(|(name, source)| row(name, begin(port).with_source_v6(source)));
    rows.extend(six(martians.into()));
    for (name, frame) in extensions(&begin(443)) {
        rows.push(row(format!("not published, {name}"), frame));
    }
    rows
}

/// The XDP program.
pub(crate) fn xdp() -> Vec<Row> {
    let mut rows = foreign(80);
    let large = |length| open(80).payload(&vec![1; length]);
    let reply = |frame: Frame| frame.macs(node(NODE), node(PEER));
    let returned = |frame: Frame| frame.macs(CLIENT_MAC, NODE_MAC);
    rows.extend(six(vec![
        row("as large as the tunnel takes", large(1390))
            .forwards(far(large(1390)))
            .counts("tcp/80", FAR_GATE, false),
        row("one byte more", large(1391)).hands_over(),
        row(
            "a reply for another node's address",
            vxlan(
                PEER,
                NODE,
                INGRESS,
                reply(tcp((NODE, 80), WHO)).with_source_v6(INGRESS_V6),
            ),
        )
        .hands_over(),
    ]));
    // Nobody looks behind extension headers.
    for (name, frame) in extensions(&begin(80)) {
        rows.push(row(format!("published, {name}"), frame));
    }
    for (name, frame) in extensions(&reply(tcp((NODE, 80), WHO))) {
        let packet = vxlan(PEER, NODE, INGRESS, frame);
        rows.push(row(format!("a reply, {name}"), packet).hands_over());
    }
    let bytes = |frame: Frame| frame.six().expect("IPv6").bytes();
    let (segment, datagram) = (bytes(begin(80)), bytes(datagram(80)));
    let inner = |frame: &[u8]| [&bytes(far(begin(80)))[..14], &frame[14..]].concat();
    for length in 14..74 {
        let row = row(format!("TCP, {length} bytes of it"), &segment[..length]);
        rows.push(match length {
            ..68 => row,
            68..72 => row.hands_over(),
            _ => row
                .forwards(inner(&segment[..length]))
                .counts("tcp/80", FAR_GATE, true),
        });
    }
    for length in 14..62 {
        let row = row(format!("UDP, {length} bytes of it"), &datagram[..length]);
        rows.push(match length {
            ..58 => row,
            _ => row.hands_over(),
        });
    }
    let [.., (_, deep)] = extensions(&begin(80));
    let deep = deep.bytes();
    for length in 54..108 {
        rows.push(row(
            format!("extensions, {length} bytes of it"),
            &deep[..length],
        ));
    }
    let tunnel = bytes(vxlan(PEER, NODE, INGRESS, reply(tcp((NODE, 80), WHO))));
    let out = bytes(returned(tcp((NODE, 80), WHO)));
    for length in 64..124 {
        let row = row(format!("a tunnel, {length} bytes of it"), &tunnel[..length]);
        rows.push(match length {
            ..122 => row.hands_over(),
            _ => row.returns(&out[..length - 50]),
        });
    }
    rows
}

/// The tc program.
pub(crate) fn tc() -> Vec<Row> {
    let mut rows = foreign(81);
    let inside = || udp(WHO, SERVER);
    let zero = sums_to_zero(|payload| inside().payload(payload).six().expect("IPv6").bytes());
    let overlay = |frame: Frame| vxlan(PEER, NODE, VNI, frame.macs(task(NEAR), task(FAR)));
    let (from, to) = ((FAR, 5000), (NEAR, 80));
    rows.extend(six(vec![
        row(
            "a datagram whose sum becomes zero",
            datagram(81).payload(&zero),
        )
        .delivers(near(inside().payload(&zero)))
        .remembers(outside(wire::UDP, 81))
        .binds(published(wire::UDP, 81), SIDE_GATE)
        .counts("udp/81", SIDE_GATE, true),
        row(
            "overlay: too many extension headers",
            overlay(too_many(tcp(from, to))),
        )
        .delivers(too_many(tcp(from, to)).macs(task(NEAR), task(FAR))),
    ]));
    let clients = extensions(&begin(81)).into_iter();
    for ((name, frame), (_, inside)) in clients.zip(extensions(&near(syn(WHO, SERVER)))) {
        let row = row(format!("published, {name}"), frame).delivers(inside);
        let row = row
            .remembers(outside(wire::TCP, 81))
            .counts("tcp/81", SIDE_GATE, true);
        rows.extend(row.six());
    }
    for (name, frame) in extensions(&datagram(80)) {
        let row = row(format!("published there, {name}"), frame.clone())
            .forwards(far(frame))
            .binds(published(wire::UDP, 80), FAR_GATE)
            .counts("udp/80", FAR_GATE, true);
        rows.extend(row.six());
    }
    for (name, frame) in extensions(&tcp(from, to)) {
        let row = row(format!("overlay: {name}"), overlay(frame.clone()))
            .delivers(frame.macs(task(NEAR), task(FAR)));
        rows.extend(row.six());
    }
    let segment = begin(81).six().expect("IPv6").bytes();
    for length in 54..68 {
        rows.push(row(
            format!("TCP, {length} bytes of it"),
            &segment[..length],
        ));
    }
    let tunnel = overlay(tcp(from, to)).six().expect("IPv6").bytes();
    for length in 64..124 {
        let row = row(format!("a tunnel, {length} bytes of it"), &tunnel[..length]);
        rows.push(match length {
            ..118 => row,
            _ => row.delivers(&tunnel[50..length]),
        });
    }
    rows
}
