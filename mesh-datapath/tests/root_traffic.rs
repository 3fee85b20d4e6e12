//! Real traffic: two nodes, tasks and a client in namespaces, through programs attached as in production.

mod common;

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
};

use common::{INGRESS, Lan, Node, Ns, PATIENCE, Task, ask, call, introduce, service};
use mesh_datapath::{Datapath, XdpMode};

const VNI: u32 = 4097;
const OTHER: u32 = 4098;
const N1: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const N2: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 100);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 200);
const VIP_FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 201);

/// `web` (port 80, both tasks), `far` (port 81, the task on the second node).
struct World {
    nodes: Vec<Node>,
    near: Task,
    far: Task,
    stranger: Task,
    client: Ns,
    _lan: Lan,
}

impl World {
    fn new(xdp: XdpMode) -> Self {
        let lan = Lan::new();
        let mut nodes = vec![
            Node::new(&lan, "n1", N1, xdp),
            Node::new(&lan, "n2", N2, xdp),
        ];
        let client = Ns::new("client");
        lan.join(&client, "p-client", CLIENT, false);
        let a = |net: u8, host: u8| Ipv4Addr::new(10, 0, net, host);
        let near = Task::new(&mut nodes[0], "near", VNI, a(16, 11), a(0, 11));
        let far = Task::new(&mut nodes[1], "far", VNI, a(16, 12), a(0, 12));
        // The same address as `near`, on another network.
        let stranger = Task::new(&mut nodes[1], "stranger", OTHER, a(16, 11), a(0, 13));
        introduce(&mut nodes);
        for node in &mut nodes {
            let services = &mut node.desired.services;
            services.insert("web".into(), service(80, 8080, (VNI, VIP), &[&near, &far]));
            services.insert("far".into(), service(81, 8080, (VNI, VIP_FAR), &[&far]));
            node.apply();
        }
        for task in [&near, &far, &stranger] {
            task.serve(8080);
        }
        Self {
            nodes,
            near,
            far,
            stranger,
            client,
            _lan: lan,
        }
    }

    fn fail(&self, what: &str, why: &str) -> ! {
        panic!(
            "{what}: {why}; n1: {}; n2: {}",
            self.nodes[0].counters(),
            self.nodes[1].counters()
        )
    }

