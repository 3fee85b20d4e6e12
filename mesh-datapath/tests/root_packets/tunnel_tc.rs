//! The program on the tunnel device, which only sees what the kernel has taken out of a tunnel: so these rows come
//! in by the wire.

use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use etherparse::{ArpOperation, IcmpEchoHeader, Icmpv4Type};
use mesh_common::{DropReason, Place, Verdict};

use crate::{
    common::{INGRESS, PATIENCE},
    compare::{equal, moved_outcomes, same_bytes},
    frames::*,
    row::{check_all, row},
    traffic::*,
    world::*,
};

/// MAC of `ff02::16`, to which reports of multicast groups go (RFC 3810, section 5.2.14).
const MLD_ROUTERS: [u8; 6] = [0x33, 0x33, 0, 0, 0, 0x16];

/// The other end of the uplink.
struct Wire(OwnedFd);

impl Wire {
    fn new(world: &World) -> Self {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        world.ns.run(|| {
            // SAFETY: takes plain numbers; the descriptor, if there is one, is nobody else's.
            let fd = unsafe {
                let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(protocol));
                assert!(
                    fd >= 0,
                    "packet socket: {}",
                    std::io::Error::last_os_error()
                );
                OwnedFd::from_raw_fd(fd)
            };
            // SAFETY: all zero is a valid value of this plain C structure.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol;
            address.sll_ifindex = ELSEWHERE as i32;
            // SAFETY: the address outlives the call and its size is given.
            let answer = unsafe {
                let size = size_of_val(&address) as u32;
                libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size)
            };
            assert_eq!(answer, 0, "bind: {}", std::io::Error::last_os_error());
            Self(fd)
        })
    }

    fn send(&self, frame: &[u8]) {
        // SAFETY: the bytes outlive the call and their length is given.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(
            sent,
            frame.len() as isize,
            "send: {}",
            std::io::Error::last_os_error()
        );
    }

    /// The next frame that is there and that somebody else has sent. The kernel's own reports of multicast groups, which
    /// it sends when it likes (RFC 3810, section 6.1), do not count.
    fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 2048];
        loop {
            // SAFETY: all zero is a valid value of this plain C structure.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut size = size_of_val(&from) as u32;
            // SAFETY: buffer and address outlive the call and their sizes are given.
            let length = unsafe {
                libc::recvfrom(
                    self.0.as_raw_fd(),
                    frame.as_mut_ptr().cast(),
                    frame.len(),
                    libc::MSG_DONTWAIT,
                    (&raw mut from).cast(),
                    &raw mut size,
                )
            };
            let length = usize::try_from(length).ok()?;
            if from.sll_pkttype != libc::PACKET_OUTGOING && frame[..6] != MLD_ROUTERS {
                frame.truncate(length);
                return Some(frame);
            }
        }
    }
}

/// A packet on the wire, the outcomes at each program it meets, and what comes back.
struct Visit {
    name: &'static str,
    packet: Frame,
    outcomes: Vec<(&'static str, &'static str)>,
    back: Option<Frame>,
}

