//! Real traffic of SCTP. The kernel need not have it: raw sockets make and check the packets. Where it has, as that of
//! `cargo xtask vm-test`, its own associations as well.

mod common;

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    thread,
};

use common::{
    LAN_V6, Node, Ns, OVERLAY_V6, PATIENCE, SILENCE, both,
    pair::{CLIENT, N1, N2, Pair, TARGET, VIP, VIP_FAR},
    six,
};
use mesh_common::{
    crc,
    wire::{SCTP, TCP},
};
use mesh_datapath::{PublishedPort, Service, XdpMode};
use nix::sys::{
    socket::{
        AddressFamily, Backlog, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind,
        connect, listen, recvfrom, sendto, setsockopt, socket,
        sockopt::{ReceiveTimeout, SendTimeout},
    },
    time::TimeVal,
};

/// Length of the header.
const HEADER: usize = 12;
/// Type of the chunk by which a kernel that has SCTP ends what it knows nothing of (RFC 9260, section 3.3.7).
const ABORT: u8 = 6;

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

/// A socket of SCTP.
fn open(ns: &Ns, kind: SockType, ipv6: bool) -> OwnedFd {
    let family = if ipv6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    ns.run(|| {
        let (flags, protocol) = (SockFlag::empty(), SockProtocol::Sctp);
        socket(family, kind, flags, protocol).expect("a socket of SCTP")
    })
}

/// All SCTP of a namespace in one of the protocols.
struct Raw(OwnedFd);

impl Raw {
    fn open(ns: &Ns, ipv6: bool) -> Self {
        Self(open(ns, SockType::Raw, ipv6))
    }

    fn send(&self, packet: &Packet, to: IpAddr) {
        let to = SockaddrStorage::from(SocketAddr::new(to, 0));
        sendto(self.0.as_raw_fd(), &packet.bytes(), &to, MsgFlags::empty()).expect("sent");
    }

    /// The next packet to a port and where it is from; `None` if none comes. Not what a kernel that has SCTP answers to raw
    /// sockets' packets, whose checksum may be left for a device to complete.
    fn receive(&self, port: u16) -> Option<(Packet, IpAddr)> {
        loop {
            let (packet, from) = self.receive_any()?;
            if packet.get(HEADER) == Some(&ABORT) {
                continue;
            }
            let packet = Packet::parse(&packet).expect("a right checksum");
            // Clients and servers of a namespace see the packets of one another.
            if packet.to == port {
                return Some((packet, from));
            }
        }
    }

    fn receive_any(&self) -> Option<(Vec<u8>, IpAddr)> {
        let mut buffer = [0; 2048];
        let (length, from) = recvfrom::<SockaddrStorage>(self.0.as_raw_fd(), &mut buffer).ok()?;
        let from = from.expect("a sender");
        if let Some(v6) = from.as_sockaddr_in6() {
            return Some((buffer[..length].to_vec(), v6.ip().into()));
        }
        let v4 = from.as_sockaddr_in().expect("IPv4");
        let header = usize::from(buffer[0] & 0xf) * 4;
        Some((buffer[header..length].to_vec(), v4.ip().into()))
    }
}

/// Answers with its name in front of what it was sent.
fn serve(ns: &Ns, name: &'static str, ipv6: bool) {
    let socket = Raw::open(ns, ipv6);
    std::thread::spawn(move || {
        while let Some((asked, client)) = socket.receive(TARGET) {
            let answer = Packet {
                from: asked.to,
                to: asked.from,
                rest: [name.as_bytes(), b" ", &asked.rest].concat(),
            };
            socket.send(&answer, client);
        }
    });
}

