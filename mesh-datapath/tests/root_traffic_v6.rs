//! Real traffic over IPv6: two nodes, tasks and a client in namespaces, through programs attached as in production.

mod common;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use common::{
    INGRESS_V6, LAN_V6, OVERLAY_V6,
    pair::{N1, N2, Pair, TARGET, VIP, VIP_FAR},
    six,
};
use mesh_datapath::XdpMode;

const LOCALHOST: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn run(xdp: XdpMode) {
    let mut pair = Pair::serving(xdp);
    let (client, near, n1) = (&pair.client, &pair.near.ns, &pair.nodes[0].ns);
    let mut before = BTreeSet::new();
    for to in [N1, N2].map(node) {
        for seen in pair.both_answer(("client to node", client, to, 80), 60) {
            assert_eq!(seen.client.ip(), seen.local.ip());
            // A port that led to the same task by another node may be a substitute.
            assert!(
                seen.client == seen.local || before.contains(&seen.local.port()),
                "the task sees the client's own address and port: {seen:?}"
            );
            before.insert(seen.local.port());
        }
    }
    let far = over(pair.far.overlay);
    pair.large(&[
        ("client through n1", client, node(N1), 81),
        ("client to n2", client, node(N2), 81),
        ("task to task", near, far, TARGET),
        ("task to virtual address", near, over(VIP_FAR), TARGET),
        ("process of n1", n1, LOCALHOST, 81),
    ]);
    let datagrams = [
        ("client through n1", client, node(N1), 81),
        ("client to n1", client, node(N1), 80),
        ("client to n2", client, node(N2), 80),
        ("task to task", near, far, TARGET),
        ("task to virtual address", near, over(VIP), TARGET),
        ("process of n1", n1, LOCALHOST, 80),
    ];
    pair.datagrams(&datagrams);
    pair.large_datagrams(&datagrams);
    // Linux learns no size of the way to its own addresses, so that larger ones are only answered.
    pair.datagrams(&[("process of n1 by the tunnel", n1, node(N1), 81)]);
    own_processes(&pair);
    // To itself as well: `near` is one of the two.
    pair.both_answer(("task to its own node", near, node(N1), 80), 20);
    virtual_addresses(&pair);
    pair.isolation(over);
    pair.restart(node(N1));
}

fn own_processes(pair: &Pair) {
    for (own, at) in pair.nodes.iter().zip([N1, N2]) {
        for to in [LOCALHOST, node(at)] {
            for seen in pair.both_answer(("own process", &own.ns, to, 80), 20) {
                assert_eq!(seen.client.ip(), six(INGRESS_V6, at));
            }
        }
    }
    let ns = &pair.nodes[0].ns;
    pair.both_answer(("a node's process to another node", ns, node(N2), 80), 20);
}

fn virtual_addresses(pair: &Pair) {
    for task in [&pair.near, &pair.far] {
        for seen in pair.both_answer(("virtual address", &task.ns, over(VIP), TARGET), 20) {
            let expected = if seen.name == task.name {
                VIP
            } else {
                task.overlay
            };
            assert_eq!(seen.client.ip(), over(expected));
        }
        task.ns
            .sh(&format!("busybox ping6 -c 1 -W 5 {}", over(VIP)));
    }
    for to in [pair.far.overlay, VIP].map(over) {
        let near = &pair.near.ns;
        near.sh(&format!("busybox ping6 -c 1 -W 5 {to}"));
        // More than one packet holds.
        near.sh(&format!("busybox ping6 -c 1 -W 5 -s 4000 {to}"));
    }
}

/// A node's address on the LAN.
fn node(address: Ipv4Addr) -> IpAddr {
    six(LAN_V6, address).into()
}

/// An address on an overlay network.
fn over(address: Ipv4Addr) -> IpAddr {
    six(OVERLAY_V6, address).into()
}

#[test]
fn with_xdp() {
    run(XdpMode::Native);
}

#[test]
fn without_xdp() {
    run(XdpMode::Off);
}
