//! Tables of packets: what goes in, with which maps, what comes out, and which counter moved.

mod common;

use std::net::Ipv4Addr;

use common::{INGRESS, Ns, service_of};
use etherparse::{
    ArpOperation, ArpPacket, EtherType, Ethernet2Header, NetSlice, PacketBuilder, SlicedPacket,
    TransportSlice,
};
use mesh_common::{DropReason, Verdict, mac_of as mac, node_mac, wire};
use mesh_datapath::{Config, Datapath, Desired, Endpoint, Link, Location, XdpMode, mac_of};

const PASS: u32 = 2;
const XDP_TX_OR_REDIRECT: [u32; 2] = [3, 4];
const TC_NEXT: u32 = u32::MAX;
const TC_SHOT: u32 = 2;
const TC_REDIRECT: u32 = 7;

const VNI: u32 = 4097;
const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);
const FAR_GATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const NEAR_GATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 2);
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 3);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 200);
const EMPTY_VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 201);
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x64];

fn node(address: Ipv4Addr) -> [u8; 6] {
    node_mac(u32::from_ne_bytes(address.octets()))
}

/// Port 80 leads to the other node, 81 to a task here, 82 nowhere; one virtual address has a task far away,
/// another none.
struct World {
    ns: Ns,
    datapath: Option<Datapath>,
    config: Config,
    up: u32,
    over: u32,
    gate: u32,
}

impl World {
    fn new(name: &str) -> Self {
        let ns = Ns::new(name);
        for (host, peer) in [("up0", "up1"), ("ov0", "ov1"), ("gw0", "gw1")] {
            ns.sh(&format!("ip link add {host} type veth peer name {peer}"));
            ns.sh(&format!("ip link set {host} up"));
            ns.sh(&format!("ip link set {peer} up"));
        }
        ns.sh(&format!("ip addr add {NODE}/24 dev up0"));
        ns.sh(&format!(
            "ip neigh add {PEER} lladdr 02:00:00:00:00:02 dev up0 nud permanent"
        ));
        ns.sh(&format!(
            "ip neigh add {CLIENT} lladdr 02:00:00:00:00:64 dev up0 nud permanent"
        ));
        ns.sh("sysctl -qw net.ipv4.ip_forward=1");
        let (up, over, gate) = (ns.index("up0"), ns.index("ov0"), ns.index("gw0"));
        let mut config = Config::new(format!("/sys/fs/bpf/{}", ns.0));
        config.xdp = XdpMode::Off;
        let mut world = Self {
            ns,
            datapath: None,
            config,
            up,
            over,
            gate,
        };
        let desired = world.desired();
        let config = &world.config;
        world.datapath = Some(world.ns.run(|| {
            let mut datapath = Datapath::open(config).expect("open");
            datapath.apply(&desired).expect("apply");
            datapath
        }));
        world
    }

    fn desired(&self) -> Desired {
        let mut desired = Desired {
            uplinks: [self.up].into(),
            own_addresses: [NODE.into()].into(),
            vtep: Some(NODE.into()),
            ingress_vni: INGRESS,
            peers: [PEER.into()].into(),
            ..Desired::default()
        };
        for (vni, address, location) in [
            (INGRESS, FAR_GATE, Location::Remote(PEER.into())),
            (INGRESS, NEAR_GATE, Location::Local(self.gate)),
            (VNI, FAR, Location::Remote(PEER.into())),
            (VNI, NEAR, Location::Local(self.over)),
        ] {
            let endpoint = Endpoint {
                mac: mac_of(address.into()),
                location,
            };
            desired.endpoints.insert((vni, address.into()), endpoint);
        }
        let link = Link::Overlay {
            vni: VNI,
            address: NEAR.into(),
            mac: mac_of(NEAR.into()),
        };
        desired.links.insert(self.over, link);
        let link = Link::Gateway {
            address: NEAR_GATE.into(),
            mac: mac_of(NEAR_GATE.into()),
        };
        desired.links.insert(self.gate, link);
        let services = &mut desired.services;
        services.insert(
            "far".into(),
            service_of(80, 8080, (VNI, VIP), &[FAR], &[FAR_GATE]),
        );
        services.insert(
            "near".into(),
            service_of(81, 8080, (VNI, EMPTY_VIP), &[], &[NEAR_GATE]),
        );
        services.insert(
            "none".into(),
            service_of(82, 8080, (VNI, EMPTY_VIP), &[], &[]),
        );
        desired
    }

