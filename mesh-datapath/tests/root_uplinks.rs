//! Nodes with several uplinks, uplinks that come later, and programs of others on them.

mod common;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpStream},
    process::Command,
    time::Instant,
};

use aya::programs::{Xdp, loaded_programs};
use aya_obj::programs::XdpAttachType;
use common::{
    LAN_V6, Lan, Node, Ns, OVERLAY_V6, PATIENCE, both, chain,
    pair::{CLIENT, N1, N2, Pair, TARGET},
    six,
};
use mesh_datapath::{Config, Datapath, Desired, Error, Report, UplinkMode, XdpMode};

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
    let own = both(LAN_V6, SECOND);
    node.desired.own_addresses.extend(own);
    // Both LANs have one prefix of IPv6.
    let neighbour = six(LAN_V6, NEIGHBOUR);
    node.ns.sh(&format!("ip route add {neighbour} dev eth1"));
    let report = node.apply();
    assert_eq!(report.attached, if xdp == XdpMode::Native { 2 } else { 1 });

    for (ns, from, to) in [(&client, NEIGHBOUR, SECOND), (&pair.client, CLIENT, N1)] {
        for (from, to) in both(LAN_V6, from).into_iter().zip(both(LAN_V6, to)) {
            for seen in pair.both_answer(("client", ns, to, 80), 40) {
                assert_eq!(seen.client, seen.local);
                assert_eq!(seen.client.ip(), from);
            }
            let cases = [("client, far", ns, to, 81), ("client, near", ns, to, 80)];
            pair.large(&cases);
            pair.datagrams(&cases);
        }
    }
    let near = &pair.near.ns;
    for second in own {
        pair.both_answer(("task to the second address", near, second, 80), 20);
    }

    // And away again, link and all: nothing else is touched.
    let node = &mut pair.nodes[0];
    node.desired.uplinks.remove(&node.ns.index("eth1"));
    node.desired.own_addresses.retain(|one| !own.contains(one));
    node.ns.sh("ip link del eth1");
    assert_eq!(node.apply().attached, 0);
    for first in both(LAN_V6, N1) {
        pair.both_answer(("client", &pair.client, first, 80), 40);
    }
}

#[test]
fn a_second_lan_with_xdp() {
    second_lan(XdpMode::Native);
}

#[test]
fn a_second_lan_without_xdp() {
    second_lan(XdpMode::Off);
}

/// An open connection to a server that sends back what it is sent.
struct Open {
    what: &'static str,
    stream: BufReader<TcpStream>,
}