fn visits() -> Vec<Visit> {
    let passes = (Place::UplinkTc.name(), Verdict::Pass.name());
    let at_tunnel = |name| (Place::Tunnel.name(), name);
    let reply = |to: End| tcp((NODE, 80), to).macs(node(NODE), node(PEER));
    let dropped = |name, packet, reason: DropReason| Visit {
        name,
        packet,
        outcomes: vec![passes, at_tunnel(reason.name())],
        back: None,
    };
    // What comes to another address of the node than its tunnel's is the stack's to take out, as are large segments.
    let alias = Ipv4Addr::new(192, 0, 2, 9);
    let returned = |name, frame: Frame| Visit {
        name,
        packet: vxlan(
            PEER,
            alias,
            INGRESS,
            frame.clone().macs(node(NODE), node(PEER)),
        ),
        outcomes: vec![passes, at_tunnel(Verdict::Returned.name())],
        back: Some(frame.macs(CLIENT_MAC, NODE_MAC)),
    };
    let at_once = Visit {
        outcomes: vec![(Place::UplinkTc.name(), Verdict::Returned.name())],
        packet: vxlan(PEER, NODE, INGRESS, reply(WHO)),
        ..returned("a reply that the uplink sends on", tcp((NODE, 80), WHO))
    };
    let stolen = tcp((NOBODY, 80), WHO).macs(node(NODE), node(PEER));
    let request = arp(ArpOperation::REQUEST, (task(FAR), FAR), ([0; 6], NEAR));
    let echo = Icmpv4Type::EchoReply(IcmpEchoHeader { id: 5, seq: 6 });
    vec![
        at_once,
        returned("a reply to a client outside", tcp((NODE, 80), WHO)),
        returned("a reply by datagram", udp((NODE, 80), WHO)),
        returned("a reply without ports", icmp(NODE, CLIENT, echo)),
        dropped(
            "a reply that is not this node's",
            vxlan(PEER, NODE, INGRESS, stolen),
            DropReason::NoEndpoint,
        ),
        dropped(
            "on an overlay network, ARP",
            vxlan(PEER, NODE, VNI, request.clone()),
            DropReason::NotIp,
        ),
        dropped(
            "on the ingress network, ARP",
            vxlan(PEER, NODE, INGRESS, request),
            DropReason::NotIp,
        ),
        dropped(
            "by another address of the node, a stranger's",
            vxlan(NOBODY, alias, INGRESS, reply(WHO)),
            DropReason::UnknownPeer,
        ),
        dropped(
            "by another address of the node, of an overlay",
            vxlan(PEER, alias, VNI, reply(WHO)),
            DropReason::NoEndpoint,
        ),
    ]
}

/// Probes of other nodes' agents, which are IPv4.
fn probes() -> [Visit; 2] {
    let port = mesh_datapath::DEFAULT_VXLAN_PORT;
    let probe = |vni| {
        let inner = udp((PEER, port), (NODE, port)).macs(node(NODE), node(PEER));
        vxlan(PEER, NODE, vni, inner)
    };
    let outcomes = |first: &'static str, then| {
        let mut all = vec![(Place::UplinkTc.name(), first)];
        all.extend(then);
        all
    };
    let pass = Verdict::Pass.name();
    [
        Visit {
            name: "a probe, which the agent takes from the device",
            packet: probe(INGRESS),
            outcomes: outcomes(pass, Some((Place::Tunnel.name(), pass))),
            back: None,
        },
        Visit {
            name: "a probe on an overlay network",
            packet: probe(VNI),
            outcomes: outcomes(DropReason::NoEndpoint.name(), None),
            back: None,
        },
    ]
}

#[test]
fn tunnel_tc() {
    let world = World::new(Side::Node);
    world.ns.sh("ip addr add 192.0.2.9/24 dev up0");
    let wire = Wire::new(&world);
    // The kernel reports the new address's group now and once more within a second.
    world.ns.sh("ip addr add fd00:77::77/64 dev up0 nodad");
    let mut wrong = Vec::new();
    let six = visits().into_iter().filter_map(Visit::six);
    for visit in visits().into_iter().chain(six).chain(probes()) {
        if let Err(why) = visit.check(&world, &wire) {
            wrong.push(format!("{}: {why}", visit.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

impl Visit {
    /// The visit in IPv6, if there are such packets.
    fn six(self) -> Option<Self> {
        let back = match &self.back {
            Some(frame) => Some(frame.six()?),
            None => None,
        };
        Some(Self {
            packet: self.packet.six()?,
            back,
            ..self
        })
    }

    fn check(&self, world: &World, wire: &Wire) -> Result<(), String> {
        let before = world.snapshot();
        wire.send(&self.packet.bytes());
        let deadline = Instant::now() + PATIENCE;
        let outcomes = loop {
            let outcomes = moved_outcomes(&before, &world.snapshot());
            if outcomes.len() >= self.outcomes.len() || Instant::now() > deadline {
                break outcomes;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        equal("outcomes", &outcomes, &self.outcomes)?;
        let Some(back) = &self.back else {
            return Ok(());
        };
        loop {
            if let Some(frame) = wire.receive() {
                return same_bytes(&frame, &back.bytes());
            }
            if Instant::now() > deadline {
                return Err("nothing came back".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn tunnel_tc_outside_a_tunnel() {
    let stranger = |name, packet: Vec<u8>| row(name, packet).drops(DropReason::UnknownPeer);
    let rows = [
        stranger("in no tunnel", begin(80).bytes()),
        stranger("in no tunnel, another EtherType", vec![0; 60]),
    ];
    check_all(Place::Tunnel, &rows);
}
