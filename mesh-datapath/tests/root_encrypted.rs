//! An encrypted network by the kernel's WireGuard: what tasks of two nodes say one another goes through its devices,
//! whatever its size, also while keys change.

mod common;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use common::{
    Node, OVERLAY_V6,
    pair::{N1, N2, Pair, TARGET, VIP_FAR, VNI},
    six,
    talk::call,
};
use mesh_datapath::{FormerCipher, Link, XdpMode};
use mesh_wireguard::{Backend, DEFAULT_PORT, Handle, OVERHEAD, Pace, Peer, Request, Setup, Status};

/// Bytes that the nodes' wires take.
const WIRE: u32 = 1500;
/// Bytes of a tunnel's headers.
const TUNNEL: u32 = 50;
/// Longer than any wait, on an emulated machine too.
const LIMIT: Duration = Duration::from_secs(120);

/// Keys change here when they are told to, and the other node follows at once.
const PACE: Pace = Pace {
    period: Duration::from_secs(1 << 30),
    least: Duration::ZERO,
    delay: Duration::ZERO,
};

/// What an agent does about WireGuard.
struct Agent {
    setup: Setup,
    handle: Handle,
    status: Status,
}

impl Agent {
    /// The network of both tasks is encrypted from here on.
    fn new(node: &mut Node, other: Ipv4Addr) -> Self {
        let setup = Setup {
            backend: Backend::Auto,
            owner: "test".to_owned(),
            socket: PathBuf::from("/nonexistent/wireguard.sock"),
            address: node.address,
            port: DEFAULT_PORT,
            epoch: 0,
            others: vec![other],
            used: BTreeMap::new(),
        };
        // No program: in user space nothing starts.
        let ensure = || Handle::ensure(&setup, Path::new("/nonexistent/mesh-agent"));
        let handle = node.ns.run(ensure).expect("the kernel's WireGuard");
        assert!(matches!(handle, Handle::Kernel(_)));
        let status = node.ns.run(|| handle.ask(&Request::Status));
        let endpoints = node.desired.endpoints.iter_mut();
        for (_, endpoint) in endpoints.filter(|((vni, _), _)| *vni == VNI) {
            endpoint.encrypted = true;
        }
        for link in node.desired.links.values_mut() {
            if let Link::Overlay { vni, encrypted, .. } = link {
                *encrypted = *vni == VNI;
            }
        }
        Self {
            setup,
            handle,
            status: status.expect("a status"),
        }
    }

    /// A pass, the other node having told of its key.
    fn pass(&mut self, node: &mut Node, other: &(Ipv4Addr, Peer)) {
        let peers = BTreeMap::from([other.clone()]);
        let set = Request::Set {
            mtu: WIRE - OVERHEAD,
            peers: peers.clone(),
        };
        let ask = |request: &Request| node.ns.run(|| self.handle.ask(request));
        let mut status = ask(&set).expect("a status");
        if let Some(epoch) = status.next_epoch(&PACE, &peers, Duration::ZERO) {
            ask(&Request::Rotate { epoch }).expect("a new key");
            status = ask(&set).expect("a status");
        }
        node.desired.cipher = Some(status.ifindex);
        node.desired.former_cipher = status.former.map(|device| {
            let peers = status.peers.iter().filter(|peer| peer.ifindex == device);
            FormerCipher {
                device,
                peers: peers.map(|peer| IpAddr::V4(peer.address)).collect(),
            }
        });
        node.apply();
        self.status = status;
    }

    /// What the other node is told.
    fn told(&self) -> (Ipv4Addr, Peer) {
        let peer = Peer {
            key: self.status.key.clone(),
            port: self.status.port,
            epoch: Some(self.status.epoch),
            former_key: self.status.former_key.clone(),
        };
        (self.setup.address, peer)
    }

    /// Whether the other node is sent to by the newest key, of this epoch.
    fn is_settled(&self, epoch: u64) -> bool {
        let mut peers = self.status.peers.iter();
        self.status.epoch == epoch
            && peers.any(|peer| peer.proved && peer.ifindex == self.status.ifindex)
    }

