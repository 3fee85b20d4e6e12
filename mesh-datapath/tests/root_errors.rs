//! ICMP errors in earnest: what sockets are told through published ports, virtual addresses and tunnels.

mod common;

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    time::Instant,
};

use common::{Lan, Node, Ns, PATIENCE, Task, introduce, service};
use mesh_datapath::XdpMode;

const VNI: u32 = 4097;
const N1: Ipv4Addr = Ipv4Addr::new(192, 168, 78, 1);
const N2: Ipv4Addr = Ipv4Addr::new(192, 168, 78, 2);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 78, 100);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 200);

/// A task on the second node, published on port 81 and behind a virtual address; nothing listens in it.
struct World {
    nodes: Vec<Node>,
    near: Task,
    _far: Task,
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
        introduce(&mut nodes);
        for node in &mut nodes {
            let service = service(81, 8080, (VNI, VIP), &[&far]);
            node.desired.services.insert("far".into(), service);
            node.apply();
        }
        Self {
            nodes,
            near,
            _far: far,
            client,
            _lan: lan,
        }
    }

    fn counters(&self) -> String {
        let counters: Vec<_> = self.nodes.iter().map(Node::counters).collect();
        counters.join("; ")
    }

    /// Sends datagrams of `length` bytes, not to be fragmented, until the socket is told of an error.
    fn told(&self, ns: &Ns, to: Ipv4Addr, port: u16, length: usize) -> std::io::Error {
        ns.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind");
            let (option, value) = (libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO);
            // SAFETY: the value outlives the call and its size is given.
            let set = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::IPPROTO_IP,
                    option,
                    (&raw const value).cast(),
                    size_of_val(&value) as u32,
                )
            };
            assert_eq!(set, 0, "IP_MTU_DISCOVER");
            socket
                .connect(SocketAddr::new(to.into(), port))
                .expect("connect");
            socket
                .set_read_timeout(Some(PATIENCE / 50))
                .expect("a time-out");
            let began = Instant::now();
            while began.elapsed() < PATIENCE {
                // An error is told by whichever call comes next.
                if let Err(error) = socket.send(&vec![7; length]) {
                    return error;
                }
                match socket.recv(&mut [0; 16]) {
                    Err(error)
                        if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                    {
                        return error;
                    }
                    _ => {}
                }
            }
            panic!(
                "{to}:{port}, {length} bytes: nothing was said; {}",
                self.counters()
            );
        })
    }

    fn check(&self) {
        for (what, ns, to, port) in [
            ("a client of the other node", &self.client, N1, 81),
            ("a client of the task's node", &self.client, N2, 81),
            ("a task's call of its node", &self.near.ns, N1, 81),
            (
                "a task's call of a virtual address",
                &self.near.ns,
                VIP,
                8080,
            ),
        ] {
            let error = self.told(ns, to, port, 20);
            assert_eq!(
                error.kind(),
                ErrorKind::ConnectionRefused,
                "{what}: {error}; {}",
                self.counters()
            );
        }
        // 1,500 bytes with its headers: more than a tunnel takes on this LAN.
        let error = self.told(&self.client, N1, 81, 1472);
        assert_eq!(
            error.raw_os_error(),
            Some(libc::EMSGSIZE),
            "{error}; {}",
            self.counters()
        );
    }
}

#[test]
fn errors_without_xdp() {
    World::new(XdpMode::Off).check();
}

#[test]
fn errors_with_xdp() {
    World::new(XdpMode::Native).check();
}
