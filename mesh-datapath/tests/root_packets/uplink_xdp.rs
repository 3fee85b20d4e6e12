//! The XDP program of the uplink: what it forwards and returns by itself, and what it leaves to the others.

use etherparse::{ArpOperation, IcmpEchoHeader, Icmpv4Type, IpNumber};
use mesh_common::{Place, wire};

use crate::{
    common::INGRESS,
    frames::*,
    row::{Row, check_all, row},
    traffic::*,
    world::*,
};

/// A reply of the other node's task.
fn reply() -> Frame {
    back(tcp((NODE, 80), WHO))
}

fn back(frame: Frame) -> Frame {
    frame.macs(node(NODE), node(PEER))
}

fn from_peer(inner: impl Into<Packet>) -> Frame {
    vxlan(PEER, NODE, INGRESS, inner)
}

/// As it leaves for the client.
fn out(frame: Frame) -> Frame {
    frame.macs(CLIENT_MAC, NODE_MAC)
}

fn not_ours() -> Vec<Row> {
    let echo = Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 5, seq: 6 });
    let request = arp(ArpOperation::REQUEST, (CLIENT_MAC, CLIENT), ([0; 6], NODE));
    let mut lldp = begin(80).bytes();
    lldp[12..14].copy_from_slice(&[0x88, 0xcc]);
    let first_byte = |byte| {
        let mut frame = begin(80).bytes();
        frame[14] = byte;
        frame
    };
    let with_source = |a, b, c, d| syn(([a, b, c, d].into(), 40_000), (NODE, 80));
    vec![
        row("ARP", request),
        row("an EtherType of others", lldp),
        row("a VLAN's frame", begin(80).tag(5)),
        row("a frame with a priority tag", begin(80).tag(0)),
        row("a frame with two tags", begin(80).tag(5).tag(6)),
        row("a header shorter than a header", first_byte(0x44)),
        row("another version under IPv4's EtherType", first_byte(0x65)),
        row("IP options", begin(80).options(1)),
        row("all the IP options there can be", begin(80).options(10)),
        row("the first fragment", datagram(80).fragment(0, true)),
        row("a fragment in the middle", datagram(80).fragment(20, true)),
        row("the last fragment", datagram(80).fragment(40, false)),
        row("ping of the node", icmp(CLIENT, NODE, echo)),
        row(
            "a protocol without ports",
            other(CLIENT, NODE, IpNumber::GRE),
        ),
        row("a port that is not published", begin(443)),
        row("a port published for TCP only", datagram(1080)),
        row("a port published for UDP only", begin(2080)),
        row("port 0", begin(0)),
        row("the highest port", begin(65_535)),
        row("published, of another host", syn(WHO, (NOBODY, 80))),
        row("published, of another node", syn(WHO, (PEER, 80))),
        row(
            "published, to the subnet",
            udp(WHO, ([192, 0, 2, 255].into(), 80)),
        ),
        row("published, to everybody", udp(WHO, ([255; 4].into(), 80))),
        row(
            "published, multicast",
            udp(WHO, ([224, 0, 0, 1].into(), 80)),
        ),
        row("from a loopback address", with_source(127, 0, 0, 1)),
        row("from no address", with_source(0, 0, 0, 0)),
        row("from a multicast address", with_source(224, 0, 0, 1)),
        row(
            "from the broadcast address",
            with_source(255, 255, 255, 255),
        ),
        row("no backend", begin(82)),
        row("no backend, in the middle", open(82)),
        row("no backend, a datagram", datagram(82)),
        row("a backend here", begin(81)).hands_over(),
        row("a backend here, in the middle", open(81)).hands_over(),
        row("checksum for a device to complete", begin(80).partial()).hands_over(),
        row("the same of a datagram", datagram(80).partial()).hands_over(),
    ]
}

