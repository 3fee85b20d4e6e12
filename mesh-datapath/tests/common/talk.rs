//! Servers that say who they are and whom they see, and clients that listen.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    thread,
    time::Duration,
};

use super::{Ns, PATIENCE};

/// Above any datagram's length.
const LARGEST: usize = 1 << 16;

/// Echoes TCP and UDP on `port`. The first bytes of a TCP answer, and each datagram's, are "name client".
pub(crate) fn serve(ns: &Ns, name: &str, port: u16) {
    let name: Arc<str> = name.into();
    let listener = ns.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("bind"));
    let socket = ns.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).expect("bind"));
    let tcp_name = Arc::clone(&name);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Ok(client) = stream.peer_addr() else {
                continue;
            };
            let greeting = format!("{tcp_name} {}\n", canonical(client));
            thread::spawn(move || echo(stream, &greeting));
        }
    });
    thread::spawn(move || {
        let mut buffer = vec![0; LARGEST];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let mut answer = format!("{name} {}\n", canonical(client)).into_bytes();
            answer.extend(&buffer[..length]);
            let _ = socket.send_to(&answer, client);
        }
    });
}

/// An IPv4 client as such, though it came to an IPv6 socket.
fn canonical(client: SocketAddr) -> SocketAddr {
    SocketAddr::new(client.ip().to_canonical(), client.port())
}

fn echo(mut stream: TcpStream, greeting: &str) {
    let mut buffer = vec![0; 64 * 1024];
    if stream.write_all(greeting.as_bytes()).is_err() {
        return;
    }
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 || stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Who answered a TCP connection, and whom it saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) client: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// Connects, has `payload` echoed, and says who answered.
pub(crate) fn call(to: impl Into<IpAddr>, port: u16, payload: &[u8]) -> Result<Seen, String> {
    let address = SocketAddr::new(to.into(), port);
    let text = |e: std::io::Error| format!("{address}: {e}");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(text)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(text)?;
    let local = stream.local_addr().map_err(text)?;
    let mut writer = stream.try_clone().map_err(text)?;
    let back = thread::scope(|scope| {
        scope.spawn(move || {
            let _ = writer.write_all(payload);
            let _ = writer.shutdown(Shutdown::Write);
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back).map(|_| back)
    })
    .map_err(text)?;
    let end = back.iter().position(|b| *b == b'\n').ok_or("no greeting")?;
    if &back[end + 1..] != payload {
        return Err(format!(
            "{} bytes came back of {}",
            back.len() - end - 1,
            payload.len()
        ));
    }
    parse(&back[..end], local)
}

/// What a socket that talks to `peer` is bound to.
pub(crate) fn any(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Sends a datagram and says who answered.
pub(crate) fn ask(
    socket: &UdpSocket,
    to: impl Into<IpAddr>,
    port: u16,
    payload: &[u8],
) -> Result<Seen, String> {
    ask_within(PATIENCE, socket, to, port, payload)
}

/// As [`ask`], with another limit.
pub(crate) fn ask_within(
    limit: Duration,
    socket: &UdpSocket,
    to: impl Into<IpAddr>,
    port: u16,
    payload: &[u8],
) -> Result<Seen, String> {
    let address = SocketAddr::new(to.into(), port);
    let text = |e: std::io::Error| format!("{address}: {e}");
    socket.set_read_timeout(Some(limit)).map_err(text)?;
    socket.send_to(payload, address).map_err(text)?;
    let mut buffer = vec![0; LARGEST];
    let (length, from) = socket.recv_from(&mut buffer).map_err(text)?;
    if from != address {
        return Err(format!("answer from {from}, asked {address}"));
    }
    let end = buffer[..length]
        .iter()
        .position(|b| *b == b'\n')
        .ok_or("no greeting")?;
    if &buffer[end + 1..length] != payload {
        return Err("another payload came back".into());
    }
    parse(&buffer[..end], socket.local_addr().map_err(text)?)
}

fn parse(greeting: &[u8], local: SocketAddr) -> Result<Seen, String> {
    let text = String::from_utf8_lossy(greeting);
    let (name, client) = text.split_once(' ').ok_or("odd greeting")?;
    let client = client.parse().map_err(|e| format!("{client}: {e}"))?;
    Ok(Seen {
        name: name.to_owned(),
        client,
        local,
    })
}