    /// Calls `to` from `ns` until both tasks have answered, at least `times` times without a failure.
    fn both_answer(&self, what: &str, ns: &Ns, to: Ipv4Addr, times: usize) -> Vec<common::Seen> {
        let seen = ns.run(|| {
            (0..times)
                .map(|_| call(to, port_of(to), b"hello"))
                .collect::<Result<Vec<_>, _>>()
        });
        let seen = seen.unwrap_or_else(|why| self.fail(what, &why));
        let names: BTreeSet<_> = seen.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, BTreeSet::from(["far", "near"]), "{what}");
        seen
    }

    fn run(&mut self) {
        for to in [N1, N2] {
            for seen in self.both_answer("client to node", &self.client, to, 60) {
                assert_eq!(
                    seen.client, seen.local,
                    "the task sees the client's own address and port"
                );
            }
        }
        self.large();
        self.datagrams();
        self.own_processes();
        self.tasks_to_published_ports();
        self.virtual_addresses();
        self.isolation();
        self.one_port_two_nodes();
        self.restart();
        self.nothing_changes();
    }

    fn large(&self) {
        let payload: Vec<u8> = (0..4_000_000_u32).map(|i| ((i * 31) >> 3) as u8).collect();
        let cases = [
            ("client through n1", &self.client, N1, 81),
            ("client to n2", &self.client, N2, 81),
            ("task to task", &self.near.ns, self.far.overlay, 8080),
            ("task to virtual address", &self.near.ns, VIP_FAR, 8080),
            ("process of n1", &self.nodes[0].ns, Ipv4Addr::LOCALHOST, 81),
        ];
        for (what, ns, to, port) in cases {
            if let Err(why) = ns.run(|| call(to, port, &payload)) {
                self.fail(what, &why);
            }
        }
    }

    fn datagrams(&self) {
        let cases = [
            ("client through n1", &self.client, N1, 81),
            ("client to n1", &self.client, N1, 80),
            ("client to n2", &self.client, N2, 80),
            ("task to task", &self.near.ns, self.far.overlay, 8080),
            ("task to virtual address", &self.near.ns, VIP, 8080),
            ("process of n1", &self.nodes[0].ns, Ipv4Addr::LOCALHOST, 80),
            (
                "process of n1 through the tunnel",
                &self.nodes[0].ns,
                N1,
                81,
            ),
        ];
        for (what, ns, to, port) in cases {
            let result = ns.run(|| {
                for round in 0..20_u8 {
                    let socket =
                        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(|e| e.to_string())?;
                    let first = ask(&socket, to, port, &[round; 700])?;
                    let second = ask(&socket, to, port, &[round; 1300])?;
                    if first.name != second.name {
                        return Err(format!("one flow, two tasks: {first:?} {second:?}"));
                    }
                }
                Ok(())
            });
            if let Err(why) = result {
                self.fail(what, &why);
            }
        }
    }

    fn own_processes(&self) {
        for (node, own) in self.nodes.iter().zip([N1, N2]) {
            for to in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 9), own] {
                for seen in self.both_answer("own process", &node.ns, to, 20) {
                    assert_eq!(seen.client.ip(), own);
                }
            }
        }
        self.both_answer(
            "a node's process to another node",
            &self.nodes[0].ns,
            N2,
            20,
        );
    }

    fn tasks_to_published_ports(&self) {
        // To itself as well: `near` is one of the two.
        self.both_answer("task to its own node", &self.near.ns, N1, 20);
    }

    fn virtual_addresses(&self) {
        for task in [&self.near, &self.far] {
            for seen in self.both_answer("virtual address", &task.ns, VIP, 20) {
                let expected = if seen.name == task.name {
                    VIP
                } else {
                    task.overlay
                };
                assert_eq!(seen.client.ip(), expected);
            }
            let seen = task.ns.run(|| ping(VIP));
            assert!(seen, "ping of a virtual address");
        }
        if !self.near.ns.run(|| ping(self.far.overlay)) {
            self.fail("ping", "no answer from the task on the other node");
        }
    }

    fn isolation(&self) {
        let answer = self.far.ns.run(|| call(self.near.overlay, 8080, b"x"));
        assert_eq!(answer.map(|s| s.name).as_deref(), Ok("near"));
        let answer = self.stranger.ns.run(|| {
            let address = SocketAddr::new(self.far.overlay.into(), 8080);
            TcpStream::connect_timeout(&address, PATIENCE / 5).is_err()
        });
        assert!(answer, "a task reached one of another network");
    }

    /// A client may use one port for connections to two nodes at a time; both may lead to the same task. The port is
    /// one that the kernel gives to nobody by itself.
    fn one_port_two_nodes(&self) {
        let result = self.client.run(|| {
            let mut first = connect_from(20_404, N1, 81);
            let mut second = connect_from(20_404, N2, 81);
            let mut clients = Vec::new();
            for _ in 0..2 {
                for stream in [&mut first, &mut second] {
                    stream.write_all(b"ping").expect("write");
                    let mut buffer = [0; 128];
                    let mut length = stream.read(&mut buffer).expect("read");
                    while !buffer[..length].ends_with(b"ping") {
                        length += stream.read(&mut buffer[length..]).expect("read");
                    }
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    clients.extend(
                        text.split_once('\n')
                            .map(|(greeting, _)| greeting.to_owned()),
                    );
                }
            }
            clients
        });
        assert_eq!(
            result.first().map(String::as_str),
            Some("far 192.168.77.100:20404")
        );
        assert!(
            result
                .get(1)
                .is_some_and(|c| c.starts_with("far 192.168.77.100:")),
            "{result:?}"
        );
        assert_ne!(result.first(), result.get(1));
    }

    /// Connections live through a restart; the new process attaches nothing anew.
    fn restart(&mut self) {
        let mut open = self
            .client
            .run(|| TcpStream::connect((N1, 81)).expect("connect"));
        open.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let mut buffer = [0; 256];
        let greeting = open.read(&mut buffer).expect("greeting");
        assert!(buffer[..greeting].starts_with(b"far "));
        let mut talk = |what: &str| {
            open.write_all(b"still there?").expect(what);
            let length = open.read(&mut buffer).expect(what);
            assert_eq!(&buffer[..length], b"still there?", "{what}");
        };
        talk("before");
        for node in &mut self.nodes {
            drop(node.datapath.take());
        }
        talk("with no process");
        for node in &mut self.nodes {
            assert_eq!(node.apply(), mesh_datapath::Report::default());
        }
        talk("adopted");
        self.both_answer("after the restart", &self.client, N1, 20);
    }

    fn nothing_changes(&mut self) {
        for node in &mut self.nodes {
            assert!(node.apply().is_empty());
        }
        let node = &self.nodes[0];
        let services = node
            .datapath
            .as_ref()
            .expect("open")
            .snapshot()
            .expect("counters")
            .services;
        let web = services
            .iter()
            .find(|s| s.published == Some(80) && s.protocol == Some(6))
            .expect("web");
        assert_eq!(web.backends.len(), 2);
        assert!(web.backends.iter().all(|b| b.packets >= b.flows), "{web:?}");
        let flows = node.datapath.as_ref().expect("open").flows();
        let flows = flows.expect("flows");
        // `near` answers what the client asked of either node.
        for asked in [None, Some(N2.into())] {
            assert!(
                flows
                    .iter()
                    .any(|flow| flow.service.as_deref() == Some("s80")
                        && flow.client.ip() == CLIENT
                        && flow.front.port() == 80
                        && flow.asked == asked),
                "{asked:?}: {flows:?}"
            );
        }
        let fill = node.datapath.as_ref().expect("open").fill().expect("fill");
        assert!(fill.iter().all(|table| table.entries <= table.capacity));
        assert!(
            fill.iter()
                .any(|table| table.entries as usize >= flows.len()),
            "{fill:?}"
        );
        assert!(
            node.desired
                .endpoints
                .keys()
                .any(|(vni, _)| *vni == INGRESS)
        );
    }

    fn end(mut self) {
        let configs: Vec<_> = self.nodes.iter().map(|n| n.config.clone()).collect();
        for node in &mut self.nodes {
            drop(node.datapath.take());
            node.ns
                .run(|| Datapath::remove(&node.config))
                .expect("removed");
            assert!(!node.config.pin_dir.exists());
            assert!(!node.ns.sh("ip -o link").contains("mesh-vxlan"));
        }
        assert!(configs.iter().all(|c| !c.pin_dir.exists()));
    }
}

