//! Small network clients: plain HTTP and UDP. They use whatever namespace the calling thread is in.

use std::{
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::image;

/// How long a request may take before it counts as failed.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// An HTTP answer.
#[derive(Debug, Clone)]
pub struct HttpReply {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
    /// Our own address and port on the connection.
    pub local: SocketAddr,
}

impl HttpReply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The replica that answered.
    ///
    /// # Errors
    /// When whoami did not say.
    pub fn replica(&self) -> Result<String> {
        image::replica(&self.text())
    }

    /// The client as the replica saw it.
    ///
    /// # Errors
    /// When whoami did not say, or saw another address than ours. The port may be another where ours was taken by a
    /// connection to the same replica through another node.
    pub fn client(&self) -> Result<SocketAddr> {
        let seen = image::client(&self.text())?;
        let own = self.local.ip().to_canonical();
        ensure!(seen.ip() == own, "came from {own}, the replica saw {seen}");
        Ok(seen)
    }
}

/// One request on a new connection.
///
/// # Errors
/// When nothing answers in [`REQUEST_LIMIT`], or something other than HTTP.
pub fn http_get(address: impl Into<IpAddr>, port: u16, path: &str) -> Result<HttpReply> {
    http_get_within(address, port, path, REQUEST_LIMIT)
}

/// As [`http_get`], with a limit of the caller's for the answer.
///
/// # Errors
/// When nothing answers in time, or something other than HTTP.
pub fn http_get_within(
    address: impl Into<IpAddr>,
    port: u16,
    path: &str,
    limit: Duration,
) -> Result<HttpReply> {
    let address = SocketAddr::new(address.into(), port);
    let mut stream = TcpStream::connect_timeout(&address, REQUEST_LIMIT)
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut bytes = Vec::new();
    stream
        .read_to_end(&mut bytes)
        .with_context(|| format!("{address} did not answer in full"))?;
    parse(&bytes, local)
}

/// Asks for an answer that is a minute late, goes on sending, and gives the error that ends the connection.
///
/// # Errors
/// When it cannot be opened, is answered, closed in order, or open for so long.
pub fn hold_open(address: impl Into<IpAddr>, port: u16) -> Result<io::ErrorKind> {
    const OPEN: Duration = Duration::from_secs(60);
    const PAUSE: Duration = Duration::from_millis(100);
    let address = SocketAddr::new(address.into(), port);
    let mut stream = TcpStream::connect_timeout(&address, REQUEST_LIMIT)
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(PAUSE))?;
    let late = OPEN.as_millis();
    write!(
        stream,
        "GET /sleep/{late} HTTP/1.1\r\nHost: {address}\r\n\r\n"
    )?;
    let begun = Instant::now();
    while begun.elapsed() < OPEN {
        // Nobody reads it: a server that is killed resets the connection then.
        let step = stream.write(b"x").and_then(|_| stream.read(&mut [0; 1500]));
        match step {
            Ok(0) => bail!("{address} has closed the connection"),
            Ok(_) => bail!("{address} has answered"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Ok(error.kind()),
        }
    }
    bail!("the connection to {address} is still open")
}

fn parse(bytes: &[u8], local: SocketAddr) -> Result<HttpReply> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        bail!(
            "not an HTTP answer: {} bytes without a header's end",
            bytes.len()
        );
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("no status in {head:?}"))?;
    let body = bytes[end + 4..].to_vec();
    let announced = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    if announced.is_some_and(|length| length != body.len()) {
        bail!("{} bytes of {announced:?} came", body.len());
    }
    Ok(HttpReply {
        status,
        body,
        local,
    })
}

/// A connection that is kept for further requests, as browsers and proxies do: one that the server has closed between
/// two requests is made anew, as HTTP wants it (RFC 9112, section 9.3.1).
#[derive(Debug)]
pub struct KeptConnection {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
    connected: Instant,
    replica: Option<String>,
}

impl KeptConnection {
    /// To a server; connects with the first request.
    pub fn new(address: impl Into<IpAddr>, port: u16) -> Self {
        Self {
            address: SocketAddr::new(address.into(), port),
            stream: None,
            connected: Instant::now(),
            replica: None,
        }
    }

