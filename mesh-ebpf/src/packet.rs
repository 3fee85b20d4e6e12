//! What the programs know of a packet: its addresses, ports and a few flags.

use aya_ebpf::programs::TcContext;
use mesh_common::{
    Addr, FlowKey, flow_hash,
    wire::{
        ETH_LEN, ETHERTYPE_IPV4_BE, FRAGMENT_MASK_BE, FRAGMENT_OFFSET_BE, IPV4_LEN, IPV4_LONGEST,
        IPV4_NO_OPTIONS, TCP, UDP, UDP_LEN,
    },
};

use crate::mem::{self, Packet};

/// TCP flags.
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// An IPv4 packet's identity. Addresses and ports as they stand in the packet.
#[derive(Clone, Copy)]
pub struct Tuple {
    pub src: u32,
    pub dst: u32,
    pub sport: u16,
    pub dport: u16,
    pub protocol: u8,
    /// Ports are known: TCP or UDP, not fragmented, without IP options.
    pub ports: bool,
    /// First packet of a TCP connection.
    pub syn: bool,
    /// Last packet of a TCP connection in this direction.
    pub ends: bool,
    /// A fragment other than the first.
    pub tail: bool,
}

impl Tuple {
    /// The key of this packet's flow.
    #[inline(always)]
    pub fn key(&self, scope: u32) -> FlowKey {
        FlowKey {
            scope,
            src: Addr::v4_be(self.src),
            dst: Addr::v4_be(self.dst),
            sport_be: self.sport,
            dport_be: self.dport,
            protocol: self.protocol,
            pad: [0; 3],
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
        flow_hash(self.src, self.dst, self.sport, self.dport, self.protocol)
    }

    /// Whether this packet may begin a flow.
    #[inline(always)]
    pub fn begins(&self) -> bool {
        self.syn || self.protocol != TCP
    }
}

/// EtherType, as it stands in the packet.
#[inline(always)]
pub fn ethertype(packet: &impl Packet, eth: usize) -> Option<u16> {
    mem::u16_at(packet, eth + 12)
}

/// The IPv4 packet whose Ethernet header is at `eth`. `None`: not IPv4, or cut short.
#[inline(always)]
pub fn ipv4(packet: &impl Packet, eth: usize) -> Option<Tuple> {
    if ethertype(packet, eth)? != ETHERTYPE_IPV4_BE {
        return None;
    }
    let ip = eth + ETH_LEN;
    let version = mem::u8_at(packet, ip)?;
    if version >> 4 != 4 || version < IPV4_NO_OPTIONS {
        return None;
    }
    let fragment = mem::u16_at(packet, ip + 6)?;
    let protocol = mem::u8_at(packet, ip + 9)?;
    let src = mem::u32_at(packet, ip + 12)?;
    let dst = mem::u32_at(packet, ip + 16)?;
    let mut tuple = Tuple {
        src,
        dst,
        sport: 0,
        dport: 0,
        protocol,
        ports: false,
        syn: false,
        ends: false,
        tail: fragment & FRAGMENT_OFFSET_BE != 0,
    };
    let whole = fragment & FRAGMENT_MASK_BE == 0 && version == IPV4_NO_OPTIONS;
    if whole && (protocol == TCP || protocol == UDP) {
        let l4 = ip + IPV4_LEN;
        tuple.sport = mem::u16_at(packet, l4)?;
        tuple.dport = mem::u16_at(packet, l4 + 2)?;
        tuple.ports = true;
        if protocol == TCP {
            let flags = mem::u8_at(packet, l4 + 13)?;
            tuple.syn = flags & (SYN | ACK) == SYN;
            tuple.ends = flags & (FIN | RST) != 0;
        }
    }
    Some(tuple)
}

/// Whether a UDP packet is for the port `port_be`, wherever its header is. `None`: it does not say, being cut short.
#[inline(always)]
pub fn is_udp_to(ctx: &TcContext, tuple: &Tuple, port_be: u16) -> Option<bool> {
    if tuple.protocol != UDP || tuple.tail {
        return Some(false);
    }
    if tuple.ports {
        return Some(tuple.dport == port_be);
    }
    mem::pull(ctx, ETH_LEN + IPV4_LONGEST + UDP_LEN);
    let words = (mem::u8_at(ctx, ETH_LEN)? & 0xf) as usize;
    Some(mem::u16_at(ctx, ETH_LEN + words * 4 + 2)? == port_be)
}
