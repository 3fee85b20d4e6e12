//! Uplinks that are VLANs. Not every kernel has the module `8021q`; the one of `cargo xtask vm-test` has.

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::{
    LAN_V6, Ns,
    pair::{CLIENT, N1, N2, Pair},
    six,
};
use mesh_datapath::XdpMode;

const DEVICE: &str = "eth0.7";
/// The first node on its VLAN, where that is not its only uplink, and a client there.
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 88, 1);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 168, 88, 100);
const SECOND_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 4, 0, 0, 0, 0);

/// Gives a namespace a VLAN on its wire, with addresses.
fn add_vlan(ns: &Ns, address: Ipv4Addr, prefix: Ipv6Addr) {
    ns.sh(&format!(
        "ip link add link eth0 name {DEVICE} type vlan id 7"
    ));
    ns.sh(&format!("ip addr add {address}/24 dev {DEVICE}"));
    let address = six(prefix, address);
    ns.sh(&format!("ip addr add {address}/64 dev {DEVICE} nodad"));
    ns.sh(&format!("ip link set {DEVICE} up"));
}

/// Moves a namespace from its wire to a VLAN on it.
fn tag(ns: &Ns, address: Ipv4Addr, prefix: Ipv6Addr) {
    ns.sh("ip addr flush dev eth0");
    add_vlan(ns, address, prefix);
}

/// A client is answered by both tasks, each of which sees its address.
fn answers(pair: &Pair, client: &Ns, from: IpAddr, to: IpAddr) {
    let what = format!("{from} asks {to}");
    for seen in pair.both_answer((&what, client, to, 80), 20) {
        assert_eq!(seen.client.ip(), from, "{what}");
    }
    let cases = [(what.as_str(), client, to, 80)];
    pair.large(&cases);
    pair.datagrams(&cases);
}

/// Published ports of both nodes.
fn all_answer(pair: &Pair) {
    for node in [N1, N2] {
        answers(pair, &pair.client, CLIENT.into(), node.into());
        let [from, to] = [CLIENT, node].map(|address| six(LAN_V6, address).into());
        answers(pair, &pair.client, from, to);
    }
}

/// All that nodes and the client say one another is tagged.
#[test]
#[ignore = "`cargo xtask vm-test root_vlans` runs it: it needs the kernel module 8021q"]
fn the_only_uplink_is_a_vlan() {
    let mut pair = Pair::serving(XdpMode::Auto);
    tag(&pair.client, CLIENT, LAN_V6);
    for node in &mut pair.nodes {
        tag(&node.ns, node.address, LAN_V6);
        node.desired.uplinks = [node.ns.index(DEVICE)].into();
        node.apply();
    }
    all_answer(&pair);
    let own = N1.into();
    pair.both_answer(("a task asks its node", &pair.near.ns, own, 80), 10);
    pair.isolation(IpAddr::from);
}

/// The first node has a VLAN on its uplink that is an uplink as well: both programs on the wire meet frames of both.
#[test]
#[ignore = "`cargo xtask vm-test root_vlans` runs it: it needs the kernel module 8021q"]
fn a_vlan_beside_its_parent() {
    let mut pair = Pair::serving(XdpMode::Native);
    let client = Ns::new("neighbour");
    pair.lan.join(&client, "q-client", NEIGHBOUR, false);
    tag(&client, NEIGHBOUR, SECOND_V6);
    let [from, to] = [NEIGHBOUR, SECOND].map(|address| six(SECOND_V6, address));
    let node = &mut pair.nodes[0];
    add_vlan(&node.ns, SECOND, SECOND_V6);
    node.desired.uplinks.insert(node.ns.index(DEVICE));
    let own = &mut node.desired.own_addresses;
    own.extend([IpAddr::V4(SECOND), to.into()]);
    // A VLAN's device has no XDP.
    assert_eq!(node.apply().attached, 1);

    all_answer(&pair);
    answers(&pair, &client, NEIGHBOUR.into(), SECOND.into());
    answers(&pair, &client, from.into(), to.into());
}
