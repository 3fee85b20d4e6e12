//! Virtual addresses at the socket: real sockets of this process, in a cgroup of its own and tasks' namespaces.
//! Two nodes on one LAN; `web` has a task on each, and the second network uses the same subnet.

mod common;

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use common::{
    Lan, Node, OVERLAY_V6, PATIENCE, Task,
    cgroup::Cgroup,
    introduce, service, six,
    talk::{any, ask, call},
};
use mesh_datapath::{Datapath, OpenSocket, Subnet, XdpMode, namespace_cookie};

const VNI: u32 = 4097;
const OTHER: u32 = 4098;
const PORT: u16 = 8080;
/// Where a task closes connections at once.
const ENDING: u16 = 8090;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 200);
/// Of `sticky`, published on port 82: both tasks, each client at its own.
const STICKY: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 201);
const N1: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// IP protocol number.
const UDP: u8 = 17;

/// An address on an overlay network, in IPv6.
fn over(address: Ipv4Addr) -> IpAddr {
    six(OVERLAY_V6, address).into()
}

/// The ways to say an address: in IPv4, to an IPv6 socket, in IPv6.
fn ways(address: Ipv4Addr) -> [IpAddr; 3] {
    [
        address.into(),
        address.to_ipv6_mapped().into(),
        over(address),
    ]
}

struct World {
    nodes: Vec<Node>,
    near: Task,
    far: Task,
    /// On the second network, whose subnet and virtual address are the same.
    stranger: Task,
    _lan: Lan,
    _cgroup: Cgroup,
}

impl World {
    fn new() -> Self {
        let lan = Lan::new();
        let cgroup = Cgroup::enter();
        let node = |name, last| {
            let address = Ipv4Addr::new(192, 168, 77, last);
            let mut node = Node::new(&lan, name, address, XdpMode::Off);
            node.config.cgroup = Some(cgroup.directory.clone());
            node
        };
        let mut nodes = vec![node("n1", 1), node("n2", 2)];
        let a = |net: u8, host: u8| Ipv4Addr::new(10, 0, net, host);
        let near = Task::new(&mut nodes[0], "near", VNI, a(16, 11), a(0, 11));
        let stranger = Task::new(&mut nodes[0], "stranger", OTHER, a(16, 12), a(0, 13));
        let far = Task::new(&mut nodes[1], "far", VNI, a(16, 12), a(0, 12));
        introduce(&mut nodes);
        for (node, tasks) in [
            (0, vec![(&near, VNI), (&stranger, OTHER)]),
            (1, vec![(&far, VNI)]),
        ] {
            for (task, vni) in tasks {
                let cookie = task.ns.run(namespace_cookie).expect("a cookie");
                let subnets = [(IpAddr::V4(a(16, 0)), 20), (OVERLAY_V6.into(), 96)];
                let subnets = subnets.map(|(first, prefix)| Subnet { first, prefix, vni });
                let namespaces = &mut nodes[node].desired.namespaces;
                namespaces.insert(cookie, subnets.into());
            }
        }
        for node in &mut nodes {
            let services = &mut node.desired.services;
            let web = service(80, PORT, (VNI, VIP), &[&near, &far]);
            services.insert("web".into(), web.into());
            let mut sticky = service(82, PORT, (VNI, STICKY), &[&near, &far]);
            sticky.affinity_s = 3600;
            services.insert("sticky".into(), sticky.into());
            let own = service(81, PORT, (OTHER, VIP), &[&stranger]);
            services.insert("own".into(), own.into());
            node.apply();
        }
        for task in [&near, &far, &stranger] {
            task.serve(PORT);
        }
        Self {
            nodes,
            near,
            far,
            stranger,
            _lan: lan,
            _cgroup: cgroup,
        }
    }

    /// Flows counted for `web`'s virtual address, and packets translated on the way, on the first node.
    fn counted(&self) -> (u64, u64) {
        let datapath = self.nodes[0].datapath.as_ref().expect("open");
        let snapshot = datapath.snapshot().expect("counters");
        let web = snapshot
            .services
            .iter()
            .find(|s| s.vni == Some(VNI))
            .expect("web");
        web.backends
            .iter()
            .fold((0, 0), |(f, p), b| (f + b.flows, p + b.packets))
    }

