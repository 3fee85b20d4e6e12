//! Two nodes on a LAN with a client, a task on each, and two more on another network. What tests of real traffic ask
//! of it in either Internet protocol.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::Instant,
};

use mesh_datapath::{Config, XdpMode};

use super::{
    Lan, Node, Ns, PATIENCE, SILENCE, Task, introduce,
    routers::Routers,
    service,
    talk::{Seen, any, ask, ask_within, call},
};

pub(crate) const VNI: u32 = 4097;
pub(crate) const OTHER: u32 = 4098;
pub(crate) const N1: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub(crate) const N2: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 100);
/// Virtual address of the service on port 80.
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 200);
/// Virtual address of the service on port 81.
pub(crate) const VIP_FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 201);
/// Port of every server.
pub(crate) const TARGET: u16 = 8080;

/// `web` (port 80, `near` and `far`), `far` (port 81, the task on the second node).
pub(crate) struct Pair {
    pub(crate) nodes: Vec<Node>,
    pub(crate) near: Task,
    pub(crate) far: Task,
    /// On another network, with the address of `near`.
    pub(crate) stranger: Task,
    /// On the stranger's network, on the other node.
    friend: Task,
    pub(crate) client: Ns,
    pub(crate) lan: Lan,
    /// Between the first node and the second, if there are any.
    pub(crate) routers: Option<Routers>,
}

/// A call: what it is, who makes it, of which address and port.
pub(crate) type Case<'a> = (&'a str, &'a Ns, IpAddr, u16);

impl Pair {
    /// Everything in place; nothing listens yet.
    pub(crate) fn new(xdp: XdpMode) -> Self {
        Self::with(xdp, |_| {})
    }

    /// The same with nodes of another configuration.
    pub(crate) fn with(xdp: XdpMode, change: impl Fn(&mut Config)) -> Self {
        Self::on(Lan::new(), None, xdp, change)
    }

    /// The second node is behind routers, which take packets of `mtu` bytes from one another.
    pub(crate) fn routed(xdp: XdpMode, mtu: u32) -> Self {
        let lan = Lan::new();
        let routers = Routers::new(&lan, mtu, xdp == XdpMode::Native);
        Self::on(lan, Some(routers), xdp, |_| {})
    }

    fn on(lan: Lan, routers: Option<Routers>, xdp: XdpMode, change: impl Fn(&mut Config)) -> Self {
        let second = routers.as_ref().map_or(&lan, |routers| &routers.beyond);
        let mut nodes = vec![
            Node::new(&lan, "n1", N1, xdp),
            Node::new(second, "n2", N2, xdp),
        ];
        let client = Ns::new("client");
        lan.join(&client, "p-client", CLIENT, false);
        let a = |net: u8, host: u8| Ipv4Addr::new(10, 0, net, host);
        let near = Task::new(&mut nodes[0], "near", VNI, a(16, 11), a(0, 11));
        let far = Task::new(&mut nodes[1], "far", VNI, a(16, 12), a(0, 12));
        let stranger = Task::new(&mut nodes[1], "stranger", OTHER, a(16, 11), a(0, 13));
        let friend = Task::new(&mut nodes[0], "friend", OTHER, a(16, 13), a(0, 14));
        introduce(&mut nodes);
        for node in &mut nodes {
            change(&mut node.config);
            let services = &mut node.desired.services;
            let web = service(80, TARGET, (VNI, VIP), &[&near, &far]);
            services.insert("web".into(), web.into());
            let own = service(81, TARGET, (VNI, VIP_FAR), &[&far]);
            services.insert("far".into(), own.into());
            node.apply();
        }
        Self {
            nodes,
            near,
            far,
            stranger,
            friend,
            client,
            lan,
            routers,
        }
    }

    /// With servers in all tasks.
    pub(crate) fn serving(xdp: XdpMode) -> Self {
        let pair = Self::new(xdp);
        pair.serve();
        pair
    }

    /// Starts servers in all tasks.
    pub(crate) fn serve(&self) {
        for task in [&self.near, &self.far, &self.stranger, &self.friend] {
            task.serve(TARGET);
        }
    }

    /// Changes the size of packets on a node's wire.
    pub(crate) fn resize(&self, node: usize, mtu: u32) {
        let name = ["n1", "n2"][node];
        self.nodes[node]
            .ns
            .sh(&format!("ip link set eth0 mtu {mtu}"));
        self.lan.0.sh(&format!("ip link set p-{name} mtu {mtu}"));
    }

    /// Has the LAN lose larger packets than these of both nodes, whose wires are as before.
    pub(crate) fn narrow(&self, mtu: u32) {
        for port in ["p-n1", "p-n2"] {
            self.lan.0.sh(&format!("ip link set {port} mtu {mtu}"));
        }
    }