fn to_the_peer() -> Vec<Row> {
    let goes = |name: &str, frame: Frame, begins| {
        row(name, frame.clone())
            .forwards(far(frame))
            .counts("tcp/80", FAR_GATE, begins)
    };
    let datagrams = |name: &str, frame: Frame| {
        row(name, frame.clone())
            .forwards(far(frame))
            .binds(published(wire::UDP, 80), FAR_GATE)
            .counts("udp/80", FAR_GATE, true)
    };
    let changed = |change: fn(&mut etherparse::Ipv4Header)| begin(80).ip(change);
    let padded = [begin(80).payload(b"").bytes(), vec![0; 6]].concat();
    let mut inner = far(begin(80).payload(b"")).bytes();
    inner.extend([0; 6]);
    vec![
        goes("the first segment", begin(80), true),
        goes("a segment in the middle", open(80), false),
        goes(
            "the last segment",
            open(80).flags(|tcp| tcp.fin = true),
            false,
        ),
        goes("a reset", open(80).flags(|tcp| tcp.rst = true), false),
        goes(
            "SYN and ACK, which begins nothing",
            open(80).flags(|tcp| tcp.syn = true),
            false,
        ),
        goes(
            "no flag at all",
            open(80).flags(|tcp| tcp.ack = false),
            false,
        ),
        goes("a segment without payload", open(80).payload(b""), false),
        goes(
            "TCP without a checksum, for the task to refuse",
            open(80).unsummed(),
            false,
        ),
        goes(
            "with \"do not fragment\"",
            changed(|ip| ip.dont_fragment = true),
            true,
        ),
        goes(
            "without \"do not fragment\"",
            changed(|ip| ip.dont_fragment = false),
            true,
        ),
        goes(
            "at the end of its life",
            changed(|ip| ip.time_to_live = 1),
            true,
        ),
        goes(
            "with a class of service",
            changed(|ip| ip.dscp = etherparse::IpDscp::EF),
            true,
        ),
        goes(
            "congestion experienced",
            changed(|ip| ip.ecn = etherparse::IpEcn::THREE),
            true,
        ),
        goes("from port 0", syn((CLIENT, 0), (NODE, 80)), true),
        goes(
            "as large as the tunnel takes",
            open(80).payload(&[1; 1410]),
            false,
        )
        .only_v4(),
        row("larger than the tunnel takes", open(80).payload(&[1; 1411])).hands_over(),
        row("padded to Ethernet's shortest frame", padded)
            .forwards(inner)
            .counts("tcp/80", FAR_GATE, true),
        row("a port for TCP only", begin(1080))
            .forwards(far(begin(1080)))
            .counts("tcp/1080", FAR_GATE, true),
        datagrams("a datagram", datagram(80)),
        datagrams("an empty datagram", datagram(80).payload(b"")),
        datagrams("a datagram without a checksum", datagram(80).unsummed()),
        row("a datagram of a known flow", datagram(80))
            .bound(published(wire::UDP, 80), FAR_GATE)
            .forwards(far(datagram(80)))
            .counts("udp/80", FAR_GATE, false),
        row("a datagram of a flow whose task is gone", datagram(80))
            .knows_backend(published(wire::UDP, 80), [10, 0, 0, 77].into())
            .forwards(far(datagram(80)))
            .binds(published(wire::UDP, 80), FAR_GATE)
            .counts("udp/80", FAR_GATE, true),
        row("a datagram to a task here", datagram(81))
            .hands_over()
            .binds(published(wire::UDP, 81), SIDE_GATE)
            .counts_flow("udp/81", SIDE_GATE),
        row("a datagram of a known flow to a task here", datagram(81))
            .bound(published(wire::UDP, 81), SIDE_GATE)
            .hands_over(),
        row("a port for UDP only", datagram(2080))
            .forwards(far(datagram(2080)))
            .binds(published(wire::UDP, 2080), FAR_GATE)
            .counts("udp/2080", FAR_GATE, true),
    ]
}

/// Rows before and after a change that disagree.
fn changes() -> Vec<Row> {
    vec![
        row(
            "moved: a new connection goes where tasks are now",
            begin(83),
        )
        .forwards(far(begin(83)))
        .binds(published(wire::TCP, 83), FAR_GATE)
        .counts("tcp/83", FAR_GATE, true),
        row("moved: an open one stays with the draining task", open(83))
            .hands_over()
            .binds(published(wire::TCP, 83), SIDE_GATE),
        row("moved: an open one with an entry", open(83))
            .bound(published(wire::TCP, 83), FAR_GATE)
            .forwards(far(open(83)))
            .counts("tcp/83", FAR_GATE, false),
        row(
            "moved: an open one with an entry for the draining task",
            open(83),
        )
        .bound(published(wire::TCP, 83), SIDE_GATE)
        .hands_over(),
        row("moved: the ports again, for a new connection", begin(83))
            .knows_backend(published(wire::TCP, 83), SIDE_GATE)
            .forwards(far(begin(83)))
            .binds(published(wire::TCP, 83), FAR_GATE)
            .counts("tcp/83", FAR_GATE, true),
        row("moved: a new flow of datagrams", datagram(83))
            .forwards(far(datagram(83)))
            .binds(published(wire::UDP, 83), FAR_GATE)
            .counts("udp/83", FAR_GATE, true),
        row("moved: a flow of datagrams stays", datagram(83))
            .bound(published(wire::UDP, 83), SIDE_GATE)
            .hands_over(),
        row("drained: no new connection", begin(84)),
        row("drained: no new flow of datagrams", datagram(84)),
        row("drained: an open connection goes on", open(84))
            .forwards(far(open(84)))
            .binds(published(wire::TCP, 84), FAR_GATE)
            .counts("tcp/84", FAR_GATE, false),
        row("drained: a flow of datagrams goes on", datagram(84))
            .bound(published(wire::UDP, 84), FAR_GATE)
            .forwards(far(datagram(84)))
            .counts("udp/84", FAR_GATE, false),
        row(
            "ended: an open connection meets the new task, which resets it",
            open(85),
        )
        .forwards(far(open(85)))
        .binds(published(wire::TCP, 85), FAR_GATE)
        .counts("tcp/85", FAR_GATE, false),
        row("ended: a new connection", begin(85))
            .forwards(far(begin(85)))
            .binds(published(wire::TCP, 85), FAR_GATE)
            .counts("tcp/85", FAR_GATE, true),
    ]
}

