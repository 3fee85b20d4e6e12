//! The program on a task's overlay link: what a task sends to others of its network, and its questions.

use etherparse::{ArpOperation, IcmpEchoHeader, Icmpv4Type, IpNumber, icmpv4};
use mesh_common::{DropReason, FlowKey, Nat, Place, wire};

use crate::{
    fragments::noted,
    frames::*,
    row::{Row, check_all, row},
    traffic::*,
    world::*,
};

pub(crate) const PORT: u16 = 5001;
pub(crate) const ME: End = (NEAR, PORT);

/// As a task sends it, with the MAC that ARP has told it.
pub(crate) fn sent(frame: Frame, to: Ipv4) -> Frame {
    frame.macs(task(to), task(NEAR))
}

type Ipv4 = std::net::Ipv4Addr;

/// On the network, and nobody's.
const GONE: Ipv4 = Ipv4::new(10, 0, 16, 99);

pub(crate) fn open(to: Ipv4) -> Frame {
    sent(tcp(ME, (to, 80)), to)
}

pub(crate) fn begin(to: Ipv4) -> Frame {
    sent(syn(ME, (to, 80)), to)
}

pub(crate) fn datagram(to: Ipv4) -> Frame {
    sent(udp(ME, (to, 80)), to)
}

fn echo(to: Ipv4) -> Frame {
    let kind = Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 5, seq: 6 });
    sent(icmp(NEAR, to, kind), to)
}

fn echo_reply(from: Ipv4) -> Frame {
    let kind = Icmpv4Type::EchoReply(IcmpEchoHeader { id: 5, seq: 6 });
    icmp(from, NEAR, kind).macs(task(NEAR), task(from))
}

/// How the reply of a backend is made one of the virtual address.
pub(crate) fn reply(protocol: u8, backend: Ipv4, vip: Ipv4) -> (FlowKey, Nat) {
    let way = Way::Link(OVER, task(NEAR));
    (
        key(VNI, protocol, (backend, 80), ME),
        nat((vip, 80), ME, way),
    )
}

fn questions() -> Vec<Row> {
    let (request, response) = (ArpOperation::REQUEST, ArpOperation::REPLY);
    let me = (task(NEAR), NEAR);
    let ask = |to| arp(request, me, ([0; 6], to));
    let is_at = |who, to| arp(response, (task(who), who), to);
    let nobody = Ipv4::UNSPECIFIED;
    let drops = |name: &str, packet: Vec<u8>, reason| row(name, packet).drops(reason);
    let mut rows = vec![
        row("who has a task there", ask(FAR)).answers(is_at(FAR, me)),
        row("who has a task here", ask(SIDE)).answers(is_at(SIDE, me)),
        row("who has a virtual address", ask(FAR_VIP)).answers(is_at(FAR_VIP, me)),
        row("who has one without a task", ask(EMPTY_VIP)).answers(is_at(EMPTY_VIP, me)),
        row(
            "a probe for another's address",
            arp(request, (me.0, nobody), ([0; 6], FAR)),
        )
        .answers(is_at(FAR, (me.0, nobody))),
        drops(
            "a probe for its own address",
            arp(request, (me.0, nobody), ([0; 6], NEAR)),
            DropReason::NoEndpoint,
        ),
        drops("who has nothing", ask(NOBODY), DropReason::NoEndpoint),
        drops("who has its own address", ask(NEAR), DropReason::NoEndpoint),
        drops(
            "who has the gateway, which is on another link",
            ask([169, 254, 1, 1].into()),
            DropReason::NoEndpoint,
        ),
        drops(
            "who has a task of another network",
            ask(FAR_GATE),
            DropReason::NoEndpoint,
        ),
        drops(
            "an answer nobody asked for",
            arp(response, me, (task(FAR), FAR)),
            DropReason::NoEndpoint,
        ),
        drops(
            "a question with another's MAC",
            arp(request, (task(FAR), NEAR), ([0; 6], SIDE)),
            DropReason::Spoofed,
        ),
        drops(
            "a question with another's address",
            arp(request, (me.0, FAR), ([0; 6], SIDE)),
            DropReason::Spoofed,
        ),
        row("ping of a virtual address", echo(FAR_VIP)).answers(echo_reply(FAR_VIP)),
        row("ping of one without a task", echo(EMPTY_VIP)).answers(echo_reply(EMPTY_VIP)),
        row("an empty ping", echo(FAR_VIP).payload(b"")).answers(echo_reply(FAR_VIP).payload(b"")),
        row("a ping of 1,400 bytes", echo(FAR_VIP).payload(&[3; 1400]))
            .answers(echo_reply(FAR_VIP).payload(&[3; 1400])),
        row(
            "a long ping, its first fragment",
            echo(FAR_VIP).fragment(0, true),
        )
        .answers(echo_reply(FAR_VIP).fragment(0, true)),
        row(
            "a long ping, its last fragment",
            echo(FAR_VIP).fragment(90, false),
        )
        .answers(echo_reply(FAR_VIP).fragment(90, false)),
        row(
            "ping of a virtual address with IP options",
            echo(FAR_VIP).options(1),
        )
        .drops(DropReason::Protocol),
        row(
            "an answer to a virtual address",
            sent(echo_reply(NEAR), FAR_VIP).ip(|ip| ip.destination = FAR_VIP.octets()),
        )
        .drops(DropReason::Protocol),
    ];
    let question = ask(FAR);
    for length in 14..42 {
        let name = format!("a question, {length} bytes of it");
        rows.push(row(name, &question[..length]).drops(DropReason::Malformed));
    }
    rows
}