    /// Tells the other node what a node's wire takes.
    pub(crate) fn tell(&mut self, node: usize, mtu: u32) {
        let address = IpAddr::V4([N1, N2][node]);
        let other = &mut self.nodes[1 - node];
        other.desired.peers.insert(address, Some(mtu));
        other.apply();
    }

    /// What both nodes have counted, for a failed test to show.
    pub(crate) fn counters(&self) -> String {
        let [n1, n2] = [&self.nodes[0], &self.nodes[1]].map(Node::counters);
        format!("n1: {n1}; n2: {n2}")
    }

    pub(crate) fn fail(&self, what: &str, why: &str) -> ! {
        panic!("{what}: {why}; {}", self.counters())
    }

    /// Makes a call `times` times without a failure; both tasks have to have answered.
    pub(crate) fn both_answer(&self, (what, ns, to, port): Case<'_>, times: usize) -> Vec<Seen> {
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

    /// Millions of bytes there and back.
    pub(crate) fn large(&self, cases: &[Case<'_>]) {
        let payload: Vec<u8> = (0..4_000_000_u32).map(|i| ((i * 31) >> 3) as u8).collect();
        for (what, ns, to, port) in cases {
            if let Err(why) = ns.run(|| call(*to, *port, &payload)) {
                self.fail(what, &why);
            }
        }
    }

    /// Datagrams of a flow all go to one task.
    pub(crate) fn datagrams(&self, cases: &[Case<'_>]) {
        self.datagrams_of(&[1300], cases);
    }

    /// The same with datagrams that take many packets.
    pub(crate) fn large_datagrams(&self, cases: &[Case<'_>]) {
        self.datagrams_of(&[8_000, 60_000], cases);
    }

    fn datagrams_of(&self, lengths: &[u32], cases: &[Case<'_>]) {
        for (what, ns, to, port) in cases {
            let result = ns.run(|| {
                // The first that is too big for a tunnel is only told so, on either way.
                let mut lost = 0;
                for round in 0..20_u8 {
                    let socket = UdpSocket::bind((any(*to), 0)).map_err(|e| e.to_string())?;
                    let first = ask(&socket, *to, *port, &[round; 700])?;
                    for length in lengths {
                        let payload: Vec<u8> =
                            (0..*length).map(|i| (i >> 3) as u8 ^ round).collect();
                        let ask = || ask_within(SILENCE, &socket, *to, *port, &payload);
                        let seen = loop {
                            match ask() {
                                Err(_) if lost < 2 => lost += 1,
                                answer => break answer,
                            }
                        };
                        let seen = seen.map_err(|why| format!("{length} bytes: {why}"))?;
                        if seen.name != first.name {
                            return Err(format!("one flow, two tasks: {first:?} {seen:?}"));
                        }
                    }
                }
                Ok(())
            });
            if let Err(why) = result {
                self.fail(what, &why);
            }
        }
    }

    /// Connections to the first node live through a restart; the new process attaches nothing anew.
    pub(crate) fn restart(&mut self, to: IpAddr) {
        let before = self.open_flows("far");
        let mut open = self
            .client
            .run(|| TcpStream::connect((to, 81)).expect("connect"));
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
        assert_eq!(self.open_flows("far"), before + 1);
        for node in &mut self.nodes {
            drop(node.datapath.take());
        }
        talk("with no process");
        for node in &mut self.nodes {
            assert_eq!(node.apply(), mesh_datapath::Report::default());
        }
        talk("adopted");
        drop(open);
        let limit = Instant::now() + PATIENCE;
        while self.open_flows("far") != before {
            assert!(Instant::now() < limit, "the connection has been closed");
            std::thread::yield_now();
        }
        self.both_answer(("after the restart", &self.client, to, 80), 20);
    }

    /// Flows that are open to the tasks of a service, both nodes together.
    fn open_flows(&self, service: &str) -> u64 {
        let loads = self.nodes.iter().flat_map(|node| {
            let datapath = node.datapath.as_ref().expect("open");
            datapath.loads(Some(service)).expect("loads")
        });
        loads.map(|load| load.open).sum()
    }

    /// `far` reaches `near`. The stranger reaches its friend, and not `far`, which is on another network. `over` gives
    /// an address on an overlay network in the Internet protocol that is meant.
    pub(crate) fn isolation(&self, over: fn(Ipv4Addr) -> IpAddr) {
        let answer = self
            .far
            .ns
            .run(|| call(over(self.near.overlay), TARGET, b"x"));
        assert_eq!(answer.map(|s| s.name).as_deref(), Ok("near"));
        let connects = |task: &Task, limit| {
            let address = SocketAddr::new(over(task.overlay), TARGET);
            let connect = || TcpStream::connect_timeout(&address, limit);
            self.stranger.ns.run(connect).is_ok()
        };
        assert!(
            connects(&self.friend, PATIENCE),
            "a task does not reach its network"
        );
        assert!(
            !connects(&self.far, SILENCE),
            "a task reached one of another network"
        );
    }
}
