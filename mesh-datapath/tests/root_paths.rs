//! Routers between two nodes that take smaller packets than either of them: both nodes learn that from what the routers
//! say, and have their tasks and clients send smaller ones.

mod common;

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    thread,
};

use common::{
    LAN_V6, Ns, OVERLAY_V6, PATIENCE,
    pair::{Case, N1, N2, Pair, TARGET, VIP_FAR},
    six,
};
use mesh_datapath::XdpMode;

/// What a node has learned of the way to the other.
fn learned(pair: &Pair, node: usize) -> Vec<(IpAddr, u32)> {
    let datapath = pair.nodes[node].datapath.as_ref().expect("open");
    let narrow = datapath.narrow_paths().expect("PATHS").into_iter();
    narrow.map(|path| (path.peer.into(), path.mtu)).collect()
}

fn check(xdp: XdpMode) {
    let pair = Pair::routed(xdp, 1400);
    pair.serve();
    let over = |address| IpAddr::V6(six(OVERLAY_V6, address));
    let [near, far] = [&pair.near, &pair.far].map(|task| (&task.ns, task.overlay));
    let client = &pair.client;
    let [n1, n1_v6] = [N1.into(), six(LAN_V6, N1).into()];
    let cases: [Case<'_>; 10] = [
        ("client through n1", client, n1, 81),
        ("client through n1, IPv6", client, n1_v6, 81),
        ("task to task", near.0, far.1.into(), TARGET),
        ("task to task, IPv6", near.0, over(far.1), TARGET),
        ("the other way", far.0, near.1.into(), TARGET),
        ("the other way, IPv6", far.0, over(near.1), TARGET),
        ("task to virtual address", near.0, VIP_FAR.into(), TARGET),
        (
            "task to virtual address, IPv6",
            near.0,
            over(VIP_FAR),
            TARGET,
        ),
        ("task to its node", near.0, n1, 81),
        ("task to its node, IPv6", near.0, n1_v6, 81),
    ];
    assert_eq!([learned(&pair, 0), learned(&pair, 1)], [[], []]);
    pair.large(&cases);
    assert_eq!(learned(&pair, 0), [(N2.into(), 1400)]);
    assert_eq!(learned(&pair, 1), [(N1.into(), 1400)]);
    pair.large_datagrams(&cases);
}

#[test]
fn routers_are_heard_with_xdp() {
    check(XdpMode::Native);
}

#[test]
fn routers_are_heard_without_xdp() {
    check(XdpMode::Off);
}

/// A connection that stays.
struct Kept(TcpStream);

impl Kept {
    fn new(ns: &Ns, to: IpAddr, port: u16) -> Self {
        let to = SocketAddr::new(to, port);
        let stream = ns.run(|| TcpStream::connect_timeout(&to, PATIENCE));
        let mut stream = stream.expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte).expect("a greeting");
        }
        Self(stream)
    }

    /// A million bytes there and back.
    fn echo(&mut self) -> std::io::Result<()> {
        let payload: Vec<u8> = (0..1_000_000_u32).map(|i| ((i * 31) >> 3) as u8).collect();
        let mut back = vec![0; payload.len()];
        let mut writer = self.0.try_clone()?;
        thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&payload));
            self.0.read_exact(&mut back)
        })?;
        assert!(back == payload, "other bytes came back");
        Ok(())
    }
}

/// A way that becomes narrower under open connections, while no agent is there.
#[test]
fn a_narrower_way_is_followed_by_programs_alone() {
    let mut pair = Pair::routed(XdpMode::Off, 1500);
    pair.serve();
    let over = IpAddr::V6(six(OVERLAY_V6, pair.far.overlay));
    let ways = [
        (&pair.client, IpAddr::V4(N1), 81),
        (&pair.client, six(LAN_V6, N1).into(), 81),
        (&pair.near.ns, pair.far.overlay.into(), TARGET),
        (&pair.near.ns, over, TARGET),
    ];
    let mut open = ways.map(|(ns, to, port)| Kept::new(ns, to, port));
    for kept in &mut open {
        kept.echo().expect("before");
    }
    for node in &mut pair.nodes {
        drop(node.datapath.take());
    }
    pair.routers.as_ref().expect("routers").narrow(1350);
    for (kept, (_, to, _)) in open.iter_mut().zip(ways) {
        kept.echo().unwrap_or_else(|why| panic!("{to}: {why}"));
    }
}
