//! Real traffic with many more flows than the tables have entries: no open connection breaks.

mod common;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
};

use common::{
    LAN_V6, PATIENCE,
    pair::{N1, Pair},
    six,
    talk::ask,
};
use mesh_datapath::XdpMode;

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