/// Flows to a port of an address, each from a port of its own: who answered them.
fn ask(ns: &Ns, to: IpAddr, port: u16) -> Result<BTreeSet<String>, String> {
    static FROM: AtomicU16 = AtomicU16::new(30_000);
    let socket = Raw::open(ns, to.is_ipv6());
    let patience = TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
    setsockopt(&socket.0, ReceiveTimeout, &patience).expect("a time-out");
    let mut names = BTreeSet::new();
    for flow in 0..40 {
        let asked = Packet {
            from: FROM.fetch_add(1, Ordering::Relaxed),
            to: port,
            rest: vec![b'?'; flow * 33],
        };
        socket.send(&asked, to);
        let (answer, from) = socket
            .receive(asked.from)
            .ok_or_else(|| format!("no answer to flow {flow}"))?;
        assert_eq!((from, answer.from, answer.to), (to, port, asked.from));
        let text = String::from_utf8(answer.rest).expect("text");
        let (name, rest) = text.split_once(' ').expect("a name");
        assert_eq!(rest.as_bytes(), asked.rest);
        names.insert(name.to_owned());
    }
    Ok(names)
}

/// `web` is published on port 80 of SCTP as well.
fn published(xdp: XdpMode) -> Pair {
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
    pair
}

fn run(xdp: XdpMode) {
    let pair = published(xdp);
    let all = BTreeSet::from(["far", "near"].map(str::to_owned));
    for ipv6 in [false, true] {
        serve(&pair.near.ns, "near", ipv6);
        serve(&pair.far.ns, "far", ipv6);
        let own = if ipv6 {
            IpAddr::V6(Ipv6Addr::LOCALHOST)
        } else {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        };
        let [first, second] = [N1, N2].map(|node| both(LAN_V6, node)[usize::from(ipv6)]);
        let vip = both(OVERLAY_V6, VIP)[usize::from(ipv6)];
        let (client, n1, task) = (&pair.client, &pair.nodes[0].ns, &pair.near.ns);
        for (what, ns, to, port) in [
            ("client", client, first, 80),
            ("client", client, second, 80),
            ("own process", n1, own, 80),
            ("own process", n1, first, 80),
            ("own process", n1, second, 80),
            ("task", task, first, 80),
            ("task", task, vip, TARGET),
        ] {
            let asked = format!("{what}, {to}");
            let names = ask(ns, to, port).unwrap_or_else(|why| pair.fail(&asked, &why));
            assert_eq!(names, all, "{asked}: {}", pair.counters());
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

/// Length of a message that fits a packet in a tunnel.
const MESSAGE: usize = 1000;
/// Of one that takes several packets.
const LARGE: usize = 9000;

/// Takes associations in both protocols; answers a message with its name, whom it sees, and the message.
fn accept(ns: &Ns, name: &'static str) {
    let socket = open(ns, SockType::Stream, true);
    let any = SockaddrStorage::from(SocketAddr::from((Ipv6Addr::UNSPECIFIED, TARGET)));
    bind(socket.as_raw_fd(), &any).expect("bound");
    listen(&socket, Backlog::new(16).expect("a number")).expect("listening");
    let listener = TcpListener::from(socket);
    thread::spawn(move || {
        for association in listener.incoming().flatten() {
            thread::spawn(move || answer(association, name));
        }
    });
}

fn answer(mut association: TcpStream, name: &str) -> std::io::Result<()> {
    let client = association.peer_addr()?.ip().to_canonical();
    let mut length = [0; 4];
    association.read_exact(&mut length)?;
    let mut message = vec![0; u32::from_be_bytes(length) as usize];
    association.read_exact(&mut message)?;
    let mut answer = format!("{name} {client}\n").into_bytes();
    answer.append(&mut message);
    association.write_all(&answer)?;
    // Until the client has ended it.
    association.read(&mut [0]).map(drop)
}

/// Who answers, and whom it sees.
type Answers = BTreeSet<(String, IpAddr)>;

/// Associations with a port of an address, a message of `length` each way, until `enough` have answered: who they are.
fn associate(
    ns: &Ns,
    (to, port): (IpAddr, u16),
    length: usize,
    enough: usize,
) -> Result<Answers, String> {
    let patience = TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
    let mut answers = Answers::new();
    for number in 0..40_usize {
        // Some more, as nobody else may answer.
        if number >= 10 && answers.len() >= enough {
            break;
        }
        let socket = open(ns, SockType::Stream, to.is_ipv6());
        setsockopt(&socket, ReceiveTimeout, &patience).expect("a time-out");
        setsockopt(&socket, SendTimeout, &patience).expect("a time-out");
        let peer = SockaddrStorage::from(SocketAddr::new(to, port));
        let text = |step: &str, error: &dyn std::fmt::Display| {
            format!("{to}, association {number}, {step}: {error}")
        };
        connect(socket.as_raw_fd(), &peer).map_err(|e| text("connect", &e))?;
        // One-to-one sockets have the calls of TCP's (RFC 6458, section 4).
        let mut association = TcpStream::from(socket);
        let message: Vec<u8> = (0..length).map(|i| (i >> 3 ^ number) as u8).collect();
        let told = u32::try_from(length).expect("a length").to_be_bytes();
        let sent = association.write_all(&[&told[..], &message].concat());
        sent.map_err(|e| text("send", &e))?;
        let mut answer = Vec::new();
        let mut buffer = [0; 2 * LARGE];
        while answer.len() < length || !answer.ends_with(&message) {
            let read = association.read(&mut buffer);
            match read.map_err(|e| text("receive", &e))? {
                0 => return Err(text("receive", &"ended")),
                read => answer.extend(&buffer[..read]),
            }
        }
        let greeting = String::from_utf8_lossy(&answer[..answer.len() - length]);
        let (name, seen) = greeting.trim_end().split_once(' ').unwrap_or_default();
        let seen = seen.parse().map_err(|e| text(&greeting, &e))?;
        answers.insert((name.to_owned(), seen));
    }
    Ok(answers)
}

fn associations(xdp: XdpMode) {
    let pair = published(xdp);
    accept(&pair.near.ns, "near");
    accept(&pair.far.ns, "far");
    let own = pair.near.overlay;
    let (client, task) = (&pair.client, &pair.near.ns);
    for (ns, prefix, to, port, answers) in [
        (
            client,
            LAN_V6,
            N1,
            80,
            &[("near", CLIENT), ("far", CLIENT)][..],
        ),
        (client, LAN_V6, N2, 80, &[("near", CLIENT), ("far", CLIENT)]),
        // A task that reaches itself sees the virtual address.
        (
            task,
            OVERLAY_V6,
            VIP,
            TARGET,
            &[("near", VIP), ("far", own)],
        ),
        (task, OVERLAY_V6, VIP_FAR, TARGET, &[("far", own)]),
    ] {
        let v4: fn(Ipv4Addr, Ipv6Addr) -> IpAddr = |address, _| address.into();
        for family in [v4, |address, prefix| six(prefix, address).into()] {
            let wanted: Answers = answers
                .iter()
                .map(|(name, seen)| ((*name).to_owned(), family(*seen, prefix)))
                .collect();
            let to = family(to, prefix);
            // A client learns the size of the way by a larger message, whose checksum is wrong in fragments: see README.md.
            let lengths = if prefix == OVERLAY_V6 {
                &[MESSAGE, LARGE][..]
            } else {
                &[MESSAGE]
            };
            for length in lengths.iter().copied() {
                let found = associate(ns, (to, port), length, wanted.len());
                let found = found.unwrap_or_else(|why| pair.fail("SCTP", &why));
                assert_eq!(found, wanted, "{to}: {}", pair.counters());
            }
        }
    }
}

#[test]
#[ignore = "`cargo xtask vm-test root_sctp` runs it: it needs the kernel module sctp"]
fn associations_with_xdp() {
    associations(XdpMode::Native);
}

#[test]
#[ignore = "`cargo xtask vm-test root_sctp` runs it: it needs the kernel module sctp"]
fn associations_without_xdp() {
    associations(XdpMode::Off);
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
    let all = BTreeSet::from(["far", "near"].map(str::to_owned));
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
    assert_eq!(ask(&pair.client, N1.into(), 80), Ok(all.clone()));
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
    assert_eq!(late.receive(asked.from), None, "a port without an entry");
    for node in &mut pair.nodes {
        node.desired.services.remove("filler");
        node.apply();
        assert_eq!(left_out(node), []);
    }
    assert_eq!(ask(&pair.client, N1.into(), LATE), Ok(all));
}
