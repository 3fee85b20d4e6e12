//! Real traffic: two nodes, tasks and a client in namespaces, through programs attached as in production.

mod common;

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpStream},
};

use common::{
    PATIENCE,
    pair::{CLIENT, N1, N2, Pair, TARGET, VIP, VIP_FAR},
};
use mesh_datapath::{Datapath, XdpMode};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn run(xdp: XdpMode) {
    let mut pair = Pair::serving(xdp);
    traffic(&pair);
    own_processes(&pair);
    virtual_addresses(&pair);
    pair.isolation(IpAddr::from);
    one_port_two_nodes(&pair);
    pair.restart(N1.into());
    nothing_changes(&mut pair);
    end(pair);
}

fn traffic(pair: &Pair) {
    let (client, near, n1) = (&pair.client, &pair.near.ns, &pair.nodes[0].ns);
    let [first, second, vip, vip_far, far] =
        [N1, N2, VIP, VIP_FAR, pair.far.overlay].map(IpAddr::from);
    let mut before = BTreeSet::new();
    for to in [first, second] {
        for seen in pair.both_answer(("client to node", client, to, 80), 60) {
            assert_eq!(seen.client.ip(), seen.local.ip());
            // A port that led to the same task by another node may be a substitute.
            assert!(
                seen.client == seen.local || before.contains(&seen.local.port()),
                "the task sees the client's own address and port: {seen:?}"
            );
            before.insert(seen.local.port());
        }
    }
    pair.large(&[
        ("client through n1", client, first, 81),
        ("client to n2", client, second, 81),
        ("task to task", near, far, TARGET),
        ("task to virtual address", near, vip_far, TARGET),
        ("process of n1", n1, LOCALHOST, 81),
    ]);
    let datagrams = [
        ("client through n1", client, first, 81),
        ("client to n1", client, first, 80),
        ("client to n2", client, second, 80),
        ("task to task", near, far, TARGET),
        ("task to virtual address", near, vip, TARGET),
        ("process of n1", n1, LOCALHOST, 80),
    ];
    pair.datagrams(&datagrams);
    pair.large_datagrams(&datagrams);
    // Linux learns no size of the way to its own addresses, so that larger ones are only answered.
    pair.datagrams(&[("process of n1 through the tunnel", n1, first, 81)]);
    // To itself as well: `near` is one of the two.
    pair.both_answer(("task to its own node", near, first, 80), 20);
}

fn own_processes(pair: &Pair) {
    for (node, own) in pair.nodes.iter().zip([N1, N2]) {
        for to in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 9), own] {
            for seen in pair.both_answer(("own process", &node.ns, to.into(), 80), 20) {
                assert_eq!(seen.client.ip(), own);
            }
        }
    }
    let ns = &pair.nodes[0].ns;
    pair.both_answer(("a node's process to another node", ns, N2.into(), 80), 20);
}

fn virtual_addresses(pair: &Pair) {
    for task in [&pair.near, &pair.far] {
        for seen in pair.both_answer(("virtual address", &task.ns, VIP.into(), TARGET), 20) {
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
    if !pair.near.ns.run(|| ping(pair.far.overlay)) {
        pair.fail("ping", "no answer from the task on the other node");
    }
}

/// A client may use one port for connections to two nodes at a time; both may lead to the same task. The port is
/// one that the kernel gives to nobody by itself.
fn one_port_two_nodes(pair: &Pair) {
    let result = pair.client.run(|| {
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

fn nothing_changes(pair: &mut Pair) {
    for node in &mut pair.nodes {
        assert!(node.apply().is_empty());
    }
    let node = &pair.nodes[0];
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
}

fn end(mut pair: Pair) {
    for node in &mut pair.nodes {
        drop(node.datapath.take());
        node.ns
            .run(|| Datapath::remove(&node.config))
            .expect("removed");
        assert!(!node.config.pin_dir.exists());
        assert!(!node.ns.sh("ip -o link").contains("mesh-vxlan"));
    }
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
    run(XdpMode::Native);
}

#[test]
fn without_xdp() {
    run(XdpMode::Off);
}
