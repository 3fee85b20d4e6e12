//! Real traffic over IPv6: two nodes, tasks and a client in namespaces, through programs attached as in production.

mod common;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
};

use common::{
    INGRESS_V6, LAN_V6, Lan, Node, Ns, OVERLAY_V6, PATIENCE, Seen, Task, ask, call, introduce,
    service, six,
};
use mesh_datapath::XdpMode;

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
    fn both_answer(&self, what: &str, ns: &Ns, to: Ipv6Addr, port: u16, times: usize) -> Vec<Seen> {
        let seen = ns.run(|| {
            (0..times)
                .map(|_| call(to, port, b"hello"))
                .collect::<Result<Vec<_>, _>>()
        });
        let seen = seen.unwrap_or_else(|why| self.fail(what, &why));
        let names: BTreeSet<_> = seen.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, BTreeSet::from(["far", "near"]), "{what}");
        seen
    }

    fn run(&self) {
        for to in [N1, N2].map(node) {
            for seen in self.both_answer("client to node", &self.client, to, 80, 60) {
                assert_eq!(
                    seen.client, seen.local,
                    "the task sees the client's own address and port"
                );
            }
        }
        self.large();
        self.datagrams();
        self.own_processes();
        // To itself as well: `near` is one of the two.
        self.both_answer("task to its own node", &self.near.ns, node(N1), 80, 20);
        self.virtual_addresses();
        self.isolation();
    }

    fn large(&self) {
        let payload: Vec<u8> = (0..4_000_000_u32).map(|i| ((i * 31) >> 3) as u8).collect();
        let cases = [
            ("client through n1", &self.client, node(N1), 81),
            ("client to n2", &self.client, node(N2), 81),
            ("task to task", &self.near.ns, over(self.far.overlay), 8080),
            (
                "task to virtual address",
                &self.near.ns,
                over(VIP_FAR),
                8080,
            ),
            ("process of n1", &self.nodes[0].ns, Ipv6Addr::LOCALHOST, 81),
        ];
        for (what, ns, to, port) in cases {
            if let Err(why) = ns.run(|| call(to, port, &payload)) {
                self.fail(what, &why);
            }
        }
    }

    fn datagrams(&self) {
        let cases = [
            ("client through n1", &self.client, node(N1), 81),
            ("client to n1", &self.client, node(N1), 80),
            ("client to n2", &self.client, node(N2), 80),
            ("task to task", &self.near.ns, over(self.far.overlay), 8080),
            ("task to virtual address", &self.near.ns, over(VIP), 8080),
            ("process of n1", &self.nodes[0].ns, Ipv6Addr::LOCALHOST, 80),
            (
                "process of n1 by the tunnel",
                &self.nodes[0].ns,
                node(N1),
                81,
            ),
        ];
        for (what, ns, to, port) in cases {
            let result = ns.run(|| {
                for round in 0..20_u8 {
                    let socket =
                        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).map_err(|e| e.to_string())?;
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
        for (own, at) in self.nodes.iter().zip([N1, N2]) {
            for to in [Ipv6Addr::LOCALHOST, node(at)] {
                for seen in self.both_answer("own process", &own.ns, to, 80, 20) {
                    assert_eq!(seen.client.ip(), six(INGRESS_V6, at));
                }
            }
        }
        let ns = &self.nodes[0].ns;
        self.both_answer("a node's process to another node", ns, node(N2), 80, 20);
    }

    fn virtual_addresses(&self) {
        for task in [&self.near, &self.far] {
            for seen in self.both_answer("virtual address", &task.ns, over(VIP), 8080, 20) {
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
        let far = over(self.far.overlay);
        self.near.ns.sh(&format!("busybox ping6 -c 1 -W 5 {far}"));
        // More than one packet holds, to the virtual address as well.
        self.near
            .ns
            .sh(&format!("busybox ping6 -c 1 -W 5 -s 4000 {far}"));
        let vip = over(VIP);
        self.near
            .ns
            .sh(&format!("busybox ping6 -c 1 -W 5 -s 4000 {vip}"));
    }

    fn isolation(&self) {
        let answer = self
            .far
            .ns
            .run(|| call(over(self.near.overlay), 8080, b"x"));
        assert_eq!(answer.map(|s| s.name).as_deref(), Ok("near"));
        let answer = self.stranger.ns.run(|| {
            let address = SocketAddr::new(over(self.far.overlay).into(), 8080);
            TcpStream::connect_timeout(&address, PATIENCE / 5).is_err()
        });
        assert!(answer, "a task reached one of another network");
    }
}

/// A node's address on the LAN.
fn node(address: Ipv4Addr) -> Ipv6Addr {
    six(LAN_V6, address)
}

/// An address on an overlay network.
fn over(address: Ipv4Addr) -> Ipv6Addr {
    six(OVERLAY_V6, address)
}

#[test]
fn with_xdp() {
    World::new(XdpMode::Native).run();
}

#[test]
fn without_xdp() {
    World::new(XdpMode::Off).run();
}