impl Open {
    fn new(what: &'static str, ns: &Ns, to: IpAddr, port: u16) -> Self {
        let stream = ns.run(|| TcpStream::connect_timeout(&(to, port).into(), PATIENCE));
        let stream = stream.unwrap_or_else(|error| panic!("{what}: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let mut stream = BufReader::new(stream);
        let mut greeting = String::new();
        stream.read_line(&mut greeting).expect(what);
        Self { what, stream }
    }

    fn send(&mut self, text: &[u8]) {
        self.stream.get_mut().write_all(text).expect(self.what);
    }

    fn receive(&mut self, text: &[u8]) {
        let mut back = vec![0; text.len()];
        let read = self.stream.read_exact(&mut back);
        read.unwrap_or_else(|error| panic!("{}: {error}", self.what));
        assert_eq!(back, text, "{}", self.what);
    }
}

/// Uplinks go down and come up again, first the asked node's and then that of the node that answers. They stay wanted
/// meanwhile, and keep their programs, so that from its first packet on nothing is left to the kernel, which would reset
/// connections that it does not know. Linux takes IPv6 addresses away with the link; the packet path goes on as if they
/// were there.
fn down_and_up(xdp: XdpMode) {
    let mut pair = Pair::serving(xdp);
    let (client, near) = (&pair.client, &pair.near.ns);
    let mut open = Vec::new();
    for (to, task) in both(LAN_V6, N1)
        .into_iter()
        .zip(both(OVERLAY_V6, pair.far.overlay))
    {
        // Some to each of the two tasks.
        for _ in 0..8 {
            open.push(Open::new("client, either task", client, to, 80));
        }
        open.push(Open::new("client, through the asked node", client, to, 81));
        open.push(Open::new("task to task", near, task, TARGET));
    }
    for (place, address) in [(0, N1), (1, N2)] {
        let before = format!("before {address} went down").into_bytes();
        for one in &mut open {
            one.send(&before);
            one.receive(&before);
        }
        let node = &mut pair.nodes[place];
        node.ns.sh("ip link set eth0 down");
        assert!(node.apply().is_empty(), "programs stay");
        let meanwhile = format!("while {address} was down").into_bytes();
        for one in &mut open {
            one.send(&meanwhile);
        }
        node.ns.sh("ip link set eth0 up");
        let address = six(LAN_V6, address);
        node.ns
            .sh(&format!("ip addr add {address}/64 dev eth0 nodad"));
        for one in &mut open {
            one.receive(&meanwhile);
        }
        assert!(node.apply().is_empty(), "programs stay");
    }
    for to in [N1, N2].map(|node| both(LAN_V6, node)).concat() {
        pair.both_answer(("client, afterwards", &pair.client, to, 80), 20);
    }
    for node in &mut pair.nodes {
        assert!(node.apply().is_empty());
    }
}

#[test]
fn open_connections_outlive_an_uplink_that_is_down_for_a_while_with_xdp() {
    down_and_up(XdpMode::Native);
}

#[test]
fn open_connections_outlive_an_uplink_that_is_down_for_a_while_without_xdp() {
    down_and_up(XdpMode::Off);
}

/// Another data plane in the namespace of a node, opened and applied there. It has pins of its own.
fn other(node: &Node, desired: &Desired) -> (Config, Result<Report, Error>) {
    let dir = node.config.pin_dir.to_string_lossy();
    let mut config = Config::new(format!("{dir}-other"));
    config.xdp = XdpMode::Native;
    let applied = node.ns.run(|| {
        let mut other = Datapath::open(&config).unwrap_or_else(|e| panic!("{}", chain(&e)));
        other.apply(desired)
    });
    (config, applied)
}

/// XDP takes one program an interface. Ours does not push away one that is there, and says who is in the way.
#[test]
fn an_uplink_with_the_xdp_program_of_another() {
    let pair = Pair::new(XdpMode::Native);
    let node = &pair.nodes[0];
    let mut desired = node.desired.clone();
    // The tunnel device would be in the way as well.
    desired.vtep = None;
    let (config, refused) = other(node, &desired);
    node.ns.run(|| Datapath::remove(&config)).expect("removed");
    let error = chain(&refused.expect_err("a second XDP program"));
    assert!(
        error.contains("interface eth0 has another XDP program"),
        "{error}"
    );
}

/// One data plane a network namespace: a second one is refused, and takes nothing of the first one's with it.
#[test]
fn a_second_data_plane_in_a_namespace_is_refused() {
    let mut pair = Pair::serving(XdpMode::Off);
    let node = &pair.nodes[0];
    let (config, refused) = other(node, &node.desired);
    let error = chain(&refused.expect_err("a second data plane"));
    let owner = format!(
        "mesh-vxlan is another mesh-agent's (mesh {})",
        node.config.pin_dir.display()
    );
    assert!(error.contains(&owner), "{error}");
    node.ns.run(|| Datapath::remove(&config)).expect("removed");
    assert!(!config.pin_dir.exists());
    assert!(pair.nodes[0].apply().is_empty());
    pair.both_answer(("client", &pair.client, N1.into(), 80), 20);

    // What an earlier version made says nothing of an owner, and is taken over.
    let node = &mut pair.nodes[0];
    node.ns.run(|| {
        let args = ["link", "set", "mesh-vxlan", "alias", ""];
        let done = Command::new("ip").args(args).status();
        assert!(done.expect("ip").success());
    });
    assert!(!node.ns.sh("ip link show mesh-vxlan").contains("alias"));
    assert!(node.apply().is_empty());
    let shown = node.ns.sh("ip link show mesh-vxlan");
    let alias = format!("alias mesh {}", node.config.pin_dir.display());
    assert!(shown.contains(&alias), "{shown}");

    // An interface that is no tunnel device, though it has the name.
    drop(node.datapath.take());
    let (config, ns) = (&node.config, &node.ns);
    ns.run(|| Datapath::remove(config)).expect("removed");
    ns.sh("ip link add mesh-vxlan type bridge");
    let refused = ns.run(|| {
        let mut datapath = Datapath::open(config).unwrap_or_else(|e| panic!("{}", chain(&e)));
        datapath.apply(&node.desired)
    });
    let error = chain(&refused.expect_err("a bridge"));
    assert!(error.contains("is no tunnel device"), "{error}");
    ns.run(|| Datapath::remove(config)).expect("removed");
    ns.index("mesh-vxlan");
}

/// An uplink that took no XDP program is tried again when what was in the way is gone. The loopback interface is the only one
/// in a namespace that is not of a virtual kind; it never takes native XDP, but says so only when nothing else is in the way.
#[test]
fn an_uplink_without_xdp_is_tried_again_when_it_has_changed() {
    const LO: u32 = 1;
    let lan = Lan::new();
    let mut node = Node::new(&lan, "n1", N1, XdpMode::Auto);
    node.apply();
    let program = loaded_programs()
        .flatten()
        .find(|program| program.name_as_str() == Some("uplink_xdp"));
    let program = program.expect("a program to be in the way");
    let mut other = Xdp::from_program_info(program, "other".into(), XdpAttachType::Interface)
        .expect("an XDP program");
    let block = |node: &Node, other: &mut Xdp| {
        node.ns.run(|| {
            let id = other.attach_to_if_index(LO, aya::programs::XdpMode::Skb);
            other.take_link(id.expect("attached")).expect("a link")
        })
    };
    let refusal = |node: &mut Node| {
        node.apply();
        let datapath = node.datapath.as_ref().expect("open");
        let uplinks = node.ns.run(|| datapath.uplinks()).expect("uplinks");
        let lo = uplinks.into_iter().find(|uplink| uplink.ifindex == LO);
        match lo.expect("an uplink").mode {
            UplinkMode::Refused(why) => why,
            mode => panic!("{mode:?}"),
        }
    };
    let blocked = "interface lo has another XDP program";
    let link = block(&node, &mut other);
    node.desired.uplinks.insert(LO);
    for _ in 0..2 {
        let why = refusal(&mut node);
        assert!(why.contains(blocked), "{why}");
    }
    drop(link);
    let deadline = Instant::now() + PATIENCE;
    while refusal(&mut node).contains(blocked) {
        // The kernel may detach it a moment later.
        assert!(Instant::now() < deadline, "not tried again");
    }
    let why = refusal(&mut node);
    assert!(
        why.contains("cannot attach uplink_xdp to interface lo"),
        "{why}"
    );
    // Away and back, as when its address goes for a while.
    node.desired.uplinks.remove(&LO);
    node.apply();
    let _link = block(&node, &mut other);
    node.desired.uplinks.insert(LO);
    let why = refusal(&mut node);
    assert!(why.contains(blocked), "{why}");
}