    fn streams(&self) {
        let own = ways(self.near.overlay).map(|own| own.to_canonical());
        for (vip, own) in ways(VIP).into_iter().zip(own) {
            let before = self.counted();
            let mut names = BTreeSet::new();
            for _ in 0..40 {
                let seen = self.near.ns.run(|| call(vip, PORT, b"hello"));
                let seen = seen.expect("an answer");
                assert_eq!(
                    seen.client,
                    SocketAddr::new(own, seen.local.port()),
                    "no address is another's"
                );
                names.insert(seen.name);
            }
            // Its own task included: it meets itself.
            assert_eq!(names, BTreeSet::from(["far".into(), "near".into()]));
            let after = self.counted();
            assert_eq!(after.0 - before.0, 40, "every connection is a flow");
            assert_eq!(after.1, before.1, "no packet is translated");
            let seen = self.stranger.ns.run(|| call(vip, PORT, b"x"));
            let name = seen.expect("an answer").name;
            assert_eq!(name, "stranger", "equal addresses of two networks");
        }
    }

    /// A client stays with its task, at the socket and on a published port, while the task takes new flows.
    fn affinity(&mut self) {
        for (to, port) in [(STICKY.into(), PORT), (over(STICKY), PORT), (N1.into(), 82)] {
            let names = |world: &Self| -> BTreeSet<String> {
                let ask = || call(to, port, b"x").expect("an answer").name;
                world.near.ns.run(|| (0..12).map(|_| ask()).collect())
            };
            let first = names(self);
            assert_eq!(first.len(), 1, "{to}: {first:?}");
            let is_near = first.contains("near");
            for (near_leaves, stays) in [(!is_near, true), (is_near, false)] {
                let task = if near_leaves { &self.near } else { &self.far };
                let leaving = [task.overlay, task.gateway].map(IpAddr::V4);
                self.drain_sticky(&leaving);
                assert_eq!(names(self) == first, stays, "{to}: after {first:?}");
                self.drain_sticky(&[]);
                assert_eq!(names(self), first, "{to}: back to the one before");
            }
        }
    }

    fn drain_sticky(&mut self, leaving: &[IpAddr]) {
        let node = &mut self.nodes[0];
        let sticky = node.desired.services.get_mut("sticky").expect("sticky");
        let sticky = Arc::make_mut(sticky);
        let vips = sticky.vips.values_mut().flatten();
        for backend in vips.chain(&mut sticky.ingress) {
            backend.draining = leaving.contains(&backend.address);
        }
        node.apply();
    }

    fn peers(&self) {
        let near = &self.near.ns;
        for address in ways(VIP).into_iter().chain(ways(self.far.overlay)) {
            let asked = SocketAddr::new(address, PORT);
            let stream = near.run(|| TcpStream::connect(asked)).expect("connected");
            assert_eq!(stream.peer_addr().expect("a peer"), asked);
        }
    }

    fn datagrams(&self) {
        let near = &self.near.ns;
        let bound = |to| near.run(|| UdpSocket::bind((any(to), 0)).expect("a socket"));
        for to in ways(VIP) {
            let mut names = BTreeSet::new();
            for _ in 0..20 {
                let socket = bound(to);
                // `ask` checks that the answer comes from the address that was asked.
                let first = ask(&socket, to, PORT, b"one").expect("an answer");
                let second = ask(&socket, to, PORT, b"two").expect("an answer");
                assert_eq!(first.name, second.name, "a socket stays with its backend");
                names.insert(first.name);
            }
            assert_eq!(names.len(), 2, "{names:?}");
            let socket = bound(to);
            socket.connect((to, PORT)).expect("connected");
            socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
            assert_eq!(
                socket.peer_addr().expect("a peer"),
                SocketAddr::new(to, PORT)
            );
            socket.send(b"hello").expect("sent");
            let (_, from) = socket.recv_from(&mut [0; 100]).expect("an answer");
            assert_eq!(from, SocketAddr::new(to, PORT));
        }
        // The same socket asks a task itself: the answer is the task's.
        let [vip, far, near] = [VIP, self.far.overlay, self.near.overlay].map(ways);
        for ((vip, far), near) in vip.into_iter().zip(far).zip(near) {
            let socket = bound(vip);
            for to in [vip, far, near, vip] {
                ask(&socket, to, PORT, b"hello").expect("an answer of who was asked");
            }
        }
    }

    /// Programs swapped and processes gone: connections stay, new ones are made.
    fn restart(&mut self) {
        let mut stream = self
            .near
            .ns
            .run(|| TcpStream::connect((VIP, PORT)))
            .expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        drop(self.nodes[0].datapath.take());
        self.streams_without_counters();
        assert_eq!(self.nodes[0].apply().attached, 0, "the pins are taken over");
        assert!(self.nodes[0].apply().is_empty());
        self.streams();
        assert_eq!(stream.peer_addr().expect("a peer").ip(), IpAddr::V4(VIP));
        stream.write_all(b"still here").expect("sent");
        let mut text = Vec::new();
        while !text.ends_with(b"still here") {
            let mut part = [0; 100];
            let length = stream.read(&mut part).expect("an answer");
            assert_ne!(length, 0, "closed");
            text.extend(&part[..length]);
        }
    }

