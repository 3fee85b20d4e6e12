//! Real traffic of SCTP. The kernel here need not have it: raw sockets make and check the packets.

mod common;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::Arc,
};

use common::{
    LAN_V6, Node, Ns, PATIENCE, SILENCE,
    pair::{N1, N2, Pair, TARGET},
    six,
};
use mesh_common::{
    crc,
    wire::{SCTP, TCP},
};
use mesh_datapath::{PublishedPort, Service, XdpMode};
use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recvfrom,
        sendto, setsockopt, socket, sockopt::ReceiveTimeout,
    },
    time::TimeVal,
};

/// Length of the header.
const HEADER: usize = 12;

/// A packet: ports, and what follows the header.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Packet {
    from: u16,
    to: u16,
    rest: Vec<u8>,
}

impl Packet {
    fn bytes(&self) -> Vec<u8> {
        let ports = [self.from.to_be_bytes(), self.to.to_be_bytes()].concat();
        let mut out = [&ports[..], &[1, 2, 3, 4, 0, 0, 0, 0], &self.rest].concat();
        let check = crc::of(&out).to_le_bytes();
        out[8..HEADER].copy_from_slice(&check);
        out
    }

    /// `None`: its checksum is wrong.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let packet = Self {
            from: u16::from_be_bytes([bytes[0], bytes[1]]),
            to: u16::from_be_bytes([bytes[2], bytes[3]]),
            rest: bytes[HEADER..].to_vec(),
        };
        (packet.bytes() == bytes).then_some(packet)
    }
}

/// All SCTP of a namespace in one of the protocols.
struct Raw(OwnedFd);

impl Raw {
    fn open(ns: &Ns, ipv6: bool) -> Self {
        let family = if ipv6 {
            AddressFamily::Inet6
        } else {
            AddressFamily::Inet
        };
        Self(ns.run(|| {
            let kind = (SockType::Raw, SockFlag::empty(), SockProtocol::Sctp);
            socket(family, kind.0, kind.1, kind.2).expect("a raw socket")
        }))
    }

    fn send(&self, packet: &Packet, to: IpAddr) {
        let to = SockaddrStorage::from(SocketAddr::new(to, 0));
        sendto(self.0.as_raw_fd(), &packet.bytes(), &to, MsgFlags::empty()).expect("sent");
    }

    /// The next packet and where it is from; `None` if none comes.
    fn receive(&self) -> Option<(Packet, IpAddr)> {
        let mut buffer = [0; 2048];
        let (length, from) = recvfrom::<SockaddrStorage>(self.0.as_raw_fd(), &mut buffer).ok()?;
        let from = from.expect("a sender");
        if let Some(v6) = from.as_sockaddr_in6() {
            let packet = Packet::parse(&buffer[..length]).expect("a right checksum");
            return Some((packet, v6.ip().into()));
        }
        let v4 = from.as_sockaddr_in().expect("IPv4");
        let header = usize::from(buffer[0] & 0xf) * 4;
        let packet = Packet::parse(&buffer[header..length]).expect("a right checksum");
        Some((packet, v4.ip().into()))
    }
}

/// Answers with its name in front of what it was sent.
fn serve(ns: &Ns, name: &'static str, ipv6: bool) {
    let socket = Raw::open(ns, ipv6);
    std::thread::spawn(move || {
        while let Some((asked, client)) = socket.receive() {
            assert_eq!(asked.to, TARGET);
            let answer = Packet {
                from: asked.to,
                to: asked.from,
                rest: [name.as_bytes(), b" ", &asked.rest].concat(),
            };
            socket.send(&answer, client);
        }
    });
}

/// Flows to a port of an address: who answered them.
fn ask(ns: &Ns, to: IpAddr, port: u16) -> BTreeSet<String> {
    let socket = Raw::open(ns, to.is_ipv6());
    let patience = TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
    setsockopt(&socket.0, ReceiveTimeout, &patience).expect("a time-out");
    let mut names = BTreeSet::new();
    for flow in 0..40 {
        let asked = Packet {
            from: 30_000 + flow,
            to: port,
            rest: vec![b'?'; usize::from(flow) * 33],
        };
        socket.send(&asked, to);
        let (answer, from) = socket.receive().expect("an answer");
        assert_eq!((from, answer.from, answer.to), (to, port, asked.from));
        let text = String::from_utf8(answer.rest).expect("text");
        let (name, rest) = text.split_once(' ').expect("a name");
        assert_eq!(rest.as_bytes(), asked.rest);
        names.insert(name.to_owned());
    }
    names
}