fn port_of(to: Ipv4Addr) -> u16 {
    if to == VIP { 8080 } else { 80 }
}

/// A TCP connection from a given port.
fn connect_from(port: u16, to: Ipv4Addr, to_port: u16) -> TcpStream {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket,
        sockopt::ReuseAddr,
    };
    use std::{net::SocketAddrV4, os::fd::AsRawFd as _};
    let socket = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::empty(),
        None,
    )
    .expect("a socket");
    setsockopt(&socket, ReuseAddr, &true).expect("reuse");
    let own = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port));
    bind(socket.as_raw_fd(), &own).expect("bind");
    connect(
        socket.as_raw_fd(),
        &SockaddrIn::from(SocketAddrV4::new(to, to_port)),
    )
    .expect("connect");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

/// One ICMP echo, by a datagram socket as unprivileged `ping` uses.
fn ping(to: Ipv4Addr) -> bool {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto,
        setsockopt, socket, sockopt::ReceiveTimeout,
    };
    use std::os::fd::AsRawFd as _;
    let socket = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::empty(),
        SockProtocol::Icmp,
    )
    .expect("an ICMP socket");
    setsockopt(&socket, ReceiveTimeout, &nix::sys::time::TimeVal::new(5, 0)).expect("a time-out");
    let mut packet = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1, 1, 2, 3, 4];
    let sum = mesh_common::checksum::of(&packet).to_ne_bytes();
    packet[2..4].copy_from_slice(&sum);
    let address = SockaddrIn::from(std::net::SocketAddrV4::new(to, 0));
    sendto(socket.as_raw_fd(), &packet, &address, MsgFlags::empty()).expect("send");
    let mut buffer = [0; 128];
    while let Ok(length) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
        if length >= 28 && buffer[20] == 0 && buffer[24..28] == [0x12, 0x34, 0, 1] {
            return mesh_common::checksum::of(&buffer[20..length]) == 0
                && buffer[12..16] == to.octets();
        }
    }
    false
}

#[test]
fn with_xdp() {
    let mut world = World::new(XdpMode::Native);
    world.run();
    world.end();
}

#[test]
fn without_xdp() {
    let mut world = World::new(XdpMode::Off);
    world.run();
    world.end();
}
