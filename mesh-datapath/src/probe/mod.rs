//! Tries the tunnels to other nodes: probes go the way of all packets of the ingress network, out by the tunnel device
//! with their checksum left to the network card, and are answered by the agents that are probing as well.

mod frame;
mod path;

use std::{
    collections::BTreeMap,
    io,
    net::Ipv4Addr,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::tunnel_socket::TunnelSocket;
use frame::{Arrived, Probe};
use path::Path;
pub use path::PathState;

/// What to try.
#[derive(Debug, Clone)]
pub struct Probes {
    /// This node's tunnel end point.
    pub own: Ipv4Addr,
    /// Those of the others.
    pub peers: Vec<Ipv4Addr>,
    /// The tunnels' UDP port, host byte order.
    pub port: u16,
    /// Bytes of the largest IP packet that tasks send.
    pub largest: u32,
    /// Tells these probes, on all nodes, from those of others.
    pub run: u64,
    /// How long to try, and to answer.
    pub time: Duration,
}

/// Sends probes to every peer and answers theirs. Blocks for the whole time: others may begin later.
///
/// # Errors
/// When there is no tunnel device, or the kernel refuses a packet socket on it.
pub fn probe(probes: &Probes) -> io::Result<BTreeMap<Ipv4Addr, PathState>> {
    let socket = TunnelSocket::open()?;
    let paths = probes.peers.iter();
    let mut run = Run {
        probes,
        socket,
        paths: paths
            .map(|peer| (*peer, Path::new(probes.largest)))
            .collect(),
        number: 0,
    };
    let end = Instant::now() + probes.time;
    while Instant::now() < end {
        run.ask();
        run.listen(end.min(Instant::now() + path::ROUND))?;
    }
    let paths = run.paths.into_iter();
    Ok(paths.map(|(peer, path)| (peer, path.state)).collect())
}

struct Run<'a> {
    probes: &'a Probes,
    socket: TunnelSocket,
    paths: BTreeMap<Ipv4Addr, Path>,
    /// Of the last probe sent.
    number: u32,
}

impl Run<'_> {
    fn ask(&mut self) {
        for (peer, path) in &mut self.paths {
            for size in path.sizes() {
                self.number += 1;
                let probe = Probe {
                    from: self.probes.own,
                    to: *peer,
                    run: self.probes.run,
                    number: self.number,
                    answer: false,
                };
                path.sent(self.number, size, Instant::now());
                send(&self.socket, &probe.frame(size, self.probes.port));
            }
        }
    }

    fn listen(&mut self, until: Instant) -> io::Result<()> {
        loop {
            self.take_all()?;
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Ok(());
            }
            let mut waits = [PollFd::new(self.socket.fd().as_fd(), PollFlags::POLLIN)];
            // Rounded up, so as not to spin through the last millisecond.
            let timeout = u16::try_from(rest.as_millis() + 1).unwrap_or(u16::MAX);
            match poll(&mut waits, PollTimeout::from(timeout)) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn take_all(&mut self) -> io::Result<()> {
        while let Some((frame, summed)) = self.socket.receive().map_err(io::Error::from)? {
            let Some(arrived) = Probe::parse(frame, summed) else {
                continue;
            };
            let now = Instant::now();
            match arrived {
                Arrived::Whole(probe) => self.take(probe, now),
                Arrived::Changed(from) => {
                    if let Some(path) = self.paths.get_mut(&from) {
                        path.state.changed += 1;
                    }
                }
                Arrived::BadChecksum(from) => {
                    if let Some(path) = self.paths.get_mut(&from) {
                        path.state.bad_checksums += 1;
                    }
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, probe: Probe, now: Instant) {
        let Some(path) = self.paths.get_mut(&probe.from) else {
            return;
        };
        if probe.run != self.probes.run || probe.to != self.probes.own {
            return;
        }
        if probe.answer {
            path.answered(probe.number, now);
            return;
        }
        path.state.heard += 1;
        let answer = Probe {
            from: self.probes.own,
            to: probe.from,
            answer: true,
            ..probe
        };
        send(&self.socket, &answer.frame(0, self.probes.port));
    }
}

/// Sends a frame. One that is refused counts as lost: the next round says more.
fn send(socket: &TunnelSocket, frame: &[u8]) {
    if let Err(error) = socket.send(frame) {
        tracing::debug!(%error, bytes = frame.len(), "a probe was not sent");
    }
}
