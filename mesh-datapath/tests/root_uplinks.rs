//! Nodes with several uplinks, uplinks that come later, and programs of others on them.

mod common;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use common::{
    Lan, Ns, chain,
    pair::{CLIENT, N1, Pair},
};
use mesh_datapath::{Config, Datapath, XdpMode};

/// The first node's address on the second LAN.
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 88, 1);
/// A client on the second LAN alone.
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 168, 88, 100);

/// A node gets a second LAN while it runs. Published ports answer there by the way that the question came.
fn second_lan(xdp: XdpMode) {
    let mut pair = Pair::serving(xdp);
    let lan = Lan::new();
    let client = Ns::new("neighbour");
    lan.join(&client, "q-client", NEIGHBOUR, false);
    let node = &mut pair.nodes[0];
    lan.join_by(&node.ns, "eth1", "q-n1", SECOND, xdp == XdpMode::Native);
    node.desired.uplinks.insert(node.ns.index("eth1"));
    node.desired.own_addresses.insert(SECOND.into());
    let report = node.apply();
    assert_eq!(report.attached, if xdp == XdpMode::Native { 2 } else { 1 });

    let (first, second) = (IpAddr::from(N1), IpAddr::from(SECOND));
    for (ns, from, to) in [(&client, NEIGHBOUR, second), (&pair.client, CLIENT, first)] {
        for seen in pair.both_answer(("client", ns, to, 80), 40) {
            assert_eq!(seen.client, seen.local);
            assert_eq!(seen.client.ip(), from);
        }
        let cases = [("client, far", ns, to, 81), ("client, near", ns, to, 80)];
        pair.large(&cases);
        pair.datagrams(&cases);
    }
    let near = &pair.near.ns;
    pair.both_answer(("task to the second address", near, second, 80), 20);

    // And away again, link and all: nothing else is touched.
    let node = &mut pair.nodes[0];
    node.desired.uplinks.remove(&node.ns.index("eth1"));
    node.desired.own_addresses.remove(&second);
    node.ns.sh("ip link del eth1");
    assert_eq!(node.apply().attached, 0);
    pair.both_answer(("client", &pair.client, first, 80), 40);
}

#[test]
fn a_second_lan_with_xdp() {
    second_lan(XdpMode::Native);
}

#[test]
fn a_second_lan_without_xdp() {
    second_lan(XdpMode::Off);
}

/// XDP takes one program an interface. Ours does not push away one that is there, and says who is in the way.
#[test]
fn an_uplink_with_the_xdp_program_of_another() {
    let pair = Pair::new(XdpMode::Native);
    let node = &pair.nodes[0];
    let dir = node.config.pin_dir.to_string_lossy();
    let mut config = Config::new(format!("{dir}-other"));
    config.xdp = XdpMode::Native;
    let refused = node.ns.run(|| {
        let mut other = Datapath::open(&config).unwrap_or_else(|e| panic!("{}", chain(&e)));
        let refused = other.apply(&node.desired);
        // Only the pins: the tunnel device is the other's as well.
        pins_removed(&config.pin_dir);
        refused
    });
    let error = chain(&refused.expect_err("a second XDP program"));
    assert!(
        error.contains("interface eth0 has another XDP program"),
        "{error}"
    );
}

fn pins_removed(dir: &Path) {
    for entry in fs::read_dir(dir).expect("a folder").flatten() {
        if entry.path().is_dir() {
            pins_removed(&entry.path());
        } else {
            fs::remove_file(entry.path()).expect("unpin");
        }
    }
    fs::remove_dir(dir).expect("remove the folder");
}
