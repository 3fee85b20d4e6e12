//! Who talks to whom in the tables, and how the programs remember it.

use std::net::Ipv4Addr;

use mesh_common::{
    FlowKey, NAT_DIRECT, NAT_LINK, NAT_LOOPBACK, NAT_PEER, NAT_UPLINK, Nat, SCOPE_PUBLISHED,
    SCOPE_TASK,
};

use crate::{
    frames::{End, Frame, Mac, gateway, node, syn, task, tcp, udp},
    world::{CLIENT, FAR_GATE, NODE, PEER, SIDE_GATE, TARGET, UP, addr},
};

/// The client outside.
pub(crate) const WHO: End = (CLIENT, 40_000);
/// The server in the task here, as it is on the ingress network.
pub(crate) const SERVER: End = (SIDE_GATE, TARGET);

/// The middle of the client's connection to a published port of this node.
pub(crate) fn open(port: u16) -> Frame {
    tcp(WHO, (NODE, port))
}

/// The beginning of it.
pub(crate) fn begin(port: u16) -> Frame {
    syn(WHO, (NODE, port))
}

/// The client's datagram to a published port of this node.
pub(crate) fn datagram(port: u16) -> Frame {
    udp(WHO, (NODE, port))
}

/// Into the task here, as it sees it.
pub(crate) fn near(frame: Frame) -> Frame {
    frame.macs(task(SIDE_GATE), gateway())
}

/// As it is in the tunnel to the task on the other node.
pub(crate) fn far(frame: Frame) -> Frame {
    frame.macs(task(FAR_GATE), node(NODE))
}

/// The key of packets from one end to another.
pub(crate) fn key(scope: u32, protocol: u8, from: End, to: End) -> FlowKey {
    FlowKey {
        scope,
        src: addr(from.0),
        dst: addr(to.0),
        sport_be: from.1.to_be(),
        dport_be: to.1.to_be(),
        protocol,
        pad: [0; 3],
    }
}

/// Where a remembered flow's packets go.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    Uplink(u32),
    Node(Ipv4Addr),
    /// Or straight to the client.
    Direct(Ipv4Addr),
    Link(u32, Mac),
    Loopback,
}

/// Rewriting to a packet from one end to another, and sending it on.
pub(crate) fn nat(from: End, to: End, way: Way) -> Nat {
    let mut nat = Nat {
        src: addr(from.0),
        dst: addr(to.0),
        sport_be: from.1.to_be(),
        dport_be: to.1.to_be(),
        ..Nat::default()
    };
    match way {
        Way::Uplink(ifindex) => (nat.kind, nat.ifindex) = (NAT_UPLINK, ifindex),
        Way::Node(peer) => (nat.kind, nat.peer) = (NAT_PEER, addr(peer)),
        Way::Direct(peer) => (nat.kind, nat.peer) = (NAT_DIRECT, addr(peer)),
        Way::Link(ifindex, mac) => (nat.kind, nat.ifindex, nat.mac) = (NAT_LINK, ifindex, mac),
        Way::Loopback => nat.kind = NAT_LOOPBACK,
    }
    nat
}

/// What is remembered of a client that asked this node.
pub(crate) fn outside(protocol: u8, port: u16) -> (FlowKey, Nat) {
    let way = Way::Uplink(UP);
    (
        key(SCOPE_TASK, protocol, SERVER, WHO),
        nat((NODE, port), WHO, way),
    )
}

/// What is remembered of one that asked the other.
pub(crate) fn through(protocol: u8) -> (FlowKey, Nat) {
    let way = Way::Node(PEER);
    (
        key(SCOPE_TASK, protocol, SERVER, WHO),
        nat((PEER, 81), WHO, way),
    )
}

/// After a last segment.
pub(crate) fn closed((key, nat): (FlowKey, Nat)) -> (FlowKey, Nat) {
    (key, Nat { closed: 1, ..nat })
}

/// Silent for so many seconds.
pub(crate) fn silent(seen_s: u32, (key, nat): (FlowKey, Nat)) -> (FlowKey, Nat) {
    (key, Nat { seen_s, ..nat })
}

/// The key of the client's packets to a published port of this node.
pub(crate) fn published(protocol: u8, port: u16) -> FlowKey {
    key(SCOPE_PUBLISHED, protocol, WHO, (NODE, port))
}
