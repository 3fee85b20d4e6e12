//! What differs between ICMP and ICMPv6.

use aya_ebpf::programs::TcContext;
use mesh_common::{
    Addr, DropReason, MORE_V4, MORE_V6, checksum,
    wire::{self, ETH_LEN, FRAGMENT_OFFSET_BE, IPV4_LEN, IPV4_NO_OPTIONS, IPV6_LEN, OUTER_TTL},
};

use crate::{
    family::{Family, V4, V6},
    mem::{self, Packet},
    packet::Tuple,
    tunnel,
};

/// Bytes of a transport header that our own errors quote: up to and with the checksum, which the kernel must find in
/// a packet whose device is to complete it.
const QUOTED: usize = 20;
/// ICMP header.
const ICMP_LEN: usize = 8;
/// UDP header.
const UDP_LEN: usize = 8;
/// "Destination unreachable", "time exceeded", "parameter problem".
const V4_ERRORS: [u8; 3] = [3, 11, 12];
/// "Destination unreachable, fragmentation needed".
const V4_TOO_BIG: [u8; 2] = [3, 4];
/// "Destination unreachable, port unreachable".
const V4_NO_PORT: [u8; 2] = [3, 3];
/// The same.
const V6_NO_PORT: [u8; 2] = [1, 4];
/// "Packet too big"; this and those below 128 are errors.
const V6_TOO_BIG: [u8; 2] = [2, 0];
/// First bytes of our own IPv4 packets: no options, no class of service.
const V4_FIRST: [u8; 2] = [IPV4_NO_OPTIONS, 0];

/// The messages that go with an Internet protocol.
pub trait Messages: Copy + Sized {
    /// First index of this family's programs in `TC_MORE`.
    const MORE: u32;

    /// Whether a message of this type is an error.
    fn is_error(kind: u8) -> bool;
    /// The packet whose IP header an error quotes at `ip`, without ports. `None`: a fragment without ports, or with
    /// options.
    fn quoted(packet: &impl Packet, ip: usize) -> Option<Tuple<Self>>
    where
        Self: Family;
    /// Overwrites an address of the IP header at `ip`, a message's own or the one that it quotes, `at` bytes into that
    /// header. `check` is where the message's checksum is.
    fn readdress(
        ctx: &TcContext,
        ip: usize,
        at: usize,
        check: usize,
        old: &<Self as Family>::Address,
        new: &<Self as Family>::Address,
    ) -> Result<(), DropReason>
    where
        Self: Family;
    /// Whether the packet may be answered by an error that says it is too big.
    fn may_answer(ctx: &TcContext) -> bool;
    /// Makes the packet the answer that says it is too big, behind its Ethernet header.
    fn too_big(ctx: &TcContext, tuple: &Tuple<Self>, mtu: u32) -> Result<(), DropReason>
    where
        Self: Family;
    /// Makes a UDP packet the answer that says that nobody has its port, behind its Ethernet header.
    fn no_port(ctx: &TcContext, tuple: &Tuple<Self>) -> Result<(), DropReason>
    where
        Self: Family;
    /// Writes the IP header of an answer to a packet over its own. `length` is that of what follows.
    fn answer(
        ctx: &TcContext,
        tuple: &Tuple<Self>,
        protocol: u8,
        length: usize,
    ) -> Result<(), DropReason>
    where
        Self: Family;
}

