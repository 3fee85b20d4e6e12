//! What differs between IPv4 and IPv6. All else is written once, for any [`Family`].

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM, bpf_fib_lookup,
    },
    programs::{TcContext, XdpContext},
};
use mesh_common::{
    Addr, DropReason, Prefix, checksum, fold_v6,
    wire::{
        self, ETH_LEN, ETHERTYPE_IPV4_BE, ETHERTYPE_IPV6_BE, FRAGMENT_MASK_BE, FRAGMENT_OFFSET_BE,
        IPV4_LEN, IPV4_NO_OPTIONS, IPV6_LEN, OVERHEAD, V6_DESTINATION, V6_FRAGMENT, V6_HOP_BY_HOP,
        V6_ROUTING, is_loopback_be, is_martian_be, is_martian_v6,
    },
};

use crate::{
    hops,
    maps::{Ends, Scratch},
    mem::{self, Packet},
    messages::Messages,
    nat,
    packet::{self, Tuple},
    tunnel,
};

/// TCP header without options.
pub const TCP_LEN: usize = 20;
/// The offset alone.
const V6_FRAGMENT_OFFSET_BE: u16 = 0xfff8_u16.to_be();

/// An Internet protocol.
pub trait Family: Messages {
    /// An address as it stands in a packet.
    type Address: Copy;
    /// EtherType, as it stands in the packet.
    const ETHERTYPE_BE: u16;
    /// Where the source address is in the header; the destination follows it.
    const SOURCE: usize;
    /// Length of an address.
    const ADDRESS_LEN: usize;
    /// The offset in [`Tuple::fragment`].
    const FRAGMENT_OFFSET_BE: u16;
    /// Protocol number of ICMP.
    const ICMP: u8;
    /// ICMP type of an echo request.
    const ECHO: u8;
    /// ICMP type of an echo reply.
    const ECHO_REPLY: u8;
    /// What an ICMP error can get nobody to send less than, bytes from the IP header on (RFC 8201, section 4); zero: nothing is.
    const LEAST_MTU: u32;
    /// Length of the header without options and extensions.
    const HEADER_LEN: usize;
    /// Longest headers looked at from the Ethernet header on, without options and extensions.
    const HEADERS: usize = ETH_LEN + Self::HEADER_LEN + TCP_LEN;

    /// Removes a tunnel's headers, which are of IPv4, from around a packet of this family. False: the kernel refuses.
    fn strip(ctx: &TcContext) -> bool;
    /// The packet whose Ethernet header is at `eth`. `None`: another family, or cut short.
    fn parse(packet: &impl Packet, eth: usize) -> Option<Tuple<Self>>;
    /// An address as a map key.
    fn key(address: &Self::Address) -> Addr;
    /// A map key as an address.
    fn address(key: &Addr) -> Self::Address;
    /// Whether two addresses are equal.
    fn same(a: &Self::Address, b: &Self::Address) -> bool;
    /// An address in 32 bits, for the hash of a flow.
    fn fold(address: &Self::Address) -> u32;
    /// Whether an address never leaves its host.
    fn is_loopback(address: &Self::Address) -> bool;
    /// Whether no host can be the source of a packet from outside with this address.
    fn is_martian(address: &Self::Address) -> bool;
    /// Whether tasks of a network have addresses of this family.
    fn is_on(prefix: &Prefix) -> bool;
    /// The address of the task, virtual address or node that has `low_be` in IPv4.
    fn join(prefix: &Prefix, low_be: u32) -> Self::Address;
    /// The IPv4 address that stands for `address` in the tables; `None` if it is not the network's.
    fn low_be(prefix: &Prefix, address: &Self::Address) -> Option<u32>;
    /// The IPv4 address that stands for `address` in the tables, the network being known.
    fn last_be(address: &Self::Address) -> u32;
    /// Sum of the pseudo header, not complemented. `length` in host byte order.
    fn pseudo(tuple: &Tuple<Self>, length: u16) -> u16;
    /// Length of transport header and payload, as the IP header at `ip` says. The transport header is `l4` behind it.
    fn transport_length(packet: &impl Packet, ip: usize, l4: u16) -> Option<u16>;
    /// Where a fragment has what all of its packet's have in common: four bytes, from the beginning of the IP header
    /// on, and which bits of them. `None`: its transport header is not looked at even if it is whole.
    fn identification(tuple: &Tuple<Self>) -> Option<(usize, u32)>;
    /// Asks about a route from `src` to `dst`.
    fn ask(query: &mut bpf_fib_lookup, src: &Self::Address, dst: &Self::Address);
    /// What a packet is rewritten from and to.
    fn change(scratch: &mut Scratch) -> &mut [Ends<Self::Address>; 2];
    /// See [`hops::next_hop_v4`]; for the family's own packets.
    fn ask_next_hop(ctx: &XdpContext, slot: u32) -> u32;
    /// See [`nat::rewrite_v4`]; for the family's own packets.
    fn rewrite_ends(ctx: &TcContext, l4: u32, kind: u32) -> u32;
    /// See [`nat::straight_v4`]; for the family's own packets.
    fn straight(ctx: &TcContext) -> u32;
    /// Overwrites the address at `at`, and updates the transport checksum at `check`; zero: the packet has none.
    fn rewrite(
        ctx: &TcContext,
        at: usize,
        check: usize,
        flags: u64,
        old: &Self::Address,
        new: &Self::Address,
    ) -> Result<(), DropReason>;
}

