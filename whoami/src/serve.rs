//! The servers: HTTP and UDP on one port, TCP echo on the next. A thread a connection; threads are kept for the
//! next one.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    Error, PORT,
    drain::{self, Busy},
    http,
};

/// Stack of a connection's thread: many may be open.
const STACK: usize = 64 * 1024;

/// Threads of a listener that wait for connections: more than these end.
const SPARE: usize = 8;

/// Between two attempts to accept a connection, where the first failed.
const PAUSE: Duration = Duration::from_millis(10);

/// Most bytes that `/bytes/N` gives.
const MOST_BYTES: u64 = 1 << 34;

/// Longest `/sleep/MS`, milliseconds.
const MOST_SLEEP: u64 = 60_000;

/// How long a closing connection waits for the other side to have read everything.
const LINGER: Duration = Duration::from_secs(2);

/// Serves until a signal ends the process.
pub(crate) fn run(args: &[String]) -> Result<(), Error> {
    let port = match args.first() {
        Some(text) => text.parse().map_err(|_| format!("{text:?} is no port"))?,
        None => PORT,
    };
    let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| UdpSocket::bind(("0.0.0.0", port)))
        .map_err(|error| format!("cannot listen on {port}/udp: {error}"))?;
    let http = listen(port)?;
    let echo_port = port.checked_add(1);
    let echo_port =
        echo_port.ok_or("port 65535 leaves none for the echo server, which takes the next one")?;
    let echo = listen(echo_port)?;
    drain::on_terminate()?;
    println!(
        "whoami: {} listens on {port}/tcp (HTTP), {port}/udp, {echo_port}/tcp (echo)",
        name()
    );
    thread::spawn(move || datagrams(&udp));
    Workers::start(echo, echo_back)?;
    Workers::start(http, answer)?;
    loop {
        thread::park();
    }
}

fn listen(port: u16) -> Result<TcpListener, Error> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
        .map_err(|error| format!("cannot listen on {port}/tcp: {error}").into())
}

/// This replica's host name.
fn name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map_or_else(|_| "?".to_owned(), |text| text.trim().to_owned())
    })
}

/// An address without the mapping that a dual-stack socket shows.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The threads of one listener. One of them always waits for the next connection.
struct Workers {
    listener: TcpListener,
    serve: fn(TcpStream, SocketAddr) -> std::io::Result<()>,
    waiting: AtomicUsize,
}

impl Workers {
    fn start(
        listener: TcpListener,
        serve: fn(TcpStream, SocketAddr) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let workers = Self {
            listener,
            serve,
            waiting: AtomicUsize::new(0),
        };
        Arc::new(workers).add()
    }

    fn add(self: Arc<Self>) -> std::io::Result<()> {
        // Before the thread runs: nobody else is to start one meanwhile.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let own = Arc::clone(&self);
        let started = thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || own.work());
        if started.is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        started.map(drop)
    }

    fn work(self: Arc<Self>) {
        loop {
            let accepted = self.listener.accept();
            let last = self.waiting.fetch_sub(1, Ordering::Relaxed) == 1;
            if last {
                // Without a further thread the next connection waits for the end of this one.
                let _ = Arc::clone(&self).add();
            }
            match accepted {
                Ok((stream, peer)) => {
                    let _ = stream.set_nodelay(true);
                    // A connection that breaks is the client's affair.
                    let _ = (self.serve)(stream, plain(peer));
                }
                // Out of descriptors, most likely: others have to close theirs first.
                Err(_) => thread::sleep(PAUSE),
            }
            if self.waiting.fetch_add(1, Ordering::Relaxed) >= SPARE {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        }
    }
}

fn echo_back(mut stream: TcpStream, _peer: SocketAddr) -> std::io::Result<()> {
    let mut buffer = [0_u8; 16 * 1024];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length])?;
    }
}

fn datagrams(socket: &UdpSocket) {
    let mut buffer = [0_u8; 65536];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        let mut reply = format!("{} {} ", name(), plain(peer)).into_bytes();
        reply.extend_from_slice(&buffer[..length]);
        let _ = socket.send_to(&reply, peer);
    }
}

fn answer(stream: TcpStream, peer: SocketAddr) -> std::io::Result<()> {
    let local = plain(stream.local_addr()?);
    let mut output = stream.try_clone()?;
    let mut input = BufReader::with_capacity(4096, stream);
    // A new connection is about to ask; one kept open is only busy from its next request on.
    let mut busy = Some(Busy::begin());
    loop {
        if input.fill_buf()?.is_empty() {
            return Ok(());
        }
        busy.get_or_insert_with(Busy::begin);
        let Some(request) = http::read_request(&mut input)? else {
            return Ok(());
        };
        let keep = request.keep && !drain::draining();
        if let Some(count) = request.path.strip_prefix("/bytes/") {
            let count = count.parse().unwrap_or(0).min(MOST_BYTES);
            output.write_all(http::head("200 OK", count, keep).as_bytes())?;
            pattern(&mut output, count)?;
        } else if request.path == "/sink" {
            // Everything that follows is swallowed: how fast a client can send.
            std::io::copy(&mut input, &mut std::io::sink())?;
            return Ok(());
        } else {
            let (status, body) = page(&request, local, peer);
            let mut whole = http::head(status, body.len() as u64, keep);
            whole += &body;
            output.write_all(whole.as_bytes())?;
        }
        // Closing a connection announced as kept is allowed, between two requests.
        if !keep || drain::draining() {
            break;
        }
        busy = None;
    }
    // The process may end, and its network with it, as soon as nobody is busy: first let the
    // other side have everything.
    output.shutdown(std::net::Shutdown::Write)?;
    output.set_read_timeout(Some(LINGER))?;
    std::io::copy(&mut input, &mut std::io::sink())?;
    Ok(())
}

/// Status and body of everything that is text.
fn page(request: &http::Request, local: SocketAddr, peer: SocketAddr) -> (&'static str, String) {
    if request.path == "/health" {
        return match drain::draining() {
            false => ("200 OK", "ok\n".to_owned()),
            true => ("503 Service Unavailable", "draining\n".to_owned()),
        };
    }
    if let Some(time) = request.path.strip_prefix("/sleep/") {
        let time: u64 = time.parse().unwrap_or(0);
        thread::sleep(Duration::from_millis(time.min(MOST_SLEEP)));
    }
    let body = format!(
        "Hostname: {}\nAddress: {local}\nClient: {peer}\nPath: {}\n",
        name(),
        request.path
    );
    ("200 OK", body)
}

/// Length of the repeated pattern: a prime, so that a lost or doubled segment shows.
const PATTERN: usize = 65521;

/// Byte `i` of `/bytes/N` is `(i mod 65521) mod 251`.
fn pattern(output: &mut impl Write, count: u64) -> std::io::Result<()> {
    let block: Vec<u8> = (0..PATTERN).map(|at| (at % 251) as u8).collect();
    let mut left = count;
    while left > 0 {
        let length = left.min(PATTERN as u64);
        // At most PATTERN, which fits.
        output.write_all(&block[..length as usize])?;
        left -= length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_has_its_length() {
        let mut bytes = Vec::new();
        pattern(&mut bytes, 70_000).unwrap();
        assert_eq!(bytes.len(), 70_000);
        assert!((0..70_000).all(|at| usize::from(bytes[at]) == (at % PATTERN) % 251));
    }

    #[test]
    fn mapped_addresses_are_shown_plain() {
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:5".parse().unwrap();
        assert_eq!(plain(mapped).to_string(), "10.0.0.1:5");
    }
}