impl Messages for V4 {
    const MORE: u32 = MORE_V4;

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        kind == V4_ERRORS[0] || kind == V4_ERRORS[1] || kind == V4_ERRORS[2]
    }

    #[inline(always)]
    fn quoted(packet: &impl Packet, ip: usize) -> Option<Tuple<Self>> {
        let first = mem::u8_at(packet, ip)?;
        let fragment = mem::u16_at(packet, ip + 6)?;
        if first != IPV4_NO_OPTIONS || fragment & FRAGMENT_OFFSET_BE != 0 {
            return None;
        }
        let protocol = mem::u8_at(packet, ip + 9)?;
        let src = mem::u32_at(packet, ip + 12)?;
        let dst = mem::u32_at(packet, ip + 16)?;
        Some(Tuple::without_ports(src, dst, protocol))
    }

    /// What a quoted address adds to the message's sum, the quoted header's checksum takes away.
    #[inline(always)]
    fn readdress(
        ctx: &TcContext,
        ip: usize,
        at: usize,
        _check: usize,
        old: &u32,
        new: &u32,
    ) -> Result<(), DropReason> {
        ctx.l3_csum_replace(ip + 10, u64::from(*old), u64::from(*new), 4)
            .map_err(|_| DropReason::Kernel)?;
        tunnel::store(ctx, ip + at, new)
    }

    #[inline(always)]
    fn may_answer(ctx: &TcContext) -> bool {
        let kind = mem::u8_at(ctx, ETH_LEN + IPV4_LEN).unwrap_or(V4_ERRORS[0]);
        let icmp = mem::u8_at(ctx, ETH_LEN + 9) == Some(wire::ICMP);
        let plain = mem::u8_at(ctx, ETH_LEN) == Some(IPV4_NO_OPTIONS);
        plain && !(icmp && Self::is_error(kind))
    }

    #[inline(always)]
    fn too_big(ctx: &TcContext, tuple: &Tuple<Self>, mtu: u32) -> Result<(), DropReason> {
        let [.., high, low] = mtu.to_be_bytes();
        let message = [V4_TOO_BIG[0], V4_TOO_BIG[1], 0, 0, 0, 0, high, low];
        v4_error::<{ IPV4_LEN + QUOTED }>(ctx, tuple, &message)
    }

    #[inline(always)]
    fn no_port(ctx: &TcContext, tuple: &Tuple<Self>) -> Result<(), DropReason> {
        let message = [V4_NO_PORT[0], V4_NO_PORT[1], 0, 0, 0, 0, 0, 0];
        v4_error::<{ IPV4_LEN + UDP_LEN }>(ctx, tuple, &message)
    }

    #[inline(always)]
    fn answer(
        ctx: &TcContext,
        tuple: &Tuple<Self>,
        protocol: u8,
        length: usize,
    ) -> Result<(), DropReason> {
        let [t0, t1] = ((IPV4_LEN + length) as u16).to_be_bytes();
        let [s0, s1, s2, s3] = tuple.dst.to_ne_bytes();
        let [d0, d1, d2, d3] = tuple.src.to_ne_bytes();
        let [v, c] = V4_FIRST;
        let mut header = [
            v, c, t0, t1, 0, 0, 0, 0, OUTER_TTL, protocol, 0, 0, s0, s1, s2, s3, d0, d1, d2, d3,
        ];
        let own = (!checksum::fold(mem::sum(&header)?)).to_ne_bytes();
        (header[10], header[11]) = (own[0], own[1]);
        tunnel::store(ctx, ETH_LEN, &header)
    }
}

/// Makes the packet an ICMP message that quotes its first `N` bytes.
#[inline(always)]
fn v4_error<const N: usize>(
    ctx: &TcContext,
    tuple: &Tuple<V4>,
    message: &[u8; ICMP_LEN],
) -> Result<(), DropReason> {
    let quote = mem::cut::<N>(ctx)?;
    let sum = mem::sum(&quote)? + mem::sum(message)?;
    let check = (!checksum::fold(sum)).to_ne_bytes();
    mem::insert(ctx, IPV4_LEN + ICMP_LEN)?;
    V4::answer(ctx, tuple, wire::ICMP, ICMP_LEN + N)?;
    tunnel::store(ctx, ETH_LEN + IPV4_LEN, message)?;
    tunnel::store(ctx, ETH_LEN + IPV4_LEN + 2, &check)
}

