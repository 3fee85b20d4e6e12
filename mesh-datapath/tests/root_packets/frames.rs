//! Frames made with etherparse, and checks of frames.

use std::net::Ipv4Addr;

use etherparse::{
    ArpOperation, ArpPacket, EtherType, Ethernet2Header, NetSlice, PacketBuilder, SlicedPacket,
    TransportSlice,
};
use mesh_common::{node_mac, wire};

use crate::world::{CLIENT, CLIENT_MAC, NODE, Out, PEER, PEER_MAC, check};

pub(crate) fn node(address: Ipv4Addr) -> [u8; 6] {
    node_mac(u32::from_ne_bytes(address.octets()))
}

/// The frame is `inner` in a tunnel from this node to the peer.
pub(crate) fn tunnelled(inner: Vec<u8>, vni: u32) -> Out {
    check(move |frame| {
        ensure(frame.len() == inner.len() + wire::OVERHEAD, "length")?;
        let outer = SlicedPacket::from_ethernet(frame).map_err(|e| e.to_string())?;
        let Some(NetSlice::Ipv4(ip)) = &outer.net else {
            return Err("outer is not IPv4".into());
        };
        let header = ip.header();
        ensure(
            header.source_addr() == NODE && header.destination_addr() == PEER,
            "outer addresses",
        )?;
        ensure(
            header.header_checksum() == header.to_header().calc_header_checksum(),
            "outer checksum",
        )?;
        ensure(header.dont_fragment(), "do not fragment")?;
        let Some(TransportSlice::Udp(udp)) = &outer.transport else {
            return Err("outer is not UDP".into());
        };
        ensure(
            udp.destination_port() == 4789 && udp.source_port() >= 0xc000,
            "outer ports",
        )?;
        ensure(
            udp.payload()[..4] == [8, 0, 0, 0] && udp.payload()[4..7] == vni.to_be_bytes()[1..],
            "VXLAN",
        )?;
        ensure(udp.payload()[8..] == inner[..], "inner frame")
    })
}

/// The frame is `wanted`; checksums are checked on the way.
pub(crate) fn frame_is(wanted: Vec<u8>) -> Out {
    check(move |frame| ensure(frame == wanted, &format!("wanted {wanted:02x?}")))
}

pub(crate) fn ensure(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

pub(crate) type End = (Ipv4Addr, u16);

pub(crate) fn tcp(dmac: [u8; 6], smac: [u8; 6], from: End, to: End, syn: bool) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(smac, dmac)
        .ipv4(from.0.octets(), to.0.octets(), 64)
        .tcp(from.1, to.1, 1000, 4000);
    let mut frame = Vec::new();
    if syn { builder.syn() } else { builder.ack(7) }
        .write(&mut frame, b"some words")
        .expect("a frame");
    frame
}

pub(crate) fn udp(dmac: [u8; 6], smac: [u8; 6], from: End, to: End) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(smac, dmac)
        .ipv4(from.0.octets(), to.0.octets(), 64)
        .udp(from.1, to.1);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"some words").expect("a frame");
    frame
}

pub(crate) fn echo(
    dmac: [u8; 6],
    smac: [u8; 6],
    from: Ipv4Addr,
    to: Ipv4Addr,
    reply: bool,
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(smac, dmac).ipv4(from.octets(), to.octets(), 64);
    let mut frame = Vec::new();
    if reply {
        builder.icmpv4_echo_reply(5, 6)
    } else {
        builder.icmpv4_echo_request(5, 6)
    }
    .write(&mut frame, b"some words")
    .expect("a frame");
    frame
}

pub(crate) fn arp(
    operation: ArpOperation,
    smac: [u8; 6],
    from: Ipv4Addr,
    dmac: [u8; 6],
    to: Ipv4Addr,
) -> Vec<u8> {
    let destination = if operation == ArpOperation::REQUEST {
        [0xff; 6]
    } else {
        dmac
    };
    let mut frame = Vec::new();
    Ethernet2Header {
        source: smac,
        destination,
        ether_type: EtherType::ARP,
    }
    .write(&mut frame)
    .expect("a frame");
    let target = if operation == ArpOperation::REQUEST {
        [0; 6]
    } else {
        dmac
    };
    ArpPacket::new(
        etherparse::ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &smac,
        &from.octets(),
        &target,
        &to.octets(),
    )
    .expect("an ARP packet")
    .write(&mut frame)
    .expect("a frame");
    frame
}

pub(crate) fn tunnel_from(source: Ipv4Addr, vni: u32, inner: &[u8]) -> Vec<u8> {
    let mut payload = vec![8, 0, 0, 0];
    payload.extend(&vni.to_be_bytes()[1..]);
    payload.push(0);
    payload.extend(inner);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC, own_mac())
        .ipv4(source.octets(), NODE.octets(), 64)
        .udp(50_000, 4789)
        .write(&mut frame, &payload)
        .expect("a frame");
    frame
}

pub(crate) fn own_mac() -> [u8; 6] {
    [2, 0, 0, 0, 0, 1]
}

/// From the client to the node, as `kind` makes it.
pub(crate) fn from_client(port: u16, syn: bool) -> Vec<u8> {
    tcp(own_mac(), CLIENT_MAC, (CLIENT, 40_000), (NODE, port), syn)
}
