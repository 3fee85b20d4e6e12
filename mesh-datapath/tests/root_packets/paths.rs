//! What routers between two nodes say about tunnel packets, what is remembered of it, and what that does to packets.

use std::net::Ipv4Addr;

use etherparse::{Icmpv4Type, icmpv4::DestUnreachableHeader as Unreachable};
use mesh_common::{Place, wire};

use crate::{errors, frames::*, row::check_in, row::row, six::six, sizes, world::*};

const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// UDP port of the tunnels.
const TUNNELS: u16 = 4789;
/// A node that this one's peer is not.
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);

/// A tunnel packet of `length` bytes from its IP header on, as far as an error quotes it.
fn tunnel(from: Ipv4Addr, to: Ipv4Addr, port: u16, length: usize) -> Frame {
    let payload = vec![0; length - wire::IPV4_LEN - wire::UDP_LEN];
    udp((from, 50_000), (to, port)).payload(&payload)
}

fn says(kind: Icmpv4Type, about: &Frame) -> Frame {
    icmp(ROUTER, NODE, kind).quote(about, about)
}

/// A router takes packets of `mtu` bytes only.
fn too_big(mtu: u16, about: &Frame) -> Frame {
    let next_hop_mtu = mtu;
    let kind = Unreachable::FragmentationNeeded { next_hop_mtu };
    says(Icmpv4Type::DestinationUnreachable(kind), about)
}

#[test]
fn what_routers_say_is_remembered_of_tunnel_packets_alone() {
    let sent = |length| tunnel(NODE, PEER, TUNNELS, length);
    let unreachable = Icmpv4Type::DestinationUnreachable(Unreachable::Port);
    // What is known before, with the seconds for which it is; the message; what is known then.
    type Case = (&'static str, Option<(u32, i32)>, Frame, Option<u32>);
    let cases: [Case; 15] = [
        (
            "smaller packets",
            None,
            too_big(1400, &sent(1500)),
            Some(1400),
        ),
        (
            "one byte less",
            None,
            too_big(1499, &sent(1500)),
            Some(1499),
        ),
        (
            "less than every link",
            None,
            too_big(576, &sent(1500)),
            Some(1280),
        ),
        ("no size", None, too_big(0, &sent(1500)), Some(1280)),
        ("as large a size", None, too_big(1500, &sent(1500)), None),
        (
            "a packet that was small",
            None,
            too_big(0, &sent(1280)),
            None,
        ),
        (
            "more than is known",
            Some((1400, 60)),
            too_big(1450, &sent(1500)),
            Some(1400),
        ),
        (
            "less than is known",
            Some((1400, 60)),
            too_big(1350, &sent(1400)),
            Some(1350),
        ),
        (
            "after it was forgotten",
            Some((1400, 0)),
            too_big(1450, &sent(1500)),
            Some(1450),
        ),
        ("another error", None, says(unreachable, &sent(1500)), None),
        (
            "to another port",
            None,
            too_big(1400, &tunnel(NODE, PEER, 53, 1500)),
            None,
        ),
        (
            "to nobody we know",
            None,
            too_big(1400, &tunnel(NODE, OTHER, TUNNELS, 1500)),
            None,
        ),
        (
            "from another node",
            None,
            too_big(1400, &tunnel(OTHER, PEER, TUNNELS, 1500)),
            None,
        ),
        (
            "a segment",
            None,
            too_big(
                1400,
                &tcp((NODE, 50_000), (PEER, TUNNELS)).payload(&[0; 1460]),
            ),
            None,
        ),
        (
            "a fragment",
            None,
            too_big(1400, &sent(1500).fragment(90, true)),
            None,
        ),
    ];
    let mut world = World::new(Side::Node);
    for (what, before, message, after) in cases {
        world.narrow(PEER, before);
        // The stack hears it as well.
        check_in(&mut world, Place::UplinkTc, &[row(what, message)]);
        let known = world.inside(|datapath| datapath.narrow_paths());
        let known = known.expect("PATHS").into_iter();
        let known: Vec<_> = known
            .inspect(|path| assert!(path.left.as_secs() <= 600, "{what}: {path:?}"))
            .map(|path| (path.peer, path.mtu))
            .collect();
        let after: Vec<_> = after.into_iter().map(|mtu| (PEER, mtu)).collect();
        assert_eq!(known, after, "{what}");
    }
}

/// What is encrypted goes between ports that each node has chosen.
#[test]
fn what_routers_say_is_remembered_of_encrypted_packets() {
    for cipher in [None, Some(ELSEWHERE)] {
        let mut world = World::new(Side::Node);
        world.change(|desired| desired.cipher = cipher);
        let encrypted = tunnel(NODE, PEER, 51_820, 1500);
        let message = row("smaller packets", too_big(1400, &encrypted));
        check_in(&mut world, Place::UplinkTc, &[message]);
        let known = world.inside(|datapath| datapath.narrow_paths());
        let known = known.expect("PATHS").iter().map(|path| path.mtu).max();
        assert_eq!(known, cipher.map(|_| 1400));
    }
}

/// The middle of a connection is no larger than its ends have announced: what is lost on the way is answered.
#[test]
fn packets_that_routers_do_not_take_are_answered() {
    let places = [
        Place::UplinkXdp,
        Place::UplinkTc,
        Place::Overlay,
        Place::Gateway,
    ];
    for (known, mtu) in [
        (Some((1400, 60)), 1350),
        (Some((1280, 60)), 1230),
        (Some((1400, 0)), errors::MTU),
    ] {
        let mut world = World::new(Side::Node);
        world.narrow(PEER, known);
        for place in places {
            check_in(&mut world, place, &errors::sizes(place, false, mtu));
            // IPv6 sends no smaller ones, whatever a router says. XDP leaves these to tc.
            let least = if place == Place::UplinkXdp { 0 } else { 1280 };
            let rows = errors::sizes(place, true, mtu.max(least));
            check_in(&mut world, place, &six(rows));
            for rows in sizes::all(place, mtu) {
                check_in(&mut world, place, &rows);
            }
        }
    }
}