    fn streams_without_counters(&self) {
        let stream = self.near.ns.run(|| TcpStream::connect((VIP, PORT)));
        let peer = stream.expect("connected").peer_addr().expect("a peer");
        assert_eq!(peer.ip(), IpAddr::V4(VIP));
    }

    /// What is open is listed, and nothing else.
    fn listed(&self) {
        let near = &self.near.ns;
        let datapath = self.nodes[0].datapath.as_ref().expect("open");
        let list = || {
            let sockets = datapath.sockets().expect("the tables");
            near.run(|| sockets.list()).expect("sockets")
        };
        for vip in ways(VIP) {
            let deadline = Instant::now() + PATIENCE;
            while !list().is_empty() {
                assert!(Instant::now() < deadline, "open still: {:?}", list());
                thread::sleep(Duration::from_millis(10));
            }
            let stream = near
                .run(|| TcpStream::connect((vip, PORT)))
                .expect("connected");
            let datagrams = near.run(|| UdpSocket::bind((any(vip), 0)).expect("a socket"));
            ask(&datagrams, vip, PORT, b"x").expect("an answer");
            let direct = near.run(|| TcpStream::connect((self.far.overlay, PORT)));
            let open = list();
            let kinds: Vec<_> = open.iter().map(|s| (s.protocol, s.connected)).collect();
            assert_eq!(kinds, [(6, true), (UDP, false)]);
            let owners = [stream.local_addr(), datagrams.local_addr()];
            for (socket, owner) in open.into_iter().zip(owners) {
                let owner = owner.expect("an address");
                let local = (owner.ip().to_canonical(), owner.port());
                assert_eq!((socket.local.ip(), socket.local.port()), local);
                assert_eq!(socket.idle_s.is_some(), socket.protocol == 6);
                assert_eq!(
                    datapath.service_of(socket.vni, socket.vip),
                    Some("s80"),
                    "{socket:?}"
                );
                assert_eq!(
                    (socket.vip, socket.vni, socket.port),
                    (VIP.into(), VNI, PORT)
                );
                let tasks = [self.near.overlay, self.far.overlay].map(IpAddr::V4);
                assert!(tasks.contains(&socket.backend));
            }
            drop((stream, datagrams, direct));
        }
    }

    /// A connection to `far` by the virtual address, and the other end of it.
    fn to_far(&self) -> (TcpStream, TcpStream) {
        let listener = self.far.ns.run(|| TcpListener::bind(("0.0.0.0", ENDING)));
        let listener = listener.expect("a port");
        // The other task has nobody on the port.
        let stream = (0..100)
            .find_map(|_| self.near.ns.run(|| TcpStream::connect((VIP, ENDING))).ok())
            .expect("connected");
        let (accepted, _) = listener.accept().expect("a client");
        (stream, accepted)
    }

    /// Who has sent its last byte has closed the flow, though the other side may still send.
    fn half_closed(&self) {
        let datapath = self.nodes[0].datapath.as_ref().expect("open");
        let sockets = datapath.sockets().expect("the table");
        let told = || {
            let all = self.near.ns.run(|| sockets.list()).expect("sockets");
            let of_port = all.into_iter().filter(|socket| socket.port == ENDING);
            let states = of_port.map(|socket| (socket.fin_sent, socket.ended));
            states.collect::<Vec<_>>()
        };
        let (mut stream, accepted) = self.to_far();
        assert_eq!(told(), [(false, false)]);
        stream.shutdown(Shutdown::Write).expect("shut down");
        assert_eq!(told(), [(true, false)]);
        drop(accepted);
        assert_eq!(stream.read(&mut [0; 9]).expect("the end"), 0);
        assert_eq!(told(), []);
    }

    /// A connection to `far` by the virtual address, which `far` has closed.
    fn ended(&self) -> TcpStream {
        let (stream, accepted) = self.to_far();
        drop(accepted);
        let near = &self.near.ns;
        let datapath = self.nodes[0].datapath.as_ref().expect("open");
        let sockets = datapath.sockets().expect("the table");
        let limit = std::time::Instant::now() + PATIENCE;
        while !near
            .run(|| sockets.list())
            .expect("sockets")
            .iter()
            .any(|s| s.ended)
        {
            assert!(std::time::Instant::now() < limit, "the end has come");
            std::thread::yield_now();
        }
        stream
    }