/// IPv4.
#[derive(Clone, Copy)]
pub struct V4;

/// IPv6.
#[derive(Clone, Copy)]
pub struct V6;

impl Family for V4 {
    type Address = u32;
    const ETHERTYPE_BE: u16 = ETHERTYPE_IPV4_BE;
    const SOURCE: usize = 12;
    const ADDRESS_LEN: usize = 4;
    const FRAGMENT_OFFSET_BE: u16 = FRAGMENT_OFFSET_BE;
    const ICMP: u8 = wire::ICMP;
    const ECHO: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    const LEAST_MTU: u32 = 0;
    const HEADER_LEN: usize = IPV4_LEN;

    #[inline(always)]
    fn strip(ctx: &TcContext) -> bool {
        mem::shrink(ctx, OVERHEAD, 0)
    }

    #[inline(always)]
    fn parse(packet: &impl Packet, eth: usize) -> Option<Tuple<Self>> {
        if packet::ethertype(packet, eth)? != ETHERTYPE_IPV4_BE {
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
        let mut tuple = Tuple::without_ports(src, dst, protocol);
        tuple.l4 = u16::from(version & 0xf) * 4;
        tuple.fragment = fragment & FRAGMENT_MASK_BE;
        if tuple.fragment == 0 && version == IPV4_NO_OPTIONS {
            tuple.transport(packet, ip)?;
        }
        Some(tuple)
    }

    #[inline(always)]
    fn key(address: &u32) -> Addr {
        Addr::v4_be(*address)
    }

    #[inline(always)]
    fn address(key: &Addr) -> u32 {
        key.low_be()
    }

    #[inline(always)]
    fn same(a: &u32, b: &u32) -> bool {
        *a == *b
    }

    #[inline(always)]
    fn fold(address: &u32) -> u32 {
        *address
    }

    #[inline(always)]
    fn is_loopback(address: &u32) -> bool {
        is_loopback_be(*address)
    }

    #[inline(always)]
    fn is_martian(address: &u32) -> bool {
        is_martian_be(*address)
    }

    #[inline(always)]
    fn is_on(_prefix: &Prefix) -> bool {
        true
    }

    #[inline(always)]
    fn join(_prefix: &Prefix, low_be: u32) -> u32 {
        low_be
    }

    #[inline(always)]
    fn low_be(_prefix: &Prefix, address: &u32) -> Option<u32> {
        Some(*address)
    }

    #[inline(always)]
    fn last_be(address: &u32) -> u32 {
        *address
    }

    #[inline(always)]
    fn pseudo(tuple: &Tuple<Self>, length: u16) -> u16 {
        checksum::pseudo_v4(tuple.src, tuple.dst, tuple.protocol, length)
    }

    #[inline(always)]
    fn transport_length(packet: &impl Packet, ip: usize, l4: u16) -> Option<u16> {
        let total = u16::from_be(mem::u16_at(packet, ip + 2)?);
        Some(total.wrapping_sub(l4))
    }

    #[inline(always)]
    fn identification(tuple: &Tuple<Self>) -> Option<(usize, u32)> {
        if tuple.l4 as usize != IPV4_LEN {
            return None;
        }
        Some((2, 0x0000_ffff_u32.to_be()))
    }

    #[inline(always)]
    fn ask(query: &mut bpf_fib_lookup, src: &u32, dst: &u32) {
        query.family = 2;
        query.__bindgen_anon_3.ipv4_src = *src;
        query.__bindgen_anon_4.ipv4_dst = *dst;
    }

    #[inline(always)]
    fn change(scratch: &mut Scratch) -> &mut [Ends<u32>; 2] {
        &mut scratch.v4
    }

    #[inline(always)]
    fn ask_next_hop(ctx: &XdpContext, slot: u32) -> u32 {
        hops::next_hop_v4(ctx.ctx, slot)
    }

    #[inline(always)]
    fn rewrite_ends(ctx: &TcContext, l4: u32, kind: u32) -> u32 {
        nat::rewrite_v4(ctx.skb.skb, l4, kind)
    }

    #[inline(always)]
    fn straight(ctx: &TcContext) -> u32 {
        nat::straight_v4(ctx.skb.skb)
    }

    #[inline(always)]
    fn rewrite(
        ctx: &TcContext,
        at: usize,
        check: usize,
        flags: u64,
        old: &u32,
        new: &u32,
    ) -> Result<(), DropReason> {
        let (old, new) = (*old, *new);
        if check != 0 {
            ctx.l4_csum_replace(
                check,
                u64::from(old),
                u64::from(new),
                flags | u64::from(BPF_F_PSEUDO_HDR) | 4,
            )
            .map_err(|_| DropReason::Kernel)?;
        }
        ctx.l3_csum_replace(ETH_LEN + 10, u64::from(old), u64::from(new), 4)
            .map_err(|_| DropReason::Kernel)?;
        tunnel::store(ctx, at, &new)
    }
}

impl Family for V6 {
    type Address = Addr;
    const ETHERTYPE_BE: u16 = ETHERTYPE_IPV6_BE;
    const SOURCE: usize = 8;
    const ADDRESS_LEN: usize = 16;
    const FRAGMENT_OFFSET_BE: u16 = V6_FRAGMENT_OFFSET_BE;
    const ICMP: u8 = wire::ICMPV6;
    const ECHO: u8 = 128;
    const ECHO_REPLY: u8 = 129;
    const LEAST_MTU: u32 = 1280;
    const HEADER_LEN: usize = IPV6_LEN;

