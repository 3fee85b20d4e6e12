//! The tc program of the uplink, on packets that are in no tunnel: published ports.

use etherparse::{ArpOperation, IcmpEchoHeader, Icmpv4Type, IpNumber};
use mesh_common::{Place, wire};

use crate::{
    frames::*,
    row::{Row, check_all, row},
    traffic::*,
    world::*,
};

fn not_ours() -> Vec<Row> {
    let echo = Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 5, seq: 6 });
    let request = arp(ArpOperation::REQUEST, (CLIENT_MAC, CLIENT), ([0; 6], NODE));
    vec![
        row("ARP", request),
        row("a VLAN's frame", begin(81).tag(5)),
        row("IP options", begin(81).options(1)),
        row("all the IP options there can be", begin(81).options(10)),
        row("ping of the node", icmp(CLIENT, NODE, echo)),
        row(
            "a protocol without ports",
            other(CLIENT, NODE, IpNumber::GRE),
        ),
        row("a port that is not published", begin(443)),
        row("a port published for TCP only", datagram(1081)),
        row("a port published for UDP only", begin(2081)),
        row("published, of another host", syn(WHO, (NOBODY, 81))),
        row(
            "published, to the subnet",
            udp(WHO, ([192, 0, 2, 255].into(), 81)),
        ),
        row(
            "published, multicast",
            udp(WHO, ([224, 0, 0, 1].into(), 81)),
        ),
        row(
            "from a loopback address",
            syn(([127, 0, 0, 1].into(), 9), (NODE, 81)),
        ),
        row(
            "from a multicast address",
            syn(([224, 0, 0, 1].into(), 9), (NODE, 81)),
        ),
        row("no backend", begin(82)),
        row("drained: no new connection", begin(84)),
        row(
            "another port than the tunnels'",
            udp((PEER, 50_000), (NODE, 4790)),
        ),
        row(
            "a tunnel to another host",
            vxlan(PEER, NOBODY, VNI, begin(80)),
        ),
    ]
}

