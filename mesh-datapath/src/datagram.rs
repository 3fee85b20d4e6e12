//! A datagram between two tunnel end points as it travels in a tunnel, to the tunnels' port, where no task can send: what
//! agents say to each other on the packet path itself.

use std::net::Ipv4Addr;

use mesh_common::{
    checksum, node_mac,
    wire::{ETH_LEN, ETHERTYPE_IPV4_BE, IPV4_LEN, IPV4_NO_OPTIONS, OUTER_TTL, UDP, UDP_LEN},
};

/// Where the UDP header is.
pub(crate) const L4: usize = ETH_LEN + IPV4_LEN;
/// Where the checksum is in it.
pub(crate) const CHECK: usize = 6;
/// Where the payload is.
pub(crate) const PAYLOAD: usize = L4 + UDP_LEN;

/// A datagram that has arrived.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram<'a> {
    /// Tunnel end point that sent it.
    pub(crate) from: Ipv4Addr,
    /// Tunnel end point that it is for.
    pub(crate) to: Ipv4Addr,
    /// From the UDP header on.
    pub(crate) udp: &'a [u8],
    /// What it says.
    pub(crate) payload: &'a [u8],
}

/// The frame. The checksum is left to the device, as those of tasks' packets are. `port`: the tunnels', host byte order.
pub(crate) fn frame(from: Ipv4Addr, to: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let length = (UDP_LEN + payload.len()) as u16;
    let mut frame = Vec::with_capacity(PAYLOAD + payload.len());
    frame.extend(node_mac(be(to)));
    frame.extend(node_mac(be(from)));
    frame.extend(ETHERTYPE_IPV4_BE.to_ne_bytes());
    let total = (length + IPV4_LEN as u16).to_be_bytes();
    frame.extend([IPV4_NO_OPTIONS, 0, total[0], total[1], 0, 0, 0x40, 0]);
    frame.extend([OUTER_TTL, UDP, 0, 0]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    let sum = checksum::of(&frame[ETH_LEN..L4]);
    frame[ETH_LEN + 10..ETH_LEN + 12].copy_from_slice(&sum.to_ne_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend(length.to_be_bytes());
    frame.extend(checksum::pseudo_v4(be(from), be(to), UDP, length).to_ne_bytes());
    frame.extend(payload);
    frame
}

impl<'a> Datagram<'a> {
    /// The datagram in a frame, if there is one.
    pub(crate) fn parse(frame: &'a [u8]) -> Option<Self> {
        let ip = frame.get(ETH_LEN..L4)?;
        if ip[9] != UDP {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([ip[2], ip[3]])).checked_sub(IPV4_LEN)?;
        Some(Self {
            from: Ipv4Addr::from([ip[12], ip[13], ip[14], ip[15]]),
            to: Ipv4Addr::from([ip[16], ip[17], ip[18], ip[19]]),
            udp: frame.get(L4..L4 + length)?,
            payload: frame.get(PAYLOAD..L4 + length)?,
        })
    }

    /// Whether the checksum is right.
    pub(crate) fn is_sound(&self) -> bool {
        let length = self.udp.len() as u16;
        let pseudo = checksum::pseudo_v4(be(self.from), be(self.to), UDP, length);
        // The sum over what is checked and its checksum is all ones.
        let sum = u64::from(pseudo) + u64::from(!checksum::of(self.udp));
        checksum::fold(sum) == u16::MAX
    }
}

fn be(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}