    #[inline(always)]
    fn strip(ctx: &TcContext) -> bool {
        let known = mem::shrink(ctx, OVERHEAD, BPF_F_ADJ_ROOM_DECAP_L3_IPV6 as u64);
        (known || tunnel::strip_before_6_3(ctx.skb.skb) != 0)
            // The outer Ethernet header says that IPv4 follows.
            && ctx.store(12, &Self::ETHERTYPE_BE, 0).is_ok()
    }

    #[inline(always)]
    fn parse(packet: &impl Packet, eth: usize) -> Option<Tuple<Self>> {
        if packet::ethertype(packet, eth)? != ETHERTYPE_IPV6_BE {
            return None;
        }
        let ip = eth + ETH_LEN;
        if mem::u8_at(packet, ip)? >> 4 != 6 {
            return None;
        }
        let protocol = mem::u8_at(packet, ip + 6)?;
        let src = mem::addr_at(packet, ip + 8)?;
        let dst = mem::addr_at(packet, ip + 24)?;
        // Mapped IPv4, which is on no wire, would pass for IPv4 in the tables.
        if src.is_v4() || dst.is_v4() {
            return None;
        }
        let mut tuple = Tuple::without_ports(src, dst, protocol);
        if matches!(
            protocol,
            V6_HOP_BY_HOP | V6_ROUTING | V6_FRAGMENT | V6_DESTINATION
        ) {
            tuple = packet.behind_extensions(ip, tuple)?;
        } else {
            tuple.transport(packet, ip)?;
        }
        Some(tuple)
    }

