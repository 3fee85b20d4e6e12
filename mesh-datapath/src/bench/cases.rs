//! The packets that are measured: typical ones of each program that packets enter, in both families.

use mesh_common::{node_mac, wire};

use super::{
    frames::{ACK, SYN, frame, tunnel},
    world::{Addresses, INGRESS, NODE, OVERLAY, PEER, World},
};
use crate::{Mac, attach, mac_of};

/// The loopback interface's index: 1 in every namespace.
const LOOPBACK: u32 = 1;
/// MACs of the uplink and of the client.
const OWN: Mac = [2, 0, 0, 0, 0, 1];
const OUTSIDE: Mac = [2, 0, 0, 0, 0, 0x64];

/// One kind of packet.
pub(super) struct Case {
    /// The program whose cost it is.
    pub(super) program: &'static str,
    /// The program that it enters, which may go on in the other.
    pub(super) entry: &'static str,
    pub(super) name: &'static str,
    pub(super) interface: u32,
    pub(super) packet: Vec<u8>,
}

/// A program that packets enter, and the one for the family.
type Program = [&'static str; 2];

const ENTRIES: [&str; 5] = [
    attach::UPLINK_XDP,
    attach::UPLINK_TC,
    attach::OVERLAY_TC,
    attach::GATEWAY_TC,
    attach::LOOPBACK_TC,
];
const TWINS: [&str; 5] = [
    "uplink_xdp_v6",
    "uplink_tc_v6",
    "overlay_tc_v6",
    "gateway_tc_v6",
    "loopback_tc_v6",
];

/// All of them.
pub(super) fn all(world: World) -> Vec<Case> {
    let mut cases = of(world, &Addresses::V4, &ENTRIES);
    cases.extend(of(world, &Addresses::v6(), &TWINS));
    cases
}

/// A packet for a node's uplink that this client could send: what the empty programs are measured with.
pub(super) fn from_client(addresses: &Addresses, port: u16, kind: (u8, u8)) -> Vec<u8> {
    let ends = [(addresses.client, 40_000), (addresses.node, port)];
    frame([OUTSIDE, OWN], ends, kind)
}

fn of(world: World, is: &Addresses, programs: &[&'static str; 5]) -> Vec<Case> {
    let [xdp, tc, overlay, gateway, loopback] = [0, 1, 2, 3, 4].map(|n| [ENTRIES[n], programs[n]]);
    let client = |port, kind| from_client(is, port, kind);
    let mut cases = Cases(Vec::new());
    let up = world.uplink;
    let (open, new, udp) = ((wire::TCP, ACK), (wire::TCP, SYN), (wire::UDP, 0));

    cases.add(xdp, "not published", up, client(443, open));
    cases.add(xdp, "tcp to another node, new flow", up, client(80, new));
    cases.add(xdp, "tcp to another node, open flow", up, client(80, open));
    cases.add(xdp, "udp to another node, known flow", up, client(80, udp));
    let (own, peer) = ([NODE, PEER])
        .map(|node| node_mac(u32::from_ne_bytes(node.octets())))
        .into();
    let ends = [(is.node, 80), (is.client, 40_000)];
    let reply = tunnel(INGRESS, &frame([peer, own], ends, open));
    cases.add(xdp, "reply from another node", up, reply);

    cases.add(tc, "not published", up, client(443, open));
    cases.add(tc, "tcp to a task here, known flow", up, client(81, open));
    let ends = [(is.client, 40_001), (is.peer, 81)];
    let to_task = tunnel(INGRESS, &frame([peer, mac_of(is.near_gate)], ends, open));
    cases.add(tc, "tunnel to a task, published port", up, to_task);
    let ends = [(is.far, 5000), (is.near, 80)];
    let east = frame([mac_of(is.far), mac_of(is.near)], ends, open);
    cases.add(tc, "tunnel to a task, overlay", up, tunnel(OVERLAY, &east));

    let to = |to, port| {
        let ends = [(is.near, port), (to, 80)];
        frame([mac_of(is.near), mac_of(to)], ends, open)
    };
    let over = world.overlay;
    cases.add(overlay, "to a task on another node", over, to(is.far, 5000));
    cases.add(
        overlay,
        "to a virtual address, known flow",
        over,
        to(is.vip, 5001),
    );

    let macs = [mac_of(is.near_gate), mac_of(NODE.into())];
    let gate = world.gateway;
    let answer = frame(macs, [(is.near_gate, 8080), (is.client, 40_000)], open);
    cases.add(gateway, "reply to a client", gate, answer);
    let out = frame(macs, [(is.near_gate, 5000), (is.client, 443)], open);
    cases.add(gateway, "the way out", gate, out);

    let own = |port| {
        let ends = [(is.local, 40_000), (is.local, port)];
        frame([Mac::default(); 2], ends, open)
    };
    cases.add(loopback, "not published", LOOPBACK, own(443));
    cases.add(loopback, "a process to another node", LOOPBACK, own(80));
    cases.add(
        loopback,
        "a process to a task here, known flow",
        LOOPBACK,
        own(81),
    );
    cases.0
}

struct Cases(Vec<Case>);

impl Cases {
    fn add(&mut self, program: Program, name: &'static str, interface: u32, packet: Vec<u8>) {
        let [entry, program] = program;
        self.0.push(Case {
            program,
            entry,
            name,
            interface,
            packet,
        });
    }
}
