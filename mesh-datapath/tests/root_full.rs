//! Real traffic with many more flows than the tables have entries, and beside more ports and addresses: nothing that was
//! there before breaks.

mod common;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::Arc,
};

use common::{
    INGRESS, LAN_V6, Node, PATIENCE,
    pair::{N1, N2, Pair, TARGET, VIP},
    six,
    talk::ask,
};
use mesh_datapath::{
    Backend, Desired, Endpoint, FullTable, Location, PublishedPort, Service, XdpMode, mac_of,
};

/// Entries of each table. Smaller ones the kernel divides up among the processors, and they evict what has just come.
const ENTRIES: u32 = 1024;
/// Connections, and flows of datagrams, of which each of two nodes answers some half.
const CONNECTIONS: usize = 100;
const FLOWS: usize = 5000;

fn connect(to: IpAddr) -> BufReader<TcpStream> {
    let address = SocketAddr::new(to, 80);
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let mut stream = BufReader::new(stream);
    let mut greeting = String::new();
    stream.read_line(&mut greeting).expect("greeted");
    stream
}

fn talk(stream: &mut BufReader<TcpStream>, what: &[u8]) {
    stream.get_mut().write_all(what).expect("asked");
    let mut answer = vec![0; what.len()];
    stream.read_exact(&mut answer).expect("answered");
    assert_eq!(answer, what);
}

fn run(xdp: XdpMode) {
    let pair = Pair::with(xdp, |config| config.flow_entries = ENTRIES);
    pair.serve();
    pair.client.run(|| {
        for to in [IpAddr::from(N1), six(LAN_V6, N1).into()] {
            let connections = (0..CONNECTIONS).map(|_| connect(to));
            let mut connections: Vec<_> = connections.collect();
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            for _ in 0..FLOWS {
                let socket = UdpSocket::bind(any).expect("a socket");
                ask(&socket, to, 80, b"one of many").expect("answered");
            }
            // By now their entries have made room for others.
            for stream in &mut connections {
                talk(stream, &[7; 700]);
            }
        }
    });
    for node in &pair.nodes {
        let fill = node.datapath.as_ref().expect("open").fill().expect("fill");
        let flows = fill.iter().find(|fill| fill.table == "flows");
        let flows = flows.expect("a table of flows");
        // More than there ever were at a time: all connections' entries among them.
        assert!(flows.evicted > u64::from(ENTRIES), "{flows:?}");
        assert_eq!(flows.refused, 0, "{flows:?}");
    }
}

#[test]
fn full_tables_break_no_connection() {
    run(XdpMode::Native);
}

#[test]
fn full_tables_break_no_connection_without_xdp() {
    run(XdpMode::Off);
}

/// Entries of the tables; one of a port is kept for changes.
const ENDPOINTS: u32 = 65_536;
const PEERS: u32 = 4096;
const PORTS: u16 = 16_384 - 1;
const VIPS: u32 = 16_384;
/// More of each than there is room for.
const MORE: u32 = 5;

/// Published, and a task made, when all is full.
const LATE: u16 = 82;
const LATE_TASK: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 200));

/// Addresses that nothing else has.
fn filler(number: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 200, 0, 0)) + number).into()
}

fn is_filler(address: IpAddr) -> bool {
    (filler(0)..filler(1 << 20)).contains(&address)
}

fn endpoint(address: IpAddr) -> Endpoint {
    Endpoint {
        mac: mac_of(address),
        location: Location::Remote(N2.into()),
        encrypted: false,
    }
}