    fn count(&self, name: &str) -> u64 {
        let snapshot = self
            .datapath
            .as_ref()
            .expect("open")
            .snapshot()
            .expect("counters");
        let mut lines = snapshot.verdicts.iter().chain(&snapshot.drops);
        lines
            .find(|line| line.name == name)
            .map_or(0, |line| line.packets)
    }

    fn check(&mut self, case: &Case) {
        let before = self.count(case.outcome);
        let interface = match case.program {
            "overlay_tc" => self.over,
            "gateway_tc" => self.gate,
            "loopback_tc" => 1,
            _ => self.up,
        };
        let datapath = self.datapath.as_mut().expect("open");
        let trial = self
            .ns
            .run(|| datapath.trial(case.program, &case.packet, interface))
            .unwrap_or_else(|e| panic!("{}: {}", case.name, common::chain(&e)));
        assert!(
            case.actions.contains(&trial.action),
            "{}: action {:#x}",
            case.name,
            trial.action
        );
        assert_eq!(
            self.count(case.outcome),
            before + 1,
            "{}: counter {}",
            case.name,
            case.outcome
        );
        match &case.out {
            Out::Same => assert_eq!(trial.packet, case.packet, "{}", case.name),
            Out::Any => {}
            Out::Check(check) => {
                if let Err(why) = check(&trial.packet) {
                    panic!("{}: {why}: {:02x?}", case.name, trial.packet);
                }
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.datapath.take());
        let config = &self.config;
        let _ = self.ns.run(|| Datapath::remove(config));
    }
}

type Check = Box<dyn Fn(&[u8]) -> Result<(), String> + Send + Sync>;

enum Out {
    Same,
    Any,
    Check(Check),
}

struct Case {
    name: &'static str,
    program: &'static str,
    packet: Vec<u8>,
    actions: Vec<u32>,
    outcome: &'static str,
    out: Out,
}

fn case(
    name: &'static str,
    program: &'static str,
    packet: Vec<u8>,
    actions: &[u32],
    outcome: &'static str,
    out: Out,
) -> Case {
    Case {
        name,
        program,
        packet,
        actions: actions.to_vec(),
        outcome,
        out,
    }
}

fn check(check: impl Fn(&[u8]) -> Result<(), String> + Send + Sync + 'static) -> Out {
    Out::Check(Box::new(check))
}

/// The frame is `inner` in a tunnel from this node to the peer.
fn tunnelled(inner: Vec<u8>, vni: u32) -> Out {
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
fn frame_is(wanted: Vec<u8>) -> Out {
    check(move |frame| ensure(frame == wanted, &format!("wanted {wanted:02x?}")))
}

fn ensure(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

type End = (Ipv4Addr, u16);

fn tcp(dmac: [u8; 6], smac: [u8; 6], from: End, to: End, syn: bool) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(smac, dmac)
        .ipv4(from.0.octets(), to.0.octets(), 64)
        .tcp(from.1, to.1, 1000, 4000);
    let mut frame = Vec::new();
    if syn { builder.syn() } else { builder.ack(7) }
        .write(&mut frame, b"some words")
        .expect("a frame");
    frame
}

fn udp(dmac: [u8; 6], smac: [u8; 6], from: End, to: End) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(smac, dmac)
        .ipv4(from.0.octets(), to.0.octets(), 64)
        .udp(from.1, to.1);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"some words").expect("a frame");
    frame
}

fn echo(dmac: [u8; 6], smac: [u8; 6], from: Ipv4Addr, to: Ipv4Addr, reply: bool) -> Vec<u8> {
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

fn arp(
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

fn tunnel_from(source: Ipv4Addr, vni: u32, inner: &[u8]) -> Vec<u8> {
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

fn own_mac() -> [u8; 6] {
    [2, 0, 0, 0, 0, 1]
}

/// From the client to the node, as `kind` makes it.
fn from_client(port: u16, syn: bool) -> Vec<u8> {
    tcp(own_mac(), CLIENT_MAC, (CLIENT, 40_000), (NODE, port), syn)
}

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