fn clients() -> Vec<Row> {
    let delivers = |name: &str, frame: Frame, inside: Frame, begins| {
        row(name, frame)
            .delivers(near(inside))
            .remembers(outside(wire::TCP, 81))
            .counts("tcp/81", SIDE_GATE, begins)
    };
    let datagrams = |name: &str, frame: Frame, inside: Frame| {
        row(name, frame)
            .delivers(near(inside))
            .remembers(outside(wire::UDP, 81))
            .binds(published(wire::UDP, 81), SIDE_GATE)
            .counts("udp/81", SIDE_GATE, true)
    };
    let sends = |name: &str, frame: Frame, begins| {
        row(name, frame.clone())
            .forwards(far(frame))
            .counts("tcp/80", FAR_GATE, begins)
    };
    let inside = || udp(WHO, SERVER);
    let zero = sums_to_zero(|payload| inside().payload(payload).bytes());
    vec![
        delivers("the first segment", begin(81), syn(WHO, SERVER), true),
        delivers("a segment in the middle", open(81), tcp(WHO, SERVER), false),
        delivers(
            "a segment without payload",
            open(81).payload(b""),
            tcp(WHO, SERVER).payload(b""),
            false,
        ),
        delivers(
            "a full segment",
            open(81).payload(&[7; 1460]),
            tcp(WHO, SERVER).payload(&[7; 1460]),
            false,
        ),
        row(
            "the last segment of a flow",
            open(81).flags(|tcp| tcp.fin = true),
        )
        .delivers(near(tcp(WHO, SERVER).flags(|tcp| tcp.fin = true)))
        .knows(outside(wire::TCP, 81))
        .remembers(closed(outside(wire::TCP, 81)))
        .counts("tcp/81", SIDE_GATE, false),
        row("what follows the last segment", open(81))
            .delivers(near(tcp(WHO, SERVER)))
            .knows(closed(outside(wire::TCP, 81)))
            .counts("tcp/81", SIDE_GATE, false),
        row("one in the middle, after ten hours of silence", open(81))
            .delivers(near(tcp(WHO, SERVER)))
            .knows(silent(36_000, outside(wire::TCP, 81)))
            .counts("tcp/81", SIDE_GATE, false),
        row("one in the middle, after a week of silence", open(81))
            .delivers(near(tcp(WHO, SERVER)))
            .knows(silent(604_800, outside(wire::TCP, 81)))
            .counts("tcp/81", SIDE_GATE, false),
        row("the ports again, for a new connection", begin(81))
            .delivers(near(syn(WHO, SERVER)))
            .knows(closed(outside(wire::TCP, 81)))
            .remembers(outside(wire::TCP, 81))
            .counts("tcp/81", SIDE_GATE, true),
        datagrams("a datagram", datagram(81), inside()),
        datagrams(
            "a datagram without a checksum keeps none",
            datagram(81).unsummed(),
            inside().unsummed(),
        ),
        datagrams(
            "an empty datagram",
            datagram(81).payload(b""),
            inside().payload(b""),
        ),
        datagrams(
            "a datagram whose sum becomes zero",
            datagram(81).payload(&zero),
            inside().payload(&zero),
        )
        .only_v4(),
        row("a port for UDP only", datagram(2081))
            .delivers(near(inside()))
            .remembers(outside(wire::UDP, 2081))
            .binds(published(wire::UDP, 2081), SIDE_GATE)
            .counts("udp/2081", SIDE_GATE, true),
        sends("the first segment to the other node", begin(80), true),
        sends("one in the middle to the other node", open(80), false),
        sends(
            "one with a partial checksum, which stays so",
            begin(80).partial(),
            true,
        ),
        row("a datagram to the other node", datagram(80))
            .forwards(far(datagram(80)))
            .binds(published(wire::UDP, 80), FAR_GATE)
            .counts("udp/80", FAR_GATE, true),
        row("a datagram of a known flow to the other node", datagram(80))
            .bound(published(wire::UDP, 80), FAR_GATE)
            .forwards(far(datagram(80)))
            .counts("udp/80", FAR_GATE, false),
        row("a datagram that XDP has left to this program", datagram(81))
            .bound(published(wire::UDP, 81), SIDE_GATE)
            .delivers(near(udp(WHO, SERVER)))
            .remembers(outside(wire::UDP, 81))
            .counts("udp/81", SIDE_GATE, false),
        row("moved: an open one stays with the draining task", open(83))
            .delivers(near(tcp(WHO, SERVER)))
            .remembers(outside(wire::TCP, 83))
            .binds(published(wire::TCP, 83), SIDE_GATE)
            .counts("tcp/83", SIDE_GATE, false),
        row("moved: a new one goes where tasks are now", begin(83))
            .forwards(far(begin(83)))
            .binds(published(wire::TCP, 83), FAR_GATE)
            .counts("tcp/83", FAR_GATE, true),
    ]
}

/// A payload with which a task's datagram has a sum of zero, sent as all ones (RFC 768): the sum without it.
pub(crate) fn sums_to_zero(to_task: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let sum = |datagram: Vec<u8>| {
        let at = datagram.len() - 4;
        datagram[at..at + 2].to_vec()
    };
    let payload = sum(to_task(&[0, 0]));
    assert_eq!(sum(to_task(&payload)), [0xff, 0xff], "RFC 768's other zero");
    payload
}

/// Headers that end at every byte. The kernel tries no tc program on less than an IP header.
fn cut() -> Vec<Row> {
    let (syn_, datagram) = (begin(81).bytes(), datagram(81).bytes());
    let mut rows = Vec::new();
    for length in 34..48 {
        rows.push(row(format!("TCP, {length} bytes of it"), &syn_[..length]));
    }
    for length in 34..38 {
        rows.push(row(
            format!("UDP, {length} bytes of it"),
            &datagram[..length],
        ));
    }
    let (tagged, options) = (begin(81).tag(5).bytes(), begin(81).options(2).bytes());
    for length in 34..58 {
        let name = |what| format!("TCP {what}, {length} bytes of it");
        rows.push(row(name("on a VLAN"), &tagged[..length]));
        rows.push(row(name("with IP options"), &options[..length]));
    }
    rows
}

pub(crate) fn rows() -> Vec<Row> {
    let parts = [not_ours(), clients(), cut()];
    parts.into_iter().flatten().collect()
}

#[test]
fn uplink_tc() {
    check_all(Place::UplinkTc, &rows());
}
