//! Where `uplink_xdp` sends frames: the kernel's answers about routes and neighbours, kept for a short time.
//! A lookup costs as much as all else that the program does.

use aya_ebpf::programs::XdpContext;

use crate::{
    family::Family,
    maps::{self, HOP_SLOTS, Hop},
    mem::{self, Packet as _},
};

/// Clock ticks for which an answer is used: a quarter of a second where there are 1000 a second, 2.6 s where
/// there are 100. So long may packets go to the MAC that a neighbour had before.
const FRESH: u32 = 1 << 8;
/// Clock ticks after which one packet is left to the kernel (8 s to 82 s). The kernel verifies the neighbours that
/// it sends to itself, and only those.
const VERIFIED: u32 = 1 << 13;

/// The next hop of a packet of `length` bytes (without its Ethernet header), if it leaves by the interface that
/// it came in by: only there can XDP answer. `None`: another interface, too long, the neighbour is
/// unknown, or the kernel is to send this one.
#[inline(always)]
pub fn find<F: Family>(
    ctx: &XdpContext,
    src: &F::Address,
    dst: &F::Address,
    length: u16,
) -> Option<&'static Hop> {
    let now = mem::ticks();
    let ifindex = ctx.ifindex();
    let hop = mem::own(&maps::HOPS, slot(F::fold(dst)))?;
    let known = hop.ifindex == ifindex && hop.dst.same(&F::key(dst)) && hop.src.same(&F::key(src));
    if !known || (now.wrapping_sub(hop.until) as i32) >= 0 {
        if known && now.wrapping_sub(hop.verified) > VERIFIED {
            hop.verified = now;
            return None;
        }
        let verified = if known { hop.verified } else { now };
        let found = mem::next_hop::<F>(ctx, src, dst)?;
        if found.ifindex != ifindex {
            return None;
        }
        hop.src = F::key(src);
        hop.dst = F::key(dst);
        hop.ifindex = ifindex;
        hop.mtu = found.mtu;
        hop.until = now.wrapping_add(FRESH);
        hop.verified = verified;
        hop.macs = found.macs;
    }
    if u32::from(length) > hop.mtu {
        None
    } else {
        Some(hop)
    }
}

#[inline(always)]
fn slot(dst: u32) -> u32 {
    (dst.wrapping_mul(0x9e37_79b1) >> 16) & (HOP_SLOTS - 1)
}

const _: () = assert!(HOP_SLOTS.is_power_of_two());
