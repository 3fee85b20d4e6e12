//! SIGTERM while requests are open: each gets its whole answer, then the process ends with 0.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long anything here may take.
const LIMIT: Duration = Duration::from_secs(30);

struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start() -> Self {
        // Two free ports in a row; another process may be faster, so it is tried again.
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0")
                .and_then(|free| free.local_addr())
                .map_or(0, |address| address.port());
            let mut child = Command::new(env!("CARGO_BIN_EXE_whoami"))
                .args(["serve", &port.to_string()])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let said = child.stdout.take().unwrap();
            let server = Self { child, port };
            // It says so once it has all of its ports; one that does not get them ends.
            let mut line = String::new();
            BufReader::new(said).read_line(&mut line).unwrap();
            if line.contains("listens on") {
                return server;
            }
        }
        panic!("the server does not start");
    }

    fn ask(&self, path: &str, connection: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nConnection: {connection}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Reads one answer of a connection that stays open.
fn first_line(stream: &mut TcpStream) -> String {
    let mut buffer = [0; 1024];
    let length = stream.read(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length])
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn open_requests_are_answered_before_the_end() {
    let mut server = Server::start();
    let mut kept = server.ask("/health", "keep-alive");
    assert_eq!(first_line(&mut kept), "HTTP/1.1 200 OK");
    let slow: Vec<_> = (0..5)
        .map(|_| server.ask("/sleep/700", "keep-alive"))
        .collect();
    let mut large = server.ask("/bytes/50000000", "keep-alive");
    // The answer has begun, so the request is open.
    large.read_exact(&mut [0; 16]).unwrap();
    server.signal("-TERM");
    // It goes on answering, and health tells that the end was asked for.
    let end = Instant::now() + LIMIT;
    while !text(server.ask("/health", "close")).starts_with("HTTP/1.1 503") {
        assert!(Instant::now() < end, "it does not drain");
    }
    for stream in slow {
        assert!(text(stream).starts_with("HTTP/1.1 200 OK"));
    }
    let mut rest = Vec::new();
    large.read_to_end(&mut rest).unwrap();
    assert!(rest.len() > 50_000_000 - 16);
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

/// While the machine stands still nobody looks; that is not a time in which nothing was open.
#[test]
fn a_stall_while_draining_cuts_no_request() {
    let mut server = Server::start();
    let mut large = server.ask("/bytes/50000000", "close");
    // The answer has begun, and more is to come than the system keeps for who does not read.
    large.read_exact(&mut [0; 16]).unwrap();
    server.signal("-TERM");
    let end = Instant::now() + LIMIT;
    while !text(server.ask("/health", "close")).starts_with("HTTP/1.1 503") {
        assert!(Instant::now() < end, "it does not drain");
    }
    server.signal("-STOP");
    thread::sleep(Duration::from_millis(500));
    server.signal("-CONT");
    let mut rest = Vec::new();
    large.read_to_end(&mut rest).unwrap();
    assert!(rest.len() > 50_000_000 - 16);
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn exit_ends_with_the_code_given() {
    let run = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_whoami"))
            .args(args)
            .status()
            .unwrap()
            .code()
    };
    assert_eq!(run(&["exit", "3"]), Some(3));
    assert_eq!(run(&["exit"]), Some(0));
    assert_eq!(run(&["exit", "1000"]), Some(1));
}
