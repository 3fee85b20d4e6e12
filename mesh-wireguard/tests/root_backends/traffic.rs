//! Packets between two nodes, without pause, each of which has to arrive and none of which may be read on the cable.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};

use crate::world::{Node, World, enter, eventually};

/// In each packet, before its number.
const MARK: &[u8] = b"not to be read on the wire";
/// Between packets: some hundred a second.
const PAUSE: Duration = Duration::from_millis(3);
/// Bytes of packets that may wait for who counts them, also when that has to wait itself.
const QUEUE: usize = 16 << 20;
/// IPv4 header.
const HEADER: usize = 20;
/// A protocol number for experiments (RFC 3692).
const EXPERIMENT: u8 = 253;

/// What goes from one node to the other.
struct Way {
    sent: Arc<AtomicU32>,
    arrived: Arc<AtomicU32>,
    threads: Vec<JoinHandle<()>>,
}

/// Both ways.
pub(crate) struct Traffic {
    ways: Vec<Way>,
    is_over: Arc<AtomicBool>,
    is_done: Arc<AtomicBool>,
}

impl Traffic {
    pub(crate) fn start(world: &World) -> Self {
        let (is_over, is_done) = (Arc::default(), Arc::default());
        let [one, two] = &world.nodes;
        let ways = [(one, two), (two, one)];
        Self {
            ways: ways
                .map(|(from, to)| Way::start(from, to, &is_over, &is_done))
                .into(),
            is_over,
            is_done,
        }
    }

    /// Waits until packets that are sent from now on have arrived.
    pub(crate) fn wait_for_more(&self) {
        for way in &self.ways {
            let wanted = way.sent.load(Relaxed) + 20;
            eventually("packets to arrive", || way.arrived.load(Relaxed) >= wanted);
        }
    }

    /// Sends no more; all that was sent must have arrived, once.
    pub(crate) fn end(mut self) {
        self.is_over.store(true, Relaxed);
        for way in &mut self.ways {
            way.threads.remove(0).join().expect("the sender to end");
            let sent = way.sent.load(Relaxed);
            eventually("the last packets", || way.arrived.load(Relaxed) >= sent);
        }
        self.is_done.store(true, Relaxed);
        for way in &mut self.ways {
            for thread in way.threads.drain(..) {
                thread.join().expect("the receiver to end");
            }
            println!("{} packets", way.sent.load(Relaxed));
            assert_eq!(way.arrived.load(Relaxed), way.sent.load(Relaxed));
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        self.is_done.store(true, Relaxed);
        for thread in self.ways.iter_mut().flat_map(|way| way.threads.drain(..)) {
            let _ = thread.join();
        }
    }
}

impl Way {
    fn start(from: &Node, to: &Node, is_over: &Arc<AtomicBool>, is_done: &Arc<AtomicBool>) -> Self {
        let (sent, arrived) = (Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
        let (source, target) = (from.setup.address, to.setup.address);
        let receiver = to.enter(packet_socket);
        setsockopt(&receiver, sockopt::RcvBufForce, &QUEUE).expect("room for packets");
        let (count, is_done) = (Arc::clone(&arrived), Arc::clone(is_done));
        let receive = move || receive_all(&receiver, source, &count, &is_done);
        let (ns, device) = (Arc::clone(&from.ns), Arc::clone(&from.device));
        let (count, is_over) = (Arc::clone(&sent), Arc::clone(is_over));
        let send = move || {
            let socket = enter(&ns, packet_socket);
            while !is_over.load(Relaxed) {
                let number = count.load(Relaxed);
                let packet = packet(source, target, number);
                send(&socket, device.load(Relaxed), &packet).expect("to send a packet");
                count.store(number + 1, Relaxed);
                thread::sleep(PAUSE);
            }
        };
        Self {
            sent,
            arrived,
            threads: vec![thread::spawn(send), thread::spawn(receive)],
        }
    }
}

/// All IPv4 packets of a namespace, without their link headers.
fn packet_socket() -> OwnedFd {
    let protocol = nix::sys::socket::SockProtocol::EthIp;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Packet, SockType::Datagram, flags, protocol).expect("a packet socket")
}

/// A packet whose header's checksum is wrong, so that the stack of who gets it drops it.
fn packet(from: Ipv4Addr, to: Ipv4Addr, number: u32) -> Vec<u8> {
    let length = (HEADER + MARK.len() + size_of_val(&number)) as u16;
    let mut bytes = vec![0x45, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 64, EXPERIMENT, 0, 0]);
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    bytes.extend(MARK);
    bytes.extend(number.to_be_bytes());
    bytes
}

/// Sends a packet by a device, whatever the routes.
fn send(socket: &OwnedFd, device: u32, packet: &[u8]) -> io::Result<()> {
    // SAFETY: all zero is a valid value of this plain C structure.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_protocol = (libc::ETH_P_IP as u16).to_be();
    to.sll_ifindex = device.cast_signed();
    // SAFETY: packet and address outlive the call, and their sizes are given.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const to).cast(),
            size_of_val(&to) as libc::socklen_t,
        )
    };
    nix::errno::Errno::result(sent)?;
    Ok(())
}

/// Counts the packets of a node in their order until it is done. What wireguard delivers in another order is
/// counted too; twice is an error, and so is one that can be read in another packet.
fn receive_all(socket: &OwnedFd, from: Ipv4Addr, count: &AtomicU32, is_done: &AtomicBool) {
    let mut seen = std::collections::BTreeSet::new();
    let mut bytes = [0; 2048];
    while !is_done.load(Relaxed) {
        let flags = nix::sys::socket::MsgFlags::empty();
        let Ok(length) = nix::sys::socket::recv(socket.as_raw_fd(), &mut bytes, flags) else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        let packet = &bytes[..length];
        let is_its = packet.get(9) == Some(&EXPERIMENT) && packet[12..16] == from.octets();
        let body = packet.get(HEADER..).unwrap_or_default();
        if !is_its {
            let is_readable = body.windows(MARK.len()).any(|part| part == MARK);
            let is_own = packet.get(9) == Some(&EXPERIMENT);
            assert!(is_own || !is_readable, "on the wire: {packet:x?}");
            continue;
        }
        let number = body.strip_prefix(MARK).expect("a packet of this test");
        assert!(seen.insert(number.to_vec()), "twice: {number:?}");
        count.store(seen.len() as u32, Relaxed);
    }
}
