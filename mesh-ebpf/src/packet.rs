//! What the programs know of a packet: its addresses, ports and a few flags.

use mesh_common::{
    FlowKey, flow_hash,
    wire::{ETH_LEN, SCTP, TCP, UDP},
};

use crate::{
    family::Family,
    maps::Ends,
    mem::{self, Packet},
};

/// TCP flags.
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A packet's identity. Addresses and ports as they stand in the packet.
#[derive(Clone, Copy)]
pub struct Tuple<F: Family> {
    pub src: F::Address,
    pub dst: F::Address,
    pub sport: u16,
    pub dport: u16,
    pub protocol: u8,
    /// Where the transport header begins, from the beginning of the IP header.
    pub l4: u16,
    /// Ports are known: TCP, UDP or SCTP without IP options; of fragments those that `fragments` knows.
    pub ports: bool,
    pub flags: Flags,
    /// "More fragments" and the offset, as they stand in the packet; zero if it is whole.
    pub fragment: u16,
}

impl<F: Family> Tuple<F> {
    /// A packet of which only this is known.
    #[inline(always)]
    pub fn without_ports(src: F::Address, dst: F::Address, protocol: u8) -> Self {
        Self {
            src,
            dst,
            sport: 0,
            dport: 0,
            protocol,
            l4: F::HEADER_LEN as u16,
            ports: false,
            flags: Flags(0),
            fragment: 0,
        }
    }

    /// The key of this packet's flow.
    #[inline(always)]
    pub fn key(&self, scope: u32) -> FlowKey {
        FlowKey {
            scope,
            src: F::key(&self.src),
            dst: F::key(&self.dst),
            sport_be: self.sport,
            dport_be: self.dport,
            protocol: self.protocol,
            pad: [0; 3],
        }
    }

    /// Where this packet is from and to.
    #[inline(always)]
    pub fn ends(&self) -> Ends<F::Address> {
        Ends {
            src: self.src,
            dst: self.dst,
            sport: self.sport,
            dport: self.dport,
        }
    }

    /// The packet that answers this one.
    #[inline(always)]
    pub fn reply(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
            ..*self
        }
    }

    /// What spreads flows.
    #[inline(always)]
    pub fn hash(&self) -> u32 {
        flow_hash(
            F::fold(&self.src),
            F::fold(&self.dst),
            self.sport,
            self.dport,
            self.protocol,
        )
    }

    /// What spreads tunnels: cheaper than [`Tuple::hash`], which must also be even.
    #[inline(always)]
    pub fn spread(&self) -> u32 {
        let ports = (u32::from(self.sport) << 16) | u32::from(self.dport);
        let addresses = F::fold(&self.src) ^ F::fold(&self.dst).rotate_left(16);
        (addresses ^ ports).wrapping_mul(0x9e37_79b1)
    }

    /// Hash of the client's address alone.
    #[inline(always)]
    pub fn client_hash(&self) -> u32 {
        flow_hash(F::fold(&self.src), 0, 0, 0, 0)
    }

    /// Whether this is a fragment other than the first.
    #[inline(always)]
    pub fn is_tail(&self) -> bool {
        self.fragment & F::FRAGMENT_OFFSET_BE != 0
    }

    /// First packet of a TCP connection.
    #[inline(always)]
    pub fn is_first(&self) -> bool {
        self.flags.are_first()
    }

    /// First packet of a TCP connection, or the first of the other side.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.flags.0 & SYN != 0
    }

    /// Last packet of a TCP connection in both directions.
    #[inline(always)]
    pub fn resets(&self) -> bool {
        self.flags.0 & RST != 0
    }

    /// Whether this packet may begin a flow.
    #[inline(always)]
    pub fn begins(&self) -> bool {
        self.flags.may_begin(self.protocol)
    }

    /// Reads ports and flags of an unfragmented packet without options or extensions, whose IP header is at `ip`.
    /// `None`: cut short.
    #[inline(always)]
    pub fn transport(&mut self, packet: &impl Packet, ip: usize) -> Option<()> {
        if self.protocol != TCP && self.protocol != UDP && self.protocol != SCTP {
            return Some(());
        }
        let l4 = ip + F::HEADER_LEN;
        self.sport = mem::u16_at(packet, l4)?;
        self.dport = mem::u16_at(packet, l4 + 2)?;
        self.ports = true;
        if self.protocol == TCP {
            self.flags = Flags(mem::u8_at(packet, l4 + 13)?);
        }
        Some(())
    }

    /// Takes the ports from the first bytes of the transport header.
    #[inline(always)]
    pub fn take_ports(&mut self, [s0, s1, d0, d1]: [u8; 4]) {
        self.sport = u16::from_ne_bytes([s0, s1]);
        self.dport = u16::from_ne_bytes([d0, d1]);
        self.ports = true;
    }
}

/// The flags of a TCP header; none if it is none, or if they are not known.
#[derive(Clone, Copy)]
pub struct Flags(pub u8);

impl Flags {
    /// Those of the first packet of a connection.
    #[inline(always)]
    pub fn are_first(self) -> bool {
        self.0 & (SYN | ACK) == SYN
    }

    /// Those of the last packet of a connection in this direction.
    #[inline(always)]
    pub fn end(self) -> bool {
        self.0 & (FIN | RST) != 0
    }

    /// Whether a packet with them may begin a flow.
    #[inline(always)]
    pub fn may_begin(self, protocol: u8) -> bool {
        self.are_first() || protocol != TCP
    }
}

/// EtherType, as it stands in the packet.
#[inline(always)]
pub fn ethertype(packet: &impl Packet, eth: usize) -> Option<u16> {
    mem::u16_at(packet, eth + 12)
}

/// Whether a UDP packet is for the port `port_be`, wherever its header is. `None`: it does not say, being cut short.
#[inline(always)]
pub fn is_udp_to<F: Family>(packet: &impl Packet, tuple: &Tuple<F>, port_be: u16) -> Option<bool> {
    if tuple.protocol != UDP || tuple.is_tail() {
        return Some(false);
    }
    if tuple.ports {
        return Some(tuple.dport == port_be);
    }
    let port = packet.fetch::<2>(ETH_LEN + tuple.l4 as usize + 2)?;
    Some(u16::from_ne_bytes(port) == port_be)
}

/// Destination and source MAC as a frame begins with them.
#[inline(always)]
pub fn macs(dmac: [u8; 6], smac: [u8; 6]) -> [u32; 3] {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (dmac, smac);
    [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes)
}
