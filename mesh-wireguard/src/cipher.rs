//! The work of the helper process: packets of the device into datagrams, datagrams into packets, clocks.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt};

use crate::{
    PROTOCOL, PeerStatus, Status,
    key::PublicKey,
    mesh::{BUFFER, Mesh, Out},
    rotation::not_later,
    serve::Order,
    tun::Tun,
};

/// How often clocks are looked at; WireGuard's shortest time is five seconds.
const TICK: Duration = Duration::from_millis(250);
/// Bytes of datagrams that may wait in the kernel.
const QUEUE: usize = 4 << 20;

/// A device, a socket, and the nodes behind them.
pub(crate) struct Cipher {
    mesh: RwLock<Mesh>,
    wires: Wires,
    present: RwLock<Present>,
    /// Why the kernel does not encrypt.
    why: String,
}

/// The present key.
#[derive(Clone, Copy)]
struct Present {
    /// When it was made.
    since: Instant,
    epoch: u64,
}

impl Present {
    fn new(epoch: u64) -> Self {
        Self {
            since: Instant::now(),
            epoch,
        }
    }
}

/// What packets and datagrams go through.
struct Wires {
    tun: Tun,
    socket: UdpSocket,
    port: u16,
}

impl Out for Wires {
    fn datagram(&self, to: SocketAddrV4, bytes: &[u8]) {
        // Lost, as any datagram may be.
        let _ = self.socket.send_to(bytes, to);
    }

    fn packet(&self, bytes: &[u8]) {
        let _ = self.tun.write(bytes);
    }
}

impl Cipher {
    /// Makes the device and opens the port.
    ///
    /// # Errors
    /// What could not be done, in words.
    pub(crate) fn open(order: &Order) -> Result<Arc<Self>, String> {
        let port = order.port;
        let socket = UdpSocket::bind((order.address, port))
            .and_then(|socket| prepare(&socket).map(|()| socket))
            .map_err(|error| format!("open UDP port {port} of {}: {error}", order.address))?;
        let tun = Tun::new(crate::DEVICE).map_err(|error| {
            format!(
                "make the device {} (is there /dev/net/tun?): {error}",
                crate::DEVICE
            )
        })?;
        Ok(Arc::new(Self {
            mesh: RwLock::new(Mesh::new(order.address)),
            wires: Wires { tun, socket, port },
            present: RwLock::new(Present::new(order.epoch)),
            why: order.why.clone(),
        }))
    }

    /// Starts the threads. When the device is gone, so is the process.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn start(self: &Arc<Self>) -> io::Result<()> {
        for (name, work) in [
            ("encrypt", Self::encrypt as fn(&Self)),
            ("decrypt", Self::decrypt),
            ("clock", Self::clock),
        ] {
            let cipher = self.clone();
            let thread = thread::Builder::new().name(name.to_owned());
            thread.spawn(move || work(&cipher))?;
        }
        Ok(())
    }

    fn encrypt(&self) {
        let (mut packet, mut buffer) = (vec![0; BUFFER], vec![0; BUFFER]);
        loop {
            match self.wires.tun.read(&mut packet) {
                Ok(length) => self
                    .read()
                    .encrypt(&packet[..length], &mut buffer, &self.wires),
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    eprintln!("the device {} is gone: {error}", crate::DEVICE);
                    std::process::exit(1);
                }
            }
        }
    }

    fn decrypt(&self) {
        let (mut datagram, mut buffer) = (vec![0; BUFFER], vec![0; BUFFER]);
        loop {
            // Errors are those of datagrams sent: somebody's port was closed.
            let Ok((length, SocketAddr::V4(from))) = self.wires.socket.recv_from(&mut datagram)
            else {
                continue;
            };
            self.read()
                .receive(from, &datagram[..length], &mut buffer, &self.wires);
        }
    }

    fn clock(&self) {
        let mut buffer = vec![0; BUFFER];
        loop {
            thread::sleep(TICK);
            self.read().tick(&mut buffer, &self.wires);
            self.write().retire(Instant::now());
        }
    }

    /// Sets how large packets may be and who the other nodes are.
    ///
    /// # Errors
    /// What could not be done, in words.
    pub(crate) fn set(
        &self,
        mtu: u32,
        peers: &BTreeMap<Ipv4Addr, (PublicKey, u16)>,
    ) -> Result<(), String> {
        self.wires
            .tun
            .set_mtu(mtu)
            .map_err(|error| format!("set the MTU of {} to {mtu}: {error}", crate::DEVICE))?;
        self.write().set_peers(peers);
        Ok(())
    }

    /// Makes a new key.
    ///
    /// # Errors
    /// There is one of that epoch or a later one, in words.
    pub(crate) fn rotate(&self, epoch: u64) -> Result<(), String> {
        let mut mesh = self.write();
        let mut present = self.present.write().unwrap_or_else(PoisonError::into_inner);
        if epoch <= present.epoch {
            return Err(not_later(epoch, present.epoch));
        }
        mesh.rotate();
        *present = Present::new(epoch);
        Ok(())
    }

    /// How things are.
    pub(crate) fn status(&self) -> Status {
        let mesh = self.read();
        let present = *self.present.read().unwrap_or_else(PoisonError::into_inner);
        let ifindex = self.wires.tun.index();
        Status {
            protocol: PROTOCOL,
            address: IpAddr::V4(self.local()),
            port: self.wires.port,
            next_port: self.wires.port,
            ifindex,
            former: None,
            former_key: text(mesh.former_key()),
            epoch: present.epoch,
            key: mesh.key().to_string(),
            key_age_s: present.since.elapsed().as_secs(),
            rotating: mesh.is_rotating(),
            refused: mesh.refused(),
            user_space: Some(self.why.clone()),
            peers: mesh
                .peers()
                .map(|peer| PeerStatus {
                    address: peer.address,
                    key: peer.key.to_string(),
                    former_key: text(peer.former_key),
                    proved: peer.proved,
                    ifindex,
                    handshake_s: peer.handshake.map(|time| time.as_secs()),
                    sent: peer.sent,
                    received: peer.received,
                })
                .collect(),
        }
    }

    fn local(&self) -> Ipv4Addr {
        match self.wires.socket.local_addr() {
            Ok(SocketAddr::V4(own)) => *own.ip(),
            _ => Ipv4Addr::UNSPECIFIED,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Mesh> {
        self.mesh.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Mesh> {
        self.mesh.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Empty: none.
fn text(key: Option<PublicKey>) -> String {
    key.map_or_else(String::new, |key| key.to_string())
}

/// Room for bursts; and no fragments: what is too large is answered before it is encrypted.
fn prepare(socket: &UdpSocket) -> io::Result<()> {
    setsockopt(socket, sockopt::RcvBufForce, &QUEUE)?;
    setsockopt(socket, sockopt::SndBufForce, &QUEUE)?;
    let probe = libc::IP_PMTUDISC_PROBE;
    // SAFETY: the option takes an int, which outlives the call.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const probe).cast(),
            size_of_val(&probe) as libc::socklen_t,
        )
    };
    nix::errno::Errno::result(answer)
        .map(drop)
        .map_err(Into::into)
}

/// Whether reading from the device may go on: it is down for now, or the call was interrupted.
fn is_passing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted
}