    /// A task that leaves takes no new connection; connected sockets of one that has left are closed, and others ask one
    /// that is there.
    fn leaving(&mut self) {
        let near = &self.near.ns;
        let connected = |vip| {
            let socket = near.run(|| UdpSocket::bind((any(vip), 0)).expect("a socket"));
            socket.connect((vip, PORT)).expect("connected");
            socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
            socket
        };
        let vips = || ways(VIP).into_iter().cycle().take(60);
        let asking: Vec<UdpSocket> = vips()
            .map(|vip| near.run(|| UdpSocket::bind((any(vip), 0)).expect("a socket")))
            .collect();
        let who = || -> BTreeSet<String> {
            let asked = asking.iter().zip(vips());
            let names = asked.map(|(socket, vip)| ask(socket, vip, PORT, b"x").expect("an answer"));
            names.map(|seen| seen.name).collect()
        };
        assert_eq!(who(), BTreeSet::from(["far".into(), "near".into()]));
        let held: Vec<UdpSocket> = vips().map(connected).collect();
        let mut streams: Vec<TcpStream> = vips()
            .map(|vip| {
                near.run(|| TcpStream::connect((vip, PORT)))
                    .expect("connected")
            })
            .collect();
        let mut ended = self.ended();
        let far = IpAddr::V4(self.far.overlay);
        let backends = |node: &mut Node, draining: bool, gone: bool| {
            let web = node.desired.services.get_mut("web").expect("web");
            for backends in Arc::make_mut(web).vips.values_mut() {
                backends.retain(|b| !gone || b.address != far);
                for backend in backends.iter_mut().filter(|b| b.address == far) {
                    backend.draining = draining;
                }
            }
        };
        backends(&mut self.nodes[0], true, false);
        self.nodes[0].apply();
        for vip in vips() {
            let seen = near.run(|| call(vip, PORT, b"x")).expect("an answer");
            assert_eq!(seen.name, "near", "a draining task takes no new flow");
        }
        let datapath = self.nodes[0].datapath.as_ref().expect("open");
        let sockets = datapath.sockets().expect("the table");
        let list = || near.run(|| sockets.list()).expect("sockets");
        let (open, free): (Vec<_>, Vec<_>) = list().into_iter().partition(|s| s.connected);
        assert_eq!(free.len(), asking.len());
        let to_far = |s: &&OpenSocket| s.protocol == UDP && s.connected && s.backend == far;
        let udp = open.iter().filter(|s| s.protocol == UDP).count();
        assert_eq!(udp, held.len());
        assert_eq!(
            open.len() - udp,
            streams.len() + 1,
            "and the one that has ended"
        );
        let orphans: Vec<_> = open.iter().filter(to_far).collect();
        assert!(
            (1..udp).contains(&orphans.len()),
            "{} of {udp}",
            orphans.len()
        );
        assert!(
            open.iter()
                .all(|s| s.vip == IpAddr::V4(VIP) && s.vni == VNI)
        );
        let over: Vec<u16> = open.iter().filter(|s| s.ended).map(|s| s.port).collect();
        assert_eq!(over, [ENDING]);
        let cut: Vec<_> = open
            .iter()
            .filter(|s| s.protocol != UDP && s.backend == far && !s.ended)
            .collect();
        assert!((1..streams.len()).contains(&cut.len()), "{}", cut.len());

        backends(&mut self.nodes[0], false, true);
        self.nodes[0].desired.endpoints.remove(&(VNI, far));
        assert_eq!(self.nodes[0].apply().departed, 1);
        let datapath = self.nodes[0].datapath.as_ref().expect("open");
        let sockets = datapath.sockets().expect("the table");
        let all = || orphans.iter().chain(&cut);
        near.run(|| all().try_for_each(|s| sockets.close(s)))
            .expect("closed");
        let broken = streams.iter_mut().filter(|stream| {
            let error = stream.take_error().expect("the socket's error");
            error.is_some_and(|e| e.kind() == ErrorKind::ConnectionAborted)
        });
        assert_eq!(broken.count(), cut.len());
        assert_eq!(ended.read(&mut [0; 9]).expect("the end"), 0);
        let aborted = held.iter().filter(|socket| {
            let error = socket.take_error().expect("the socket's error");
            error.is_some_and(|e| e.kind() == ErrorKind::ConnectionAborted)
                && socket.send(b"x").is_err()
        });
        assert_eq!(aborted.count(), orphans.len());
        let left = near.run(|| sockets.list()).expect("sockets");
        assert!(!left.iter().any(|s| to_far(&s)));
        assert_eq!(who(), BTreeSet::from(["near".into()]));
    }

    fn end(mut self) {
        for node in &mut self.nodes {
            drop(node.datapath.take());
            node.ns
                .run(|| Datapath::remove(&node.config))
                .expect("removed");
            assert!(!node.config.pin_dir.exists());
        }
    }
}

#[test]
fn virtual_addresses_at_the_socket() {
    let mut world = World::new();
    world.streams();
    world.peers();
    world.half_closed();
    world.datagrams();
    world.affinity();
    world.listed();
    world.restart();
    world.leaving();
    world.end();
}