fn run(xdp: XdpMode) {
    let mut pair = Pair::new(xdp);
    for node in &mut pair.nodes {
        let web = node.desired.services.get_mut("web").expect("web");
        Arc::make_mut(web).ports.insert(PublishedPort {
            protocol: SCTP,
            published: 80,
            target: TARGET,
        });
        node.apply();
    }
    let both = BTreeSet::from(["far", "near"].map(str::to_owned));
    for ipv6 in [false, true] {
        serve(&pair.near.ns, "near", ipv6);
        serve(&pair.far.ns, "far", ipv6);
        for node in [N1, N2] {
            let to = if ipv6 {
                six(LAN_V6, node).into()
            } else {
                IpAddr::from(node)
            };
            assert_eq!(ask(&pair.client, to, 80), both, "{to}: {}", pair.counters());
        }
    }
}

#[test]
fn sctp_traffic() {
    run(XdpMode::Native);
}

#[test]
fn sctp_traffic_without_xdp() {
    run(XdpMode::Off);
}

/// Entries of the table of SCTP's ports.
const PORTS: u16 = 4096;
/// More than there is room for.
const MORE: u16 = 5;
/// Published when the table is full.
const LATE: u16 = 82;

#[test]
fn ports_that_find_no_room_keep_none_of_the_others_from_working() {
    let mut pair = Pair::new(XdpMode::Off);
    let published = |protocol, published| PublishedPort {
        protocol,
        published,
        target: TARGET,
    };
    let both = BTreeSet::from(["far", "near"].map(str::to_owned));
    for node in &mut pair.nodes {
        let web = node.desired.services.get_mut("web").expect("web");
        Arc::make_mut(web).ports.insert(published(SCTP, 80));
        node.apply();
    }
    pair.serve();
    serve(&pair.near.ns, "near", false);
    serve(&pair.far.ns, "far", false);
    let left_out = |node: &Node| {
        let full = node.datapath.as_ref().expect("open").room().full;
        full.iter()
            .map(|full| (full.table, full.left_out))
            .collect::<Vec<_>>()
    };
    for node in &mut pair.nodes {
        let filler = Service {
            name: "filler".into(),
            ports: (0..PORTS + MORE - 1)
                .map(|number| published(SCTP, 1000 + number))
                .collect(),
            ..Service::default()
        };
        let services = &mut node.desired.services;
        services.insert("filler".into(), filler.into());
        node.apply();
        assert_eq!(left_out(node), [("ports", MORE.into())]);
        assert!(node.apply().is_empty(), "nothing takes another's place");
        // The same port of TCP has a table of its own.
        let web = node.desired.services.get_mut("web").expect("web");
        let ports = [SCTP, TCP].map(|protocol| published(protocol, LATE));
        Arc::make_mut(web).ports.extend(ports);
        node.apply();
        assert_eq!(left_out(node), [("ports", usize::from(MORE) + 1)]);
    }
    assert_eq!(ask(&pair.client, N1.into(), 80), both);
    pair.both_answer(("late", &pair.client, N1.into(), LATE), 20);
    let late = Raw::open(&pair.client, false);
    let silence = TimeVal::new(SILENCE.as_secs().cast_signed(), 0);
    setsockopt(&late.0, ReceiveTimeout, &silence).expect("a time-out");
    let asked = Packet {
        from: 30_000,
        to: LATE,
        rest: Vec::new(),
    };
    late.send(&asked, N1.into());
    assert_eq!(late.receive(), None, "a port without an entry");
    for node in &mut pair.nodes {
        node.desired.services.remove("filler");
        node.apply();
        assert_eq!(left_out(node), []);
    }
    assert_eq!(ask(&pair.client, N1.into(), LATE), both);
}
