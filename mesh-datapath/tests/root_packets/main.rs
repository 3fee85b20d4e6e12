//! Tables of packets: what goes in, with which maps, what comes out, and which counter moved.

#[path = "../common/mod.rs"]
mod common;
mod frames;
mod reuse;
mod world;

use std::net::Ipv4Addr;

use common::INGRESS;
use etherparse::ArpOperation;
use frames::{
    arp, echo, ensure, frame_is, from_client, node, own_mac, tcp, tunnel_from, tunnelled, udp,
};
use mesh_common::{DropReason, Verdict, mac_of as mac, wire};
use mesh_datapath::mac_of;
use world::*;

const PASS: u32 = 2;
const XDP_TX_OR_REDIRECT: [u32; 2] = [3, 4];
const TC_NEXT: u32 = u32::MAX;
const TC_SHOT: u32 = 2;
const TC_REDIRECT: u32 = 7;

#[test]
fn uplink_xdp() {
    let mut world = World::new("xdp");
    let program = "uplink_xdp";
    let far = mac_of(FAR_GATE.into());
    let unfinished = {
        let mut frame = from_client(80, true);
        let length = (frame.len() - 34) as u16;
        let (src, dst) = (
            u32::from_ne_bytes(CLIENT.octets()),
            u32::from_ne_bytes(NODE.octets()),
        );
        let sum = mesh_common::checksum::pseudo_v4(src, dst, 6, length).to_ne_bytes();
        frame[50..52].copy_from_slice(&sum);
        frame
    };
    let reply = |to| tcp(node(NODE), node(PEER), (NODE, 80), (to, 40_000), false);
    let stripped = check(move |frame| {
        let inner = tcp(node(NODE), node(PEER), (NODE, 80), (CLIENT, 40_000), false);
        ensure(frame[..6] == CLIENT_MAC, "the client's MAC")?;
        ensure(frame[12..] == inner[12..], "inner packet")
    });
    let pass = Verdict::Pass.name();
    let over = Verdict::Handover.name();
    let cases = [
        case(
            "not IPv4",
            program,
            arp(ArpOperation::REQUEST, CLIENT_MAC, CLIENT, [0; 6], NODE),
            &[PASS],
            pass,
            Out::Same,
        ),
        case(
            "port not published",
            program,
            from_client(443, true),
            &[PASS],
            pass,
            Out::Same,
        ),
        case(
            "another's address",
            program,
            tcp(own_mac(), CLIENT_MAC, (CLIENT, 40_000), (NOBODY, 80), true),
            &[PASS],
            pass,
            Out::Same,
        ),
        case(
            "no backend",
            program,
            from_client(82, true),
            &[PASS],
            pass,
            Out::Same,
        ),
        case(
            "backend here",
            program,
            from_client(81, true),
            &[PASS],
            over,
            Out::Same,
        ),
        case(
            "checksum left to the device",
            program,
            unfinished,
            &[PASS],
            over,
            Out::Same,
        ),
        case(
            "SYN to another node",
            program,
            from_client(80, true),
            &XDP_TX_OR_REDIRECT,
            Verdict::Forwarded.name(),
            tunnelled(
                tcp(far, node(NODE), (CLIENT, 40_000), (NODE, 80), true),
                INGRESS,
            ),
        ),
        case(
            "more to another node",
            program,
            from_client(80, false),
            &XDP_TX_OR_REDIRECT,
            Verdict::Forwarded.name(),
            tunnelled(
                tcp(far, node(NODE), (CLIENT, 40_000), (NODE, 80), false),
                INGRESS,
            ),
        ),
        case(
            "datagram to another node",
            program,
            udp(own_mac(), CLIENT_MAC, (CLIENT, 40_000), (NODE, 80)),
            &XDP_TX_OR_REDIRECT,
            Verdict::Forwarded.name(),
            tunnelled(udp(far, node(NODE), (CLIENT, 40_000), (NODE, 80)), INGRESS),
        ),
        case(
            "reply",
            program,
            tunnel_from(PEER, INGRESS, &reply(CLIENT)),
            &XDP_TX_OR_REDIRECT,
            Verdict::Returned.name(),
            stripped,
        ),
        case(
            "reply to a client whose MAC is unknown",
            program,
            tunnel_from(PEER, INGRESS, &reply(STRANGER)),
            &[PASS],
            over,
            Out::Same,
        ),
        case(
            "reply to this node",
            program,
            tunnel_from(PEER, INGRESS, &reply(NODE)),
            &[PASS],
            over,
            Out::Same,
        ),
        case(
            "tunnel of a stranger",
            program,
            tunnel_from(NOBODY, INGRESS, &reply(CLIENT)),
            &[PASS],
            over,
            Out::Same,
        ),
        case(
            "tunnel of an overlay network",
            program,
            tunnel_from(PEER, VNI, &reply(CLIENT)),
            &[PASS],
            over,
            Out::Same,
        ),
        case(
            "cut short",
            program,
            from_client(80, true)[..40].to_vec(),
            &[PASS],
            pass,
            Out::Same,
        ),
    ];
    for case in &cases {
        world.check(case);
    }
}

