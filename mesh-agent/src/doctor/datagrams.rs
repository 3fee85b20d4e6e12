//! Sends something to what other nodes publish for UDP and SCTP, whose applications may have nothing to say to a stranger.
//!
//! Whether it got there is seen in the flows of the tasks' nodes. Its checksum is wrong, so the task's kernel drops it: what
//! `doctor` asks must not be a message to anybody's application.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use mesh_api::proto::{PortAnswer, PortToAsk, Protocol};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use crate::protocol;

/// It is sent once more after this, as any packet may be lost.
const AGAIN: Duration = Duration::from_millis(500);
/// What an IPv4 header without options has in its first byte.
const VERSION_AND_LENGTH: u8 = 0x45;
const TTL: u8 = 64;

/// Sends to all from an address of this node. The answers say under which client address it was.
pub(super) async fn send(from: Option<IpAddr>, ports: &[PortToAsk]) -> Vec<PortAnswer> {
    if ports.is_empty() {
        return Vec::new();
    }
    let sender = Sender::open(from).map_err(|error| error.to_string());
    let send = |to: &PortToAsk| {
        let sender = sender.as_ref().map_err(Clone::clone)?;
        sender.send(to).map_err(|error| error.to_string())
    };
    for to in ports {
        // Told of below, if it goes on.
        let _ = send(to);
    }
    tokio::time::sleep(AGAIN).await;
    let answers = ports.iter().map(|to| {
        let (client, error) = match send(to) {
            Ok(client) => (client.to_string(), String::new()),
            Err(error) => (String::new(), error),
        };
        PortAnswer {
            address: to.address.clone(),
            port: to.port,
            client,
            error,
            took: 0,
            protocol: to.protocol,
        }
    });
    answers.collect()
}

struct Sender {
    /// Takes packets with their IPv4 headers, and gives none.
    raw: OwnedFd,
    /// Keeps the port from others, for as long as it is ours.
    _port: UdpSocket,
    client: SocketAddrV4,
}

impl Sender {
    fn open(from: Option<IpAddr>) -> io::Result<Self> {
        let Some(IpAddr::V4(from)) = from else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        let port = UdpSocket::bind((from, 0))?;
        let client = SocketAddrV4::new(from, port.local_addr()?.port());
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let raw = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Raw)?;
        Ok(Self {
            raw,
            _port: port,
            client,
        })
    }

    /// Gives the client's address.
    fn send(&self, to: &PortToAsk) -> io::Result<SocketAddrV4> {
        let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let address: Ipv4Addr = to
            .address
            .parse()
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        let port = u16::try_from(to.port).map_err(invalid)?;
        let packet = packet(to.protocol(), self.client, SocketAddrV4::new(address, port));
        let to = SockaddrIn::from(SocketAddrV4::new(address, 0));
        sendto(self.raw.as_raw_fd(), &packet, &to, MsgFlags::empty())?;
        Ok(self.client)
    }
}

/// An IPv4 packet, whose length and header checksum the kernel fills in.
fn packet(protocol: Protocol, from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let number = protocol::number(protocol);
    let mut packet = vec![VERSION_AND_LENGTH, 0, 0, 0, 0, 0, 0, 0, TTL, number, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    match protocol {
        Protocol::Sctp => packet.extend(INIT),
        _ => packet.extend(empty(from, to)),
    }
    packet
}

/// The rest of a UDP header with nothing behind it, and a wrong checksum.
fn empty(from: SocketAddrV4, to: SocketAddrV4) -> [u8; 4] {
    const LENGTH: u16 = 8;
    let number = protocol::number(Protocol::Udp);
    // The length is in the pseudo header as well (RFC 768).
    let rest = [number.into(), LENGTH, from.port(), to.port(), LENGTH];
    let addresses = [from, to].map(|end| u32::from(*end.ip()));
    let halves = addresses.map(|address| u64::from(address >> 16) + u64::from(address & 0xffff));
    let sum = halves.into_iter().sum::<u64>() + rest.map(u64::from).iter().sum::<u64>();
    let right = !((sum % 0xffff) as u16);
    let ([a, b], [c, d]) = (LENGTH.to_be_bytes(), wrong(right).to_be_bytes());
    [a, b, c, d]
}

/// Another one, and not zero, which stands for none.
fn wrong(checksum: u16) -> u16 {
    const BITS: u16 = 0x5555;
    match checksum {
        BITS => !BITS,
        other => other ^ BITS,
    }
}

/// The rest of an SCTP packet that opens an association (RFC 9260, section 3.3.2).
const INIT: [u8; 28] = [
    0, 0, 0, 0, // no verification tag
    0, 0, 0, 1, // a checksum, of which only one in 2^32 pairs of ports has it
    1, 0, 0, 20, // INIT, 20 bytes
    0, 0, 0, 1, // initiate tag
    0, 0, 255, 255, // window
    0, 1, 0, 1, // a stream each way
    0, 0, 0, 1, // first transmission sequence number
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The ones' complement sum of a packet's addresses and all that follows them, with what else is in the pseudo header.
    fn sum(packet: &[u8]) -> u64 {
        let words = packet[12..].chunks(2).map(|two| [two[0], two[1]]);
        let words = words.map(|word| u64::from(u16::from_be_bytes(word)));
        words.sum::<u64>() + 17 + 8
    }

    #[test]
    fn no_kernel_hands_it_to_an_application() {
        for port in 0..=u16::MAX {
            let end = |last, port| SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, last), port);
            let sent = packet(Protocol::Udp, end(1, 40000), end(2, port));
            assert_eq!(sent.len(), 28);
            assert_ne!(sum(&sent) % 0xffff, 0, "a right checksum");
            assert_ne!(sent[26..], [0, 0], "no checksum");
            let mut right = sent.clone();
            let sum = sum(&sent) - u64::from(u16::from_be_bytes([sent[26], sent[27]]));
            right[26..].copy_from_slice(&(!((sum % 0xffff) as u16)).to_be_bytes());
            assert_eq!(self::sum(&right) % 0xffff, 0, "the test's own arithmetic");
        }
        let end = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        assert_eq!(packet(Protocol::Sctp, end, end).len(), 20 + 12 + 20);
    }
}