fn tasks() -> Vec<Row> {
    let tunnels = |name: &str, frame: Frame| row(name, frame.clone()).tunnels(frame);
    let delivers = |name: &str, frame: Frame| row(name, frame.clone()).delivers(frame);
    let drops = |name: &str, frame: Frame, reason| row(name, frame).drops(reason);
    let refused = |name: &str, frame: Frame| row(name, frame.clone()).answers(frame.refused());
    let last = |to| open(to).flags(|tcp| (tcp.ack, tcp.fin) = (false, true));
    let to_side = |frame| sent(frame, SIDE);
    let mut version = open(FAR).bytes();
    version[14] = 0x44;
    let mut lldp = open(FAR).bytes();
    lldp[12..14].copy_from_slice(&[0x88, 0xcc]);
    let unreachable = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
    vec![
        tunnels("to a task there: the first segment", begin(FAR)),
        tunnels("to a task there: in the middle", open(FAR)),
        tunnels("to a task there: a datagram", datagram(FAR)),
        tunnels(
            "to a task there: a datagram without a checksum",
            datagram(FAR).unsummed(),
        ),
        tunnels(
            "to a task there: a checksum for a device to complete",
            open(FAR).partial(),
        ),
        tunnels("to a task there: ping", echo(FAR)),
        tunnels(
            "to a task there: an ICMP error",
            sent(icmp(NEAR, FAR, unreachable), FAR),
        ),
        tunnels(
            "to a task there: a protocol without ports",
            sent(other(NEAR, FAR, IpNumber::GRE), FAR),
        ),
        tunnels(
            "to a task there: the first fragment",
            datagram(FAR).fragment(0, true),
        )
        .notes(noted(VNI, ME, (FAR, 80))),
        tunnels(
            "to a task there: the last fragment",
            datagram(FAR).fragment(90, false),
        ),
        tunnels("to a task there: IP options", open(FAR).options(3)),
        tunnels(
            "to a task there: all the IP options there can be",
            open(FAR).options(10),
        ),
        row(
            "to a task there: by its address, whatever the MAC",
            open(FAR).macs(task(SIDE), task(NEAR)),
        )
        .tunnels(open(FAR)),
        delivers(
            "to a task here: the first segment",
            to_side(syn(ME, (SIDE, 80))),
        ),
        delivers("to a task here: a datagram", to_side(udp(ME, (SIDE, 80)))),
        delivers(
            "to a task here: a checksum for a device to complete",
            to_side(tcp(ME, (SIDE, 80)).partial()),
        ),
        delivers(
            "to a task here: the last fragment",
            to_side(udp(ME, (SIDE, 80)).fragment(90, false)),
        ),
        row(
            "from the other task here",
            tcp((SIDE, 80), ME).macs(task(NEAR), task(SIDE)),
        )
        .by(SIDE_OVER)
        .delivers(tcp((SIDE, 80), ME).macs(task(NEAR), task(SIDE))),
        row(
            "ports that led there by a virtual address before",
            begin(FAR),
        )
        .knows(reply(wire::TCP, FAR, FAR_VIP))
        .tunnels(begin(FAR))
        .forgets(reply(wire::TCP, FAR, FAR_VIP).0),
        row(
            "a connection that leads there by a virtual address",
            open(FAR),
        )
        .knows(reply(wire::TCP, FAR, FAR_VIP))
        .tunnels(open(FAR)),
        drops(
            "with another's address",
            sent(syn((FAR, PORT), (SIDE, 80)), SIDE),
            DropReason::Spoofed,
        ),
        drops(
            "with a virtual address",
            sent(syn((FAR_VIP, PORT), (SIDE, 80)), SIDE),
            DropReason::Spoofed,
        ),
        drops(
            "with another's MAC",
            open(SIDE).macs(task(SIDE), task(FAR)),
            DropReason::Spoofed,
        ),
        drops(
            "with another's address, in IP options' shade",
            open(FAR).options(1).ip(|ip| ip.source = SIDE.octets()),
            DropReason::Spoofed,
        ),
        drops(
            "with another's address, in fragments",
            datagram(FAR)
                .fragment(9, false)
                .ip(|ip| ip.source = SIDE.octets()),
            DropReason::Spoofed,
        ),
        drops(
            "to everybody",
            datagram(FAR).macs([0xff; 6], task(NEAR)),
            DropReason::NotUnicast,
        ),
        drops(
            "to a multicast group",
            datagram(FAR).macs([1, 0, 0x5e, 0, 0, 1], task(NEAR)),
            DropReason::NotUnicast,
        ),
        drops(
            "to the broadcast address, with a MAC",
            datagram([255; 4].into()),
            DropReason::NoEndpoint,
        ),
        drops(
            "to a multicast address, with a MAC",
            datagram([224, 0, 0, 1].into()),
            DropReason::NoEndpoint,
        ),
        refused("to nobody", begin(GONE)),
        refused("to nobody, in the middle", open(GONE)),
        refused("to nobody, data and no more", last(GONE)),
        refused("to nobody, a datagram", datagram(GONE)),
        refused("to nobody, an empty datagram", datagram(GONE).payload(&[])),
        refused("to nobody, a large segment", open(GONE).payload(&[7; 1400])),
        drops(
            "to nobody, a reset",
            open(GONE).flags(|tcp| tcp.rst = true),
            DropReason::NoEndpoint,
        ),
        drops(
            "to nobody, a fragment",
            datagram(GONE).fragment(0, true),
            DropReason::NoEndpoint,
        )
        .notes(noted(VNI, ME, (GONE, 80))),
        drops("to nobody, a ping", echo(GONE), DropReason::NoEndpoint),
        refused("to this node", begin(NODE)).only_v4(),
        refused("to a task of another network", begin(FAR_GATE)).only_v4(),
        refused(
            "tunnel to a node",
            sent(vxlan(NEAR, PEER, VNI, open(FAR)), PEER),
        )
        .only_v4(),
        drops("a VLAN's frame", open(FAR).tag(5), DropReason::NotIp),
        drops(
            "a link that no table has",
            open(FAR),
            DropReason::UnknownLink,
        )
        .by(ELSEWHERE),
        row("an EtherType of others", lldp).drops(DropReason::NotIp),
        row("a header shorter than a header", version).drops(DropReason::Malformed),
    ]
}

/// Headers that end at every byte. The kernel tries no tc program on less than an IP header.
fn cut() -> Vec<Row> {
    let (segment, datagram) = (open(FAR).bytes(), datagram(FAR).bytes());
    let mut rows = Vec::new();
    for length in 34..54 {
        let row = row(format!("TCP, {length} bytes of it"), &segment[..length]);
        rows.push(match length {
            ..48 => row.drops(DropReason::Malformed),
            _ => row.tunnels(&segment[..length]),
        });
    }
    for length in 34..42 {
        let row = row(format!("UDP, {length} bytes of it"), &datagram[..length]);
        rows.push(match length {
            ..38 => row.drops(DropReason::Malformed),
            _ => row.tunnels(&datagram[..length]),
        });
    }
    rows
}

pub(crate) fn rows() -> Vec<Row> {
    let parts = [questions(), tasks(), cut()];
    let rows = parts.into_iter().flatten();
    rows.map(|row| row.by_default(OVER)).collect()
}

#[test]
fn overlay_tc() {
    check_all(Place::Overlay, &rows());
}