#[test]
fn uplink_tc() {
    let mut world = World::new("tc");
    let program = "uplink_tc";
    let (delivered, pass) = (Verdict::Delivered.name(), Verdict::Pass.name());
    let gateway = mac(wire::GATEWAY_BE);
    let near = mac_of(NEAR_GATE.into());
    let to_near = |port| tcp(near, node(PEER), (CLIENT, 40_001), (PEER, port), true);
    let far = mac_of(FAR_GATE.into());
    let east = |to, at: Ipv4Addr| {
        tcp(
            mac_of(at.into()),
            mac_of(FAR.into()),
            (FAR, 5000),
            (to, 80),
            true,
        )
    };
    let cases = [
        case(
            "port not published",
            program,
            from_client(443, true),
            &[TC_NEXT],
            pass,
            Out::Same,
        ),
        case(
            "to a task here",
            program,
            from_client(81, true),
            &[TC_REDIRECT],
            delivered,
            frame_is(tcp(
                near,
                gateway,
                (CLIENT, 40_000),
                (NEAR_GATE, 8080),
                true,
            )),
        ),
        case(
            "datagram to a task here",
            program,
            udp(own_mac(), CLIENT_MAC, (CLIENT, 40_000), (NODE, 81)),
            &[TC_REDIRECT],
            delivered,
            frame_is(udp(near, gateway, (CLIENT, 40_000), (NEAR_GATE, 8080))),
        ),
        case(
            "to another node",
            program,
            from_client(80, true),
            &[TC_REDIRECT],
            Verdict::Forwarded.name(),
            tunnelled(
                tcp(far, node(NODE), (CLIENT, 40_000), (NODE, 80), true),
                INGRESS,
            ),
        ),
        case(
            "from another node to a task here",
            program,
            tunnel_from(PEER, INGRESS, &to_near(81)),
            &[TC_REDIRECT],
            delivered,
            frame_is(tcp(
                near,
                gateway,
                (CLIENT, 40_001),
                (NEAR_GATE, 8080),
                true,
            )),
        ),
        case(
            "from another node, port not published",
            program,
            tunnel_from(PEER, INGRESS, &to_near(443)),
            &[TC_SHOT],
            DropReason::NotPublished.name(),
            Out::Any,
        ),
        case(
            "overlay to a task here",
            program,
            tunnel_from(PEER, VNI, &east(NEAR, NEAR)),
            &[TC_REDIRECT],
            delivered,
            frame_is(east(NEAR, NEAR)),
        ),
        case(
            "overlay, nobody there",
            program,
            tunnel_from(PEER, VNI, &east(NOBODY, NEAR)),
            &[TC_SHOT],
            DropReason::NoEndpoint.name(),
            Out::Any,
        ),
        case(
            "overlay, another network",
            program,
            tunnel_from(PEER, VNI + 1, &east(NEAR, NEAR)),
            &[TC_SHOT],
            DropReason::NoEndpoint.name(),
            Out::Any,
        ),
        case(
            "tunnel of a stranger is the tunnel device's",
            program,
            tunnel_from(NOBODY, VNI, &east(NEAR, NEAR)),
            &[TC_NEXT],
            pass,
            Out::Same,
        ),
        case(
            "reply to a client outside is the tunnel device's",
            program,
            tunnel_from(
                PEER,
                INGRESS,
                &tcp(node(NODE), node(PEER), (NODE, 80), (CLIENT, 40_000), false),
            ),
            &[TC_NEXT],
            pass,
            Out::Same,
        ),
    ];
    for case in &cases {
        world.check(case);
    }
}

