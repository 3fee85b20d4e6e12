//! The extension headers of IPv6 (RFC 8200, section 4), in tc: walked to the transport header. XDP leaves packets that
//! have any.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use mesh_common::wire::{
    IPV6_LEN, SCTP, TCP, UDP, V6_DESTINATION, V6_FRAGMENT, V6_HOP_BY_HOP, V6_ROUTING,
};

use crate::{
    family::V6,
    mem::Packet as _,
    packet::{Flags, Tuple},
};

/// Extension headers walked; a packet with more has no ports that we know.
const MOST: usize = 4;
/// "More fragments" and the offset in a fragment header.
const FRAGMENT_MASK_BE: u16 = 0xfff9_u16.to_be();
/// No answer: the packet is cut short.
const CUT: u64 = u64::MAX;

/// What of the packet whose IP header is at `ip` is behind its extension headers. `None`: cut short.
#[inline(always)]
pub fn walk(ctx: &TcContext, ip: usize, mut tuple: Tuple<V6>) -> Option<Tuple<V6>> {
    let found = end_of_extensions(ctx.skb.skb, ip as u32, tuple.protocol.into());
    if found == CUT {
        return None;
    }
    tuple.protocol = found as u8;
    tuple.fragment = (found >> 8) as u16;
    tuple.l4 = (found >> 32) as u16;
    if tuple.fragment != 0 {
        return Some(tuple);
    }
    let l4 = ip + tuple.l4 as usize;
    let found = transport_header(ctx.skb.skb, l4 as u32, tuple.protocol.into());
    if found == CUT {
        return None;
    }
    if tuple.protocol == TCP || tuple.protocol == UDP || tuple.protocol == SCTP {
        tuple.take_ports((found as u32).to_ne_bytes());
        tuple.flags = Flags((found >> 32) as u8);
    }
    Some(tuple)
}

/// From the right: the transport protocol, "more fragments" and the offset of a fragment, and how far behind the
/// beginning of the IP header the transport header is. Verified once: the walk has many ways.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn end_of_extensions(skb: *mut __sk_buff, ip: u32, protocol: u32) -> u64 {
    let ctx = TcContext::new(skb);
    let (ip, mut protocol) = (ip as usize, protocol as u8);
    let (mut l4, mut fragment, mut walked) = (IPV6_LEN, 0_u16, 0);
    while walked < MOST && fragment == 0 {
        match protocol {
            V6_HOP_BY_HOP | V6_ROUTING | V6_DESTINATION => {
                let Some([next, eights]) = ctx.fetch::<2>(ip + l4) else {
                    return CUT;
                };
                protocol = next;
                l4 += (eights as usize + 1) * 8;
            }
            V6_FRAGMENT => {
                let Some([next, _, high, low]) = ctx.fetch::<4>(ip + l4) else {
                    return CUT;
                };
                protocol = next;
                l4 += 8;
                fragment = u16::from_ne_bytes([high, low]) & FRAGMENT_MASK_BE;
            }
            _ => break,
        }
        walked += 1;
    }
    (l4 as u64) << 32 | u64::from(fragment) << 8 | u64::from(protocol)
}

/// From the right: the ports as they stand in the packet, and the flags of TCP. Zero if the protocol is another one.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn transport_header(skb: *mut __sk_buff, l4: u32, protocol: u32) -> u64 {
    let ctx = TcContext::new(skb);
    let l4 = l4 as usize;
    if protocol == u32::from(TCP) {
        let Some(header) = ctx.fetch::<14>(l4) else {
            return CUT;
        };
        let ports = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
        u64::from(header[13]) << 32 | u64::from(ports)
    } else if protocol == u32::from(UDP) || protocol == u32::from(SCTP) {
        ctx.fetch::<4>(l4)
            .map_or(CUT, |ports| u32::from_ne_bytes(ports).into())
    } else {
        0
    }
}
