//! More own addresses and tasks' namespaces than the tables of these have entries: what comes last is left out, counted,
//! and gets in once there is room; nothing else breaks. Ports of SCTP are in `root_sctp`; so many links take the kernel
//! minutes, which keep all others of the machine waiting: see the tests of `table.rs`.

mod common;

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
};

use common::{
    INGRESS, Node, OVERLAY_V6, PATIENCE, Task,
    cgroup::Cgroup,
    pair::{N1, OTHER, Pair, TARGET, VIP, VNI},
    service,
    talk::call,
};
use mesh_datapath::{FullTable, Subnet, XdpMode, namespace_cookie};

/// Entries of the tables.
const OWN: usize = 256;
const NAMESPACES: usize = 16_384;
/// More of each than there is room for.
const MORE: usize = 5;

/// Addresses that nothing else has.
fn filler(number: usize) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 200, 0, 0)) + number as u32).into()
}

fn left_out(node: &Node) -> Vec<(&'static str, usize)> {
    let room = node.datapath.as_ref().expect("open").room();
    let of = |full: &FullTable| (full.table, full.left_out);
    room.full.iter().map(of).collect()
}

fn all_works(pair: &Pair) {
    pair.both_answer(("client", &pair.client, N1.into(), 80), 20);
    pair.both_answer(("virtual address", &pair.far.ns, VIP.into(), TARGET), 20);
    pair.isolation(IpAddr::from);
}

#[test]
fn own_addresses() {
    const LATE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 77);
    let mut pair = Pair::serving(XdpMode::Off);
    let node = &mut pair.nodes[0];
    node.ns.sh(&format!("ip addr add {LATE}/24 dev eth0"));
    let own = node.desired.own_addresses.clone();
    let fillers = (0..OWN + MORE - own.len()).map(filler);
    node.desired.own_addresses.extend(fillers);
    node.apply();
    assert_eq!(left_out(node), [("own", MORE)]);
    assert!(node.apply().is_empty(), "nothing takes another's place");
    node.desired.own_addresses.insert(LATE.into());
    node.apply();
    assert_eq!(left_out(node), [("own", MORE + 1)]);
    all_works(&pair);
    let address = SocketAddr::new(LATE.into(), 80);
    let connected = pair
        .client
        .run(|| TcpStream::connect_timeout(&address, PATIENCE));
    let refused = connected.expect_err("an address without an entry");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    let node = &mut pair.nodes[0];
    node.desired.own_addresses = own;
    node.desired.own_addresses.insert(LATE.into());
    node.apply();
    assert_eq!(left_out(node), []);
    pair.both_answer(("late", &pair.client, LATE.into(), 80), 20);
    all_works(&pair);
}

/// Packets translated for the virtual address of a network.
fn translated(node: &Node, vni: u32) -> u64 {
    let datapath = node.datapath.as_ref().expect("open");
    let services = datapath.snapshot().expect("counters").services;
    let vip = services
        .iter()
        .find(|s| s.vni == Some(vni) && s.address == Some(VIP.into()));
    let backends = &vip.expect("the address").backends;
    backends.iter().map(|backend| backend.packets).sum()
}

#[test]
fn namespaces() {
    let cgroup = Cgroup::enter();
    let directory = Some(cgroup.directory.clone());
    let mut pair = Pair::with(XdpMode::Off, |config| config.cgroup.clone_from(&directory));
    pair.serve();
    let subnet = |vni| {
        let (four, six) = (Ipv4Addr::new(10, 0, 16, 0).into(), OVERLAY_V6.into());
        [(four, 20), (six, 96)].map(|(first, prefix)| Subnet { first, prefix, vni })
    };
    let cookie = |task: &Task| task.ns.run(namespace_cookie).expect("a cookie");
    let (late, there) = (cookie(&pair.far), cookie(&pair.stranger));
    let own = service(83, TARGET, (OTHER, VIP), &[&pair.stranger]);
    let node = &mut pair.nodes[1];
    node.desired.services.insert("own".into(), own.into());
    let namespaces = &mut node.desired.namespaces;
    namespaces.insert(there, subnet(OTHER).into());
    node.apply();
    // An address each, of networks that nobody is on. No cookie is as large.
    for number in 0..(NAMESPACES + MORE - 2) {
        let first = filler(number);
        let subnet = Subnet {
            first,
            prefix: 32,
            vni: INGRESS,
        };
        let cookie = u64::MAX - number as u64;
        node.desired.namespaces.insert(cookie, [subnet].into());
    }
    node.apply();
    assert_eq!(left_out(node), [("namespaces", MORE)]);
    assert!(node.apply().is_empty(), "nothing takes another's place");
    node.desired.namespaces.insert(late, subnet(VNI).into());
    node.apply();
    assert_eq!(left_out(node), [("namespaces", MORE + 2)]);
    // Packet by packet, as without a program at the socket; the other one's sockets are as they were.
    let before = translated(&pair.nodes[1], VNI);
    all_works(&pair);
    assert!(translated(&pair.nodes[1], VNI) > before);
    let stranger = || {
        let seen = pair.stranger.ns.run(|| call(VIP, TARGET, b"x"));
        assert_eq!(seen.map(|seen| seen.name).as_deref(), Ok("stranger"));
        assert_eq!(translated(&pair.nodes[1], OTHER), 0);
    };
    stranger();

    let node = &mut pair.nodes[1];
    let is_task = |cookie: &u64| [late, there].contains(cookie);
    node.desired.namespaces.retain(|cookie, _| is_task(cookie));
    node.apply();
    assert_eq!(left_out(node), []);
    let before = translated(&pair.nodes[1], VNI);
    all_works(&pair);
    assert_eq!(translated(&pair.nodes[1], VNI), before);
}