#[test]
fn overlay_tc() {
    let mut world = World::new("overlay");
    let program = "overlay_tc";
    let (near, far, vip) = (mac_of(NEAR.into()), mac_of(FAR.into()), mac_of(VIP.into()));
    let ask = |to| arp(ArpOperation::REQUEST, near, NEAR, [0; 6], to);
    let is_at = |who: Ipv4Addr| {
        frame_is(arp(
            ArpOperation::REPLY,
            mac_of(who.into()),
            who,
            near,
            NEAR,
        ))
    };
    let answered = Verdict::Answered.name();
    let nobody = DropReason::NoEndpoint.name();
    let cases = [
        case(
            "who has a task",
            program,
            ask(FAR),
            &[TC_REDIRECT],
            answered,
            is_at(FAR),
        ),
        case(
            "who has a virtual address",
            program,
            ask(VIP),
            &[TC_REDIRECT],
            answered,
            is_at(VIP),
        ),
        case(
            "who has nothing",
            program,
            ask(NOBODY),
            &[TC_SHOT],
            nobody,
            Out::Any,
        ),
        case(
            "probe of its own address",
            program,
            ask(NEAR),
            &[TC_SHOT],
            nobody,
            Out::Any,
        ),
        case(
            "ping of a virtual address",
            program,
            echo(vip, near, NEAR, VIP, false),
            &[TC_REDIRECT],
            answered,
            frame_is(echo(near, vip, VIP, NEAR, true)),
        ),
        case(
            "to a task on another node",
            program,
            tcp(far, near, (NEAR, 5000), (FAR, 80), true),
            &[TC_REDIRECT],
            Verdict::Forwarded.name(),
            tunnelled(tcp(far, near, (NEAR, 5000), (FAR, 80), true), VNI),
        ),
        case(
            "to a virtual address",
            program,
            tcp(vip, near, (NEAR, 5001), (VIP, 80), true),
            &[TC_REDIRECT],
            Verdict::Forwarded.name(),
            tunnelled(tcp(far, near, (NEAR, 5001), (FAR, 80), true), VNI),
        ),
        case(
            "reply from behind a virtual address",
            "uplink_tc",
            tunnel_from(PEER, VNI, &tcp(near, far, (FAR, 80), (NEAR, 5001), false)),
            &[TC_REDIRECT],
            Verdict::Delivered.name(),
            frame_is(tcp(near, far, (VIP, 80), (NEAR, 5001), false)),
        ),
        case(
            "the same ports without a virtual address",
            program,
            tcp(far, near, (NEAR, 5001), (FAR, 80), true),
            &[TC_REDIRECT],
            Verdict::Forwarded.name(),
            Out::Any,
        ),
        case(
            "reply to that one",
            "uplink_tc",
            tunnel_from(PEER, VNI, &tcp(near, far, (FAR, 80), (NEAR, 5001), false)),
            &[TC_REDIRECT],
            Verdict::Delivered.name(),
            frame_is(tcp(near, far, (FAR, 80), (NEAR, 5001), false)),
        ),
        case(
            "virtual address without a task",
            program,
            tcp(
                mac_of(EMPTY_VIP.into()),
                near,
                (NEAR, 5002),
                (EMPTY_VIP, 80),
                true,
            ),
            &[TC_SHOT],
            DropReason::NoBackend.name(),
            Out::Any,
        ),
        case(
            "another's address",
            program,
            tcp(far, near, (FAR, 5000), (FAR, 80), true),
            &[TC_SHOT],
            DropReason::Spoofed.name(),
            Out::Any,
        ),
        case(
            "another's MAC",
            program,
            tcp(far, far, (NEAR, 5000), (FAR, 80), true),
            &[TC_SHOT],
            DropReason::Spoofed.name(),
            Out::Any,
        ),
        case(
            "broadcast",
            program,
            udp([0xff; 6], near, (NEAR, 68), (Ipv4Addr::BROADCAST, 67)),
            &[TC_SHOT],
            DropReason::NotUnicast.name(),
            Out::Any,
        ),
        case(
            "nobody there",
            program,
            tcp(far, near, (NEAR, 5000), (NOBODY, 80), true),
            &[TC_SHOT],
            nobody,
            Out::Any,
        ),
    ];
    for case in &cases {
        world.check(case);
    }
}