    /// When the connection of the last request was begun.
    pub fn connected(&self) -> Instant {
        self.connected
    }

    /// The replica that answers on that connection, once it has.
    pub fn replica(&self) -> Option<&str> {
        self.replica.as_deref()
    }

    /// One request; gives the status.
    ///
    /// # Errors
    /// When a new connection does not answer it, or the kept one breaks within the answer or is silent.
    pub fn get(&mut self, path: &str) -> Result<u16> {
        if let Some(mut stream) = self.stream.take()
            && let Some((status, keep, _)) = ask(&mut stream, self.address, path)?
        {
            self.stream = keep.then_some(stream);
            return Ok(status);
        }
        self.connected = Instant::now();
        self.replica = None;
        let stream = TcpStream::connect_timeout(&self.address, REQUEST_LIMIT)
            .with_context(|| format!("cannot connect to {}", self.address))?;
        stream.set_read_timeout(Some(REQUEST_LIMIT))?;
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        let (status, keep, body) = ask(&mut stream, self.address, path)?
            .with_context(|| format!("{} closed a new connection", self.address))?;
        self.replica = image::replica(&String::from_utf8_lossy(&body)).ok();
        self.stream = keep.then_some(stream);
        Ok(status)
    }
}

/// A request and the answer's status, whether the connection stays open, and the body. `None`: it was closed before.
fn ask(
    stream: &mut BufReader<TcpStream>,
    address: SocketAddr,
    path: &str,
) -> Result<Option<(u16, bool, Vec<u8>)>> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let mut line = String::new();
    let begun = stream
        .get_mut()
        .write_all(request.as_bytes())
        .and_then(|()| stream.read_line(&mut line));
    match begun {
        Ok(0) => return Ok(None),
        Err(error) if is_closed(&error) && line.is_empty() => return Ok(None),
        begun => {
            begun.with_context(|| format!("{address} does not answer on a kept connection"))?
        }
    };
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("no status in {line:?}"))?;
    let (mut length, mut keep) = (0, true);
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        keep &= header != "connection: close";
    }
    let mut body = vec![0; length];
    stream
        .read_exact(&mut body)
        .with_context(|| format!("{address} did not answer in full"))?;
    Ok(Some((status, keep, body)))
}

/// Whether what went wrong is that the other end reset an established connection.
pub fn is_reset(error: &anyhow::Error) -> bool {
    is_of(error, io::ErrorKind::ConnectionReset)
}

/// Whether what went wrong is that no local port is free for such a connection.
pub fn is_taken(error: &anyhow::Error) -> bool {
    is_of(error, io::ErrorKind::AddrNotAvailable)
}

fn is_of(error: &anyhow::Error, kind: io::ErrorKind) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == kind)
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionReset)
}

/// Sends `count` datagrams that must each come back, a hundred by each socket; gives how many did.
///
/// # Errors
/// When the socket cannot be used at all.
pub fn udp_echo(address: impl Into<IpAddr>, port: u16, count: usize) -> Result<usize> {
    let address = address.into();
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut back = 0;
    let mut buffer = [0_u8; 2048];
    for first in (0..count).step_by(100) {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((address, port))?;
        socket.set_read_timeout(Some(REQUEST_LIMIT))?;
        for number in first..count.min(first + 100) {
            let sent = format!("datagram {number};");
            socket.send(sent.as_bytes())?;
            if let Ok(length) = socket.recv(&mut buffer)
                && String::from_utf8_lossy(&buffer[..length]).contains(&sent)
            {
                back += 1;
            }
        }
    }
    Ok(back)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

    #[test]
    fn answers_are_parsed() {
        let reply = parse(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nHostname: web.1\n", LOCAL).unwrap();
        assert_eq!(reply.status, 200);
        assert_eq!(reply.text(), "Hostname: web.1\n");
        assert_eq!(reply.replica().unwrap(), "web.1");
        assert!(parse(b"HTTP/1.1 200 OK\r\n", LOCAL).is_err());
    }

    #[test]
    fn a_short_body_is_an_error() {
        let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
        assert!(
            parse(cut, LOCAL)
                .unwrap_err()
                .to_string()
                .contains("4 bytes")
        );
    }
}