fn replies() -> Vec<Row> {
    let returns =
        |name: &str, frame: Frame| row(name, from_peer(back(frame.clone()))).returns(out(frame));
    let over = |name: &str, frame: Frame| row(name, frame).hands_over();
    let mut flags = from_peer(reply()).bytes();
    flags[42] = 0;
    let request = arp(ArpOperation::REQUEST, (node(PEER), PEER), ([0; 6], NODE));
    vec![
        returns("a reply", tcp((NODE, 80), WHO)),
        returns(
            "the reply to a first segment",
            syn((NODE, 80), WHO).flags(|tcp| tcp.ack = true),
        ),
        returns("a datagram's reply", udp((NODE, 80), WHO)),
        returns("one without a checksum", udp((NODE, 80), WHO).unsummed()),
        over(
            "a reply to a client whose MAC is unknown",
            from_peer(back(tcp((NODE, 80), (STRANGER, 1)))),
        ),
        over(
            "a reply to this node",
            from_peer(back(tcp((NODE, 80), (NODE, 1)))),
        ),
        over(
            "a reply that is not this node's",
            from_peer(back(tcp((NOBODY, 80), WHO))),
        ),
        over(
            "a reply with a checksum to complete",
            from_peer(reply().partial()),
        ),
        over(
            "for another node",
            from_peer(reply().macs(node(PEER), node(PEER))),
        ),
        over(
            "for a task",
            from_peer(reply().macs(task(NEAR_GATE), node(PEER))),
        ),
        over(
            "for a MAC of no known kind",
            from_peer(reply().macs([2, 0x44, 192, 0, 2, 1], node(PEER))),
        ),
        over("a stranger's tunnel", vxlan(NOBODY, NODE, INGRESS, reply())),
        over("an overlay network's", vxlan(PEER, NODE, VNI, reply())),
        over(
            "the highest network's",
            vxlan(PEER, NODE, 0xff_ffff, reply()),
        ),
        over("a tunnel with something else in it", from_peer(request)),
        over("an empty tunnel", from_peer(b"".to_vec())),
        row("a tunnel without a network", flags).hands_over(),
        row(
            "another port than the tunnels'",
            udp((PEER, 50_000), (NODE, 4790)),
        ),
        row(
            "a tunnel packet with IP options",
            from_peer(reply()).options(1),
        ),
        row(
            "a tunnel packet in fragments",
            from_peer(reply()).fragment(0, true),
        ),
    ]
}

/// Headers that end at every byte. What ends behind the checksum is for the task to refuse.
fn cut() -> Vec<Row> {
    let mut rows = Vec::new();
    let (syn, datagram, tunnel) = (
        begin(80).bytes(),
        datagram(80).bytes(),
        from_peer(reply()).bytes(),
    );
    let inner = |frame: &[u8]| [&far(begin(80)).bytes()[..14], &frame[14..]].concat();
    for length in 14..54 {
        let frame = &syn[..length];
        let row = row(format!("TCP, {length} bytes of it"), frame);
        rows.push(match length {
            ..48 => row,
            48..52 => row.hands_over(),
            _ => row.forwards(inner(frame)).counts("tcp/80", FAR_GATE, true),
        });
    }
    for length in 14..42 {
        let frame = &datagram[..length];
        let row = row(format!("UDP, {length} bytes of it"), frame);
        rows.push(match length {
            ..38 => row,
            _ => row.hands_over(),
        });
    }
    for length in 14..104 {
        let row = row(format!("a tunnel, {length} bytes of it"), &tunnel[..length]);
        rows.push(match length {
            ..38 => row,
            38..102 => row.hands_over(),
            _ => row.returns(out(tcp((NODE, 80), WHO)).bytes()[..length - 50].to_vec()),
        });
    }
    let (tagged, options) = (begin(80).tag(5).bytes(), begin(80).options(2).bytes());
    for length in 14..58 {
        let name = |what| format!("TCP {what}, {length} bytes of it");
        rows.push(row(name("on a VLAN"), &tagged[..length]));
        rows.push(row(name("with IP options"), &options[..length]));
    }
    rows
}

pub(crate) fn rows() -> Vec<Row> {
    let parts = [not_ours(), to_the_peer(), changes(), replies(), cut()];
    parts.into_iter().flatten().collect()
}

#[test]
fn uplink_xdp() {
    check_all(Place::UplinkXdp, &rows());
}
