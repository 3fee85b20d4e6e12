//! Wires of other sizes than 1,500 bytes, and of two sizes: TCP between ends that know of neither, and datagrams.

mod common;

use std::net::{IpAddr, Ipv4Addr};

use common::{
    LAN_V6, OVERLAY_V6,
    pair::{N1, N2, Pair, TARGET, VIP, VIP_FAR},
    six,
};
use mesh_datapath::XdpMode;

/// Sizes of the nodes' wires. The tasks' links have 1,450 bytes; the client's wire is as the smaller of the nodes'.
const SIZES: [[u32; 2]; 4] = [[1500, 1400], [1400, 1500], [1280, 1280], [9000, 9000]];

/// A veth that runs XDP takes no more than a page.
const WITH_XDP: u32 = 3000;

fn check(xdp: XdpMode) {
    let pair = Pair::serving(xdp);
    let (client, near) = (&pair.client, &pair.near.ns);
    let v4 = [N1, N2, VIP, pair.far.overlay].map(IpAddr::V4);
    let over = [VIP, pair.far.overlay].map(|address| six(OVERLAY_V6, address).into());
    let v6 = [
        six(LAN_V6, N1).into(),
        six(LAN_V6, N2).into(),
        over[0],
        over[1],
    ];
    for mut sizes in SIZES {
        if xdp == XdpMode::Native {
            sizes = sizes.map(|mtu| mtu.min(WITH_XDP));
        }
        for (node, mtu) in sizes.into_iter().enumerate() {
            pair.resize(node, mtu);
        }
        let least = sizes[0].min(sizes[1]);
        client.sh(&format!("ip link set eth0 mtu {}", least.min(1500)));
        for [n1, n2, vip, far] in [v4, v6] {
            pair.large(&[
                (&format!("{sizes:?}: client through n1"), client, n1, 81),
                (&format!("{sizes:?}: client to n1"), client, n1, 80),
                (&format!("{sizes:?}: client to n2"), client, n2, 80),
                (&format!("{sizes:?}: task to task"), near, far, TARGET),
                (
                    &format!("{sizes:?}: task to virtual address"),
                    near,
                    vip,
                    TARGET,
                ),
                (&format!("{sizes:?}: task to its node"), near, n1, 81),
            ]);
        }
    }
    for node in &pair.nodes {
        let counters = node.counters();
        // What comes by a wire is answered only if it is too big.
        for word in ["too-big", "uplink-tc answered"] {
            assert!(!counters.contains(word), "{counters}");
        }
    }
}

/// Datagrams, whose senders announce nothing, by nodes of which one has the smaller wire.
fn datagrams(xdp: XdpMode) {
    let mut pair = Pair::serving(xdp);
    pair.resize(1, 1400);
    pair.tell(1, 1400);
    let (client, near, n1) = (&pair.client, &pair.near.ns, &pair.nodes[0].ns);
    let over = |address| IpAddr::V6(six(OVERLAY_V6, address));
    pair.large_datagrams(&[
        ("client through n1", client, N1.into(), 81),
        (
            "client through n1, IPv6",
            client,
            six(LAN_V6, N1).into(),
            81,
        ),
        ("task to task", near, pair.far.overlay.into(), TARGET),
        ("task to task, IPv6", near, over(pair.far.overlay), TARGET),
        ("task to virtual address", near, VIP_FAR.into(), TARGET),
        ("task to virtual address, IPv6", near, over(VIP_FAR), TARGET),
        ("task to its node", near, N1.into(), 81),
        ("process of n1", n1, Ipv4Addr::LOCALHOST.into(), 81),
    ]);
}

#[test]
fn datagrams_with_xdp() {
    datagrams(XdpMode::Native);
}

#[test]
fn datagrams_without_xdp() {
    datagrams(XdpMode::Off);
}

#[test]
fn sizes_with_xdp() {
    check(XdpMode::Native);
}

#[test]
fn sizes_without_xdp() {
    check(XdpMode::Off);
}
