//! Load generators with figures as one line of JSON.
//!
//! ```text
//! whoami load rr HOST:PORT SECONDS [CONNECTIONS]      64 bytes there and back on open connections (TCP echo)
//! whoami load conn HOST:PORT SECONDS [CONNECTIONS]    a new connection for each request (HTTP)
//! whoami load stream HOST:PORT SECONDS [CONNECTIONS]  receive as fast as possible (HTTP, /bytes)
//! ```
//!
//! `cpu_us` is the time that all of the machine's processors were busy meanwhile: clients, servers and whatever
//! the kernel did between them, on the machines that it shares.

use std::{
    io::{BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crate::{Error, cpu, http, resolve};

/// How long one request may take before it counts as failed.
const LIMIT: Duration = Duration::from_secs(5);

/// Bytes of one `/bytes` request: more than a run can receive.
const ENDLESS: u64 = 1 << 34;

/// What one connection's thread, or all of them, counted.
#[derive(Default)]
struct Counts {
    /// Time of each request, nanoseconds.
    times: Vec<u64>,
    failed: u64,
    bytes: u64,
}

/// Runs the load that the arguments name.
pub(crate) fn run(args: &[String]) -> Result<(), Error> {
    let [kind, target, seconds, rest @ ..] = args else {
        return Err("usage: whoami load rr|conn|stream HOST:PORT SECONDS [CONNECTIONS]".into());
    };
    let work: fn(SocketAddr, Instant) -> Counts = match kind.as_str() {
        "rr" => round_trips,
        "conn" => new_connections,
        "stream" => stream,
        other => return Err(format!("unknown load {other:?}: rr, conn or stream").into()),
    };
    let target = resolve::target(target)?;
    let time = Duration::try_from_secs_f64(seconds.parse()?)?;
    let connections: usize = rest.first().map_or(Ok(1), |text| text.parse())?;
    let busy = cpu::busy()?;
    let began = Instant::now();
    let end = began + time;
    let workers: Vec<_> = (0..connections)
        .map(|_| thread::spawn(move || work(target, end)))
        .collect();
    let mut sum = Counts::default();
    for worker in workers {
        let counts = worker.join().map_err(|_| "a worker panicked")?;
        sum.times.extend(counts.times);
        sum.failed += counts.failed;
        sum.bytes += counts.bytes;
    }
    let took = began.elapsed();
    let busy = cpu::busy()?.saturating_sub(busy);
    println!("{}", report(&mut sum, took, busy));
    Ok(())
}

/// The figures as JSON: times in microseconds.
fn report(counts: &mut Counts, took: Duration, busy: Duration) -> String {
    counts.times.sort_unstable();
    let seconds = took.as_secs_f64();
    let percentile = |part: f64| {
        let last = counts.times.len().saturating_sub(1);
        let at = (last as f64 * part).round() as usize;
        counts
            .times
            .get(at)
            .map_or(0.0, |&time| time as f64 / 1000.0)
    };
    format!(
        "{{\"requests\":{},\"failed\":{},\"per_second\":{:.1},\"p50_us\":{:.1},\"p99_us\":{:.1},\"bytes\":{},\"gbit_per_second\":{:.3},\"cpu_us\":{}}}",
        counts.times.len(),
        counts.failed,
        counts.times.len() as f64 / seconds,
        percentile(0.50),
        percentile(0.99),
        counts.bytes,
        counts.bytes as f64 * 8.0 / seconds / 1e9,
        busy.as_micros(),
    )
}

/// A connection to the HTTP server.
struct Connection {
    output: TcpStream,
    input: BufReader<TcpStream>,
}

fn open(target: SocketAddr) -> std::io::Result<Connection> {
    let output = TcpStream::connect_timeout(&target, LIMIT)?;
    output.set_read_timeout(Some(LIMIT))?;
    output.set_nodelay(true)?;
    let input = BufReader::with_capacity(4096, output.try_clone()?);
    Ok(Connection { output, input })
}

/// The only request of a connection.
fn ask(connection: &mut Connection) -> std::io::Result<()> {
    let request = "GET / HTTP/1.1\r\nHost: load\r\nConnection: close\r\n\r\n";
    connection.output.write_all(request.as_bytes())?;
    let head = http::read_head(&mut connection.input)?;
    let length = head.length.unwrap_or(0);
    let read = std::io::copy(
        &mut connection.input.by_ref().take(length),
        &mut std::io::sink(),
    )?;
    if head.status != 200 || read != length {
        return Err(std::io::Error::other("a wrong answer"));
    }
    Ok(())
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// One message there and back.
fn echo(connection: &mut TcpStream) -> std::io::Result<()> {
    const MESSAGE: [u8; 64] = *b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let mut answer = [0; MESSAGE.len()];
    connection.write_all(&MESSAGE)?;
    connection.read_exact(&mut answer)?;
    if answer != MESSAGE {
        return Err(std::io::Error::other("a wrong answer"));
    }
    Ok(())
}

fn round_trips(target: SocketAddr, end: Instant) -> Counts {
    let mut counts = Counts::default();
    while Instant::now() < end {
        let Ok(mut connection) = open(target) else {
            counts.failed += 1;
            continue;
        };
        while Instant::now() < end {
            let began = Instant::now();
            if echo(&mut connection.output).is_err() {
                counts.failed += 1;
                break;
            }
            counts.times.push(nanoseconds(began));
        }
    }
    counts
}

fn new_connections(target: SocketAddr, end: Instant) -> Counts {
    let mut counts = Counts::default();
    while Instant::now() < end {
        let began = Instant::now();
        match open(target).and_then(|mut connection| ask(&mut connection)) {
            Ok(()) => counts.times.push(nanoseconds(began)),
            Err(_) => counts.failed += 1,
        }
    }
    counts
}

fn stream(target: SocketAddr, end: Instant) -> Counts {
    let mut counts = Counts::default();
    let began = Instant::now();
    let mut buffer = vec![0_u8; 256 * 1024];
    let opened = open(target).and_then(|mut connection| {
        let request = format!("GET /bytes/{ENDLESS} HTTP/1.1\r\nHost: load\r\n\r\n");
        connection.output.write_all(request.as_bytes())?;
        Ok(connection.output)
    });
    let Ok(mut input) = opened else {
        counts.failed += 1;
        return counts;
    };
    while Instant::now() < end {
        match input.read(&mut buffer) {
            Ok(0) | Err(_) => {
                counts.failed += 1;
                break;
            }
            Ok(length) => counts.bytes += length as u64,
        }
    }
    counts.times.push(nanoseconds(began));
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_json() {
        let mut counts = Counts {
            times: (1..=100).rev().map(|n| n * 1000).collect(),
            failed: 2,
            bytes: 125_000_000,
        };
        assert_eq!(
            report(
                &mut counts,
                Duration::from_secs(1),
                Duration::from_millis(30)
            ),
            "{\"requests\":100,\"failed\":2,\"per_second\":100.0,\"p50_us\":51.0,\"p99_us\":99.0,\"bytes\":125000000,\"gbit_per_second\":1.000,\"cpu_us\":30000}"
        );
    }
}