#[test]
fn gateway_tc() {
    let mut world = World::new("gateway");
    let program = "gateway_tc";
    let (near, gateway) = (mac_of(NEAR_GATE.into()), mac(wire::GATEWAY_BE));
    let address = Ipv4Addr::from(wire::GATEWAY_BE.to_ne_bytes());
    let answer = |to| tcp(gateway, near, (NEAR_GATE, 8080), to, false);
    let from_peer = tcp(near, node(PEER), (CLIENT, 40_001), (PEER, 81), true);
    let back = tcp(node(PEER), node(NODE), (PEER, 81), (CLIENT, 40_001), false);
    let pass = Verdict::Pass.name();
    let cases = [
        case(
            "who has the gateway",
            program,
            arp(ArpOperation::REQUEST, near, NEAR_GATE, [0; 6], address),
            &[TC_REDIRECT],
            Verdict::Answered.name(),
            frame_is(arp(ArpOperation::REPLY, gateway, address, near, NEAR_GATE)),
        ),
        case(
            "the task's own MAC, for the stack",
            program,
            arp(ArpOperation::REPLY, near, NEAR_GATE, gateway, NODE),
            &[TC_NEXT],
            pass,
            Out::Same,
        ),
        case(
            "the way out",
            program,
            answer((CLIENT, 40_000)),
            &[TC_NEXT],
            pass,
            Out::Same,
        ),
        case(
            "a client comes in",
            "uplink_tc",
            from_client(81, true),
            &[TC_REDIRECT],
            Verdict::Delivered.name(),
            Out::Any,
        ),
        case(
            "and is answered",
            program,
            answer((CLIENT, 40_000)),
            &[TC_REDIRECT],
            Verdict::Returned.name(),
            frame_is(tcp(gateway, near, (NODE, 81), (CLIENT, 40_000), false)),
        ),
        case(
            "a client comes by another node",
            "uplink_tc",
            tunnel_from(PEER, INGRESS, &from_peer),
            &[TC_REDIRECT],
            Verdict::Delivered.name(),
            Out::Any,
        ),
        case(
            "and is answered there",
            program,
            answer((CLIENT, 40_001)),
            &[TC_REDIRECT],
            Verdict::Returned.name(),
            tunnelled(back, INGRESS),
        ),
        case(
            "the same client port by both nodes",
            "uplink_tc",
            tunnel_from(
                PEER,
                INGRESS,
                &tcp(near, node(PEER), (CLIENT, 40_000), (PEER, 81), true),
            ),
            &[TC_REDIRECT],
            Verdict::Delivered.name(),
            check(|frame| ensure(frame[34..36] != 40_000_u16.to_be_bytes(), "another port")),
        ),
        case(
            "another's address",
            program,
            tcp(gateway, near, (FAR_GATE, 8080), (CLIENT, 40_000), false),
            &[TC_SHOT],
            DropReason::Spoofed.name(),
            Out::Any,
        ),
        case(
            "a published port of this node",
            program,
            tcp(gateway, near, (NEAR_GATE, 5000), (NODE, 80), true),
            &[TC_REDIRECT],
            Verdict::Forwarded.name(),
            tunnelled(
                tcp(
                    mac_of(FAR_GATE.into()),
                    node(NODE),
                    (NEAR_GATE, 5000),
                    (NODE, 80),
                    true,
                ),
                INGRESS,
            ),
        ),
    ];
    for case in &cases {
        world.check(case);
    }
}