/// More of everything than the tables hold.
fn fill_up(desired: &mut Desired) {
    let count = |there: usize, capacity: u32| capacity + MORE - there as u32;
    for number in 0..count(desired.endpoints.len(), ENDPOINTS) {
        let address = filler(number);
        let endpoint = endpoint(address);
        desired.endpoints.insert((INGRESS, address), endpoint);
    }
    for number in 0..count(desired.peers.len(), PEERS) {
        desired.peers.insert(filler(number), None);
    }
    let services = desired.services.values();
    let vips = services.clone().map(|service| service.vips.len()).sum();
    let ports: usize = services.map(|service| service.ports.len()).sum();
    let ports = count(ports, PORTS.into()) as u16;
    let service = Service {
        name: "filler".into(),
        ports: (0..ports)
            .map(|number| PublishedPort {
                protocol: 6,
                published: 1000 + number,
                target: TARGET,
            })
            .collect(),
        vips: (0..count(vips, VIPS))
            .map(|number| ((1, filler(number)), Vec::new()))
            .collect(),
        ..Service::default()
    };
    desired.services.insert("filler".into(), service.into());
}

fn empty(desired: &mut Desired) {
    desired.services.remove("filler");
    desired.peers.retain(|address, _| !is_filler(*address));
    desired
        .endpoints
        .retain(|(_, address), _| !is_filler(*address));
}

/// What is left out, with the backends.
fn left_out(node: &Node) -> (Vec<(&'static str, usize)>, usize) {
    let room = node.datapath.as_ref().expect("open").room();
    let of = |full: &FullTable| (full.table, full.left_out);
    (room.full.iter().map(of).collect(), room.backends_left_out)
}

#[test]
fn what_tables_have_no_room_for_keeps_nothing_else_from_working() {
    let mut pair = Pair::serving(XdpMode::Off);
    let more = MORE as usize;
    let node = &mut pair.nodes[0];
    fill_up(&mut node.desired);
    node.apply();
    let full = ["endpoints", "peers", "ports", "vips"].map(|table| (table, more));
    assert_eq!(left_out(node), (full.to_vec(), 0));
    assert!(
        node.apply().is_empty(),
        "nothing takes the place of another"
    );
    let both_answer = |pair: &Pair, times| {
        pair.both_answer(("client", &pair.client, N1.into(), 80), times);
        let (far, vip) = (&pair.far.ns, VIP.into());
        pair.both_answer(("virtual address", far, vip, TARGET), times);
        pair.isolation(IpAddr::from);
    };
    both_answer(&pair, 20);

    // A task and a port more. The task has no entry, so that no flow is sent to it; the port is nobody's.
    for node in &mut pair.nodes {
        let services = &mut node.desired.services;
        let web = Arc::make_mut(services.get_mut("web").expect("it"));
        let mut late = web.clone();
        late.ports = [PublishedPort {
            protocol: 6,
            published: LATE,
            target: TARGET,
        }]
        .into();
        late.vips.clear();
        web.ingress.push(Backend {
            address: LATE_TASK,
            draining: false,
        });
        services.insert("late".into(), late.into());
        let key = (INGRESS, LATE_TASK);
        node.desired.endpoints.insert(key, endpoint(LATE_TASK));
    }
    let node = &mut pair.nodes[0];
    node.apply();
    let full = [
        ("endpoints", more + 1),
        ("peers", more),
        ("ports", more + 1),
        ("vips", more),
    ];
    // The service has a port of TCP and one of UDP.
    assert_eq!(left_out(node), (full.to_vec(), 2));
    both_answer(&pair, 40);
    let late = SocketAddr::new(N1.into(), LATE);
    let refused = pair
        .client
        .run(|| TcpStream::connect_timeout(&late, PATIENCE));
    assert!(refused.is_err(), "a port that is not there");

    // With room for them, there is nothing that they lack.
    for node in &mut pair.nodes {
        empty(&mut node.desired);
        let services = &mut node.desired.services;
        let web = Arc::make_mut(services.get_mut("web").expect("it"));
        web.ingress.retain(|backend| backend.address != LATE_TASK);
        node.apply();
        assert_eq!(left_out(node), (Vec::new(), 0));
    }
    pair.both_answer(("late", &pair.client, N1.into(), LATE), 20);
    both_answer(&pair, 20);
}