impl Messages for V6 {
    const MORE: u32 = MORE_V6;

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        kind < 128
    }

    #[inline(always)]
    fn quoted(packet: &impl Packet, ip: usize) -> Option<Tuple<Self>> {
        if mem::u8_at(packet, ip)? >> 4 != 6 {
            return None;
        }
        let protocol = mem::u8_at(packet, ip + 6)?;
        let src = mem::addr_at(packet, ip + 8)?;
        let dst = mem::addr_at(packet, ip + 24)?;
        Some(Tuple::without_ports(src, dst, protocol))
    }

    #[inline(always)]
    fn readdress(
        ctx: &TcContext,
        ip: usize,
        at: usize,
        check: usize,
        old: &Addr,
        new: &Addr,
    ) -> Result<(), DropReason> {
        if ip == ETH_LEN {
            return Self::rewrite(ctx, ip + at, check, 0, old, new);
        }
        let difference = mem::difference(old, new)?;
        // Part of the message, not of its pseudo header.
        ctx.l4_csum_replace(check, 0, difference, 0)
            .map_err(|_| DropReason::Kernel)?;
        tunnel::store(ctx, ip + at, new)
    }

    #[inline(always)]
    fn may_answer(ctx: &TcContext) -> bool {
        let kind = mem::u8_at(ctx, ETH_LEN + IPV6_LEN).unwrap_or(0);
        let icmp = mem::u8_at(ctx, ETH_LEN + 6) == Some(wire::ICMPV6);
        !(icmp && Self::is_error(kind))
    }

    #[inline(always)]
    fn too_big(ctx: &TcContext, tuple: &Tuple<Self>, mtu: u32) -> Result<(), DropReason> {
        let [m0, m1, m2, m3] = mtu.to_be_bytes();
        let message = [V6_TOO_BIG[0], V6_TOO_BIG[1], 0, 0, m0, m1, m2, m3];
        v6_error::<{ IPV6_LEN + QUOTED }>(ctx, tuple, &message)
    }

    #[inline(always)]
    fn no_port(ctx: &TcContext, tuple: &Tuple<Self>) -> Result<(), DropReason> {
        let message = [V6_NO_PORT[0], V6_NO_PORT[1], 0, 0, 0, 0, 0, 0];
        v6_error::<{ IPV6_LEN + UDP_LEN }>(ctx, tuple, &message)
    }

    #[inline(always)]
    fn answer(
        ctx: &TcContext,
        tuple: &Tuple<Self>,
        protocol: u8,
        length: usize,
    ) -> Result<(), DropReason> {
        let [l0, l1] = (length as u16).to_be_bytes();
        let header = [0x60, 0, 0, 0, l0, l1, protocol, OUTER_TTL];
        tunnel::store(ctx, ETH_LEN, &header)?;
        tunnel::store(ctx, ETH_LEN + 8, &tuple.dst)?;
        tunnel::store(ctx, ETH_LEN + 24, &tuple.src)
    }
}

/// Makes the packet an ICMPv6 message that quotes its first `N` bytes.
#[inline(always)]
fn v6_error<const N: usize>(
    ctx: &TcContext,
    tuple: &Tuple<V6>,
    message: &[u8; ICMP_LEN],
) -> Result<(), DropReason> {
    let length = ICMP_LEN + N;
    let quote = mem::cut::<N>(ctx)?;
    let pseudo = checksum::pseudo_v6(&tuple.dst, &tuple.src, wire::ICMPV6, length as u16);
    let sum = mem::sum(&quote)? + mem::sum(message)? + u64::from(pseudo);
    let check = (!checksum::fold(sum)).to_ne_bytes();
    mem::insert(ctx, IPV6_LEN + ICMP_LEN)?;
    V6::answer(ctx, tuple, wire::ICMPV6, length)?;
    tunnel::store(ctx, ETH_LEN + IPV6_LEN, message)?;
    tunnel::store(ctx, ETH_LEN + IPV6_LEN + 2, &check)
}