    #[inline(always)]
    fn key(address: &Addr) -> Addr {
        *address
    }

    #[inline(always)]
    fn address(key: &Addr) -> Addr {
        *key
    }

    #[inline(always)]
    fn same(a: &Addr, b: &Addr) -> bool {
        a.same(b)
    }

    #[inline(always)]
    fn fold(address: &Addr) -> u32 {
        fold_v6(address)
    }

    #[inline(always)]
    fn is_loopback(address: &Addr) -> bool {
        address.same(&Addr::LOOPBACK_V6)
    }

    #[inline(always)]
    fn is_martian(address: &Addr) -> bool {
        is_martian_v6(address)
    }

    #[inline(always)]
    fn is_on(prefix: &Prefix) -> bool {
        prefix.is_some()
    }

    #[inline(always)]
    fn join(prefix: &Prefix, low_be: u32) -> Addr {
        prefix.join(low_be)
    }

    #[inline(always)]
    fn low_be(prefix: &Prefix, address: &Addr) -> Option<u32> {
        if prefix.holds(address) {
            Some(address.low_be())
        } else {
            None
        }
    }

    #[inline(always)]
    fn last_be(address: &Addr) -> u32 {
        address.low_be()
    }

    #[inline(always)]
    fn pseudo(tuple: &Tuple<Self>, length: u16) -> u16 {
        checksum::pseudo_v6(&tuple.src, &tuple.dst, tuple.protocol, length)
    }

    #[inline(always)]
    fn transport_length(packet: &impl Packet, ip: usize, l4: u16) -> Option<u16> {
        let payload = u16::from_be(mem::u16_at(packet, ip + 4)?);
        Some(payload.wrapping_sub(l4.wrapping_sub(IPV6_LEN as u16)))
    }

    /// The fragment header is the last that was walked.
    #[inline(always)]
    fn identification(tuple: &Tuple<Self>) -> Option<(usize, u32)> {
        Some((tuple.l4 as usize - 4, u32::MAX))
    }

    #[inline(always)]
    fn ask(query: &mut bpf_fib_lookup, src: &Addr, dst: &Addr) {
        query.family = 10;
        query.__bindgen_anon_3.ipv6_src = src.words_be;
        query.__bindgen_anon_4.ipv6_dst = dst.words_be;
    }

    #[inline(always)]
    fn change(scratch: &mut Scratch) -> &mut [Ends<Addr>; 2] {
        &mut scratch.v6
    }

    #[inline(always)]
    fn ask_next_hop(ctx: &XdpContext, slot: u32) -> u32 {
        hops::next_hop_v6(ctx.ctx, slot)
    }

    #[inline(always)]
    fn rewrite_ends(ctx: &TcContext, l4: u32, kind: u32) -> u32 {
        nat::rewrite_v6(ctx.skb.skb, l4, kind)
    }

    #[inline(always)]
    fn straight(ctx: &TcContext) -> u32 {
        nat::straight_v6(ctx.skb.skb)
    }

    #[inline(always)]
    fn rewrite(
        ctx: &TcContext,
        at: usize,
        check: usize,
        flags: u64,
        old: &Addr,
        new: &Addr,
    ) -> Result<(), DropReason> {
        if check != 0 {
            let difference = mem::difference(old, new)?;
            ctx.l4_csum_replace(check, 0, difference, flags | u64::from(BPF_F_PSEUDO_HDR))
                .map_err(|_| DropReason::Kernel)?;
        }
        // No IP header checksum makes up for the change: where the device has summed the packet, the kernel has to
        // take the new bytes into its sum, as it has just done with the new transport checksum.
        ctx.store(at, new, u64::from(BPF_F_RECOMPUTE_CSUM))
            .map_err(|_| DropReason::Kernel)
    }
}