    /// Bytes encrypted for the other node, and those that came from it.
    fn bytes(&self) -> (u64, u64) {
        let peer = self.status.peers.first().expect("the other node");
        (peer.sent, peer.received)
    }
}

/// Lets both nodes tell each other of their keys, once.
fn exchange(agents: &mut [Agent; 2], nodes: &mut [Node]) {
    for (this, other) in [(0, 1), (1, 0)] {
        let told = agents[other].told();
        agents[this].pass(&mut nodes[this], &told);
    }
}

/// Lets both nodes tell each other of their keys until they use those of an epoch.
fn agree(agents: &mut [Agent; 2], nodes: &mut [Node], epoch: u64) {
    let end = Instant::now() + LIMIT;
    while !agents.iter().all(|agent| agent.is_settled(epoch)) {
        assert!(Instant::now() < end, "no keys of epoch {epoch} are used");
        exchange(agents, nodes);
        thread::sleep(Duration::from_millis(20));
    }
}

/// Ends the calls, also when a test fails meanwhile.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// TCP and datagrams of all sizes, in both Internet protocols.
fn traffic(pair: &Pair) {
    let (near, far) = (&pair.near.ns, IpAddr::V4(pair.far.overlay));
    let [far_v6, vip_v6] = [pair.far.overlay, VIP_FAR].map(|to| six(OVERLAY_V6, to).into());
    pair.large(&[
        ("task to task", near, far, TARGET),
        ("task to task, IPv6", near, far_v6, TARGET),
        ("task to virtual address", near, VIP_FAR.into(), TARGET),
    ]);
    pair.large_datagrams(&[
        ("task to task", near, far, TARGET),
        ("task to virtual address, IPv6", near, vip_v6, TARGET),
    ]);
}

#[test]
#[ignore = "`cargo xtask vm-test root_encrypted` runs it: it needs the kernel module wireguard"]
fn tasks_talk_through_the_kernels_wireguard() {
    let mut pair = Pair::serving(XdpMode::Off);
    let mtu = WIRE - OVERHEAD - TUNNEL;
    for (node, task) in pair.nodes.iter().zip([&pair.near, &pair.far]) {
        node.ns
            .sh(&format!("ip link set o-{} mtu {mtu}", task.name));
        task.ns.sh(&format!("ip link set eth0 mtu {mtu}"));
    }
    let [one, two] = &mut pair.nodes[..] else {
        panic!("two nodes")
    };
    let mut agents = [Agent::new(one, N2), Agent::new(two, N1)];
    agree(&mut agents, &mut pair.nodes, 0);
    let before = agents[0].bytes();
    traffic(&pair);
    exchange(&mut agents, &mut pair.nodes);
    let after = agents[0].bytes();
    for (before, after) in [(before.0, after.0), (before.1, after.1)] {
        // Three times four million bytes of TCP alone.
        assert!(after - before > 12_000_000, "{before}, then {after}");
    }

    let is_over = AtomicBool::new(false);
    let (near, far) = (&pair.near.ns, pair.far.overlay);
    let nodes = &mut pair.nodes;
    let calls = thread::scope(|scope| {
        let caller = scope.spawn(|| {
            near.run(|| {
                let mut calls = 0;
                while !is_over.load(Relaxed) {
                    call(far, TARGET, &[7; 20_000]).expect("an answer");
                    calls += 1;
                }
                calls
            })
        });
        let end = Over(&is_over);
        let rotate = Request::Rotate { epoch: 1 };
        let rotated = nodes[0].ns.run(|| agents[0].handle.ask(&rotate));
        rotated.expect("a new key");
        agree(&mut agents, nodes, 1);
        drop(end);
        caller.join().expect("the calls to be answered")
    });
    assert!(calls > 0);
    assert!(agents.iter().all(|agent| agent.status.former.is_some()));
    traffic(&pair);
}
