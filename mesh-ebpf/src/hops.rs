//! Where `uplink_xdp` sends frames: the kernel's answers about routes and neighbours, kept for a short time.
//! A lookup costs as much as all else that the program does.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};

use crate::{
    family::{Family, V4, V6},
    maps::{self, HOP_SLOTS, Hop},
    mem::{self, Packet as _},
    paths, services,
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
    let slot = slot(F::fold(dst));
    let hop = mem::own(&maps::HOPS, slot)?;
    let known = hop.ifindex == ifindex && hop.dst.same(&F::key(dst)) && hop.src.same(&F::key(src));
    if !known || (now.wrapping_sub(hop.until) as i32) >= 0 {
        if !known {
            hop.src = F::key(src);
            hop.dst = F::key(dst);
            hop.verified = now;
        } else if now.wrapping_sub(hop.verified) > VERIFIED {
            hop.verified = now;
            return None;
        }
        hop.until = now.wrapping_add(FRESH);
        hop.ifindex = F::ask_next_hop(ctx, slot);
        if hop.ifindex != ifindex {
            return None;
        }
    }
    if u32::from(length) > hop.mtu {
        None
    } else {
        Some(hop)
    }
}

/// Asks for the next hop that an entry of `HOPS` is for, and fills it in. The interface, zero if there is none. Verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn next_hop_v4(xdp: *mut xdp_md, slot: u32) -> u32 {
    ask::<V4>(&XdpContext::new(xdp), slot).unwrap_or(0)
}

/// The same for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn next_hop_v6(xdp: *mut xdp_md, slot: u32) -> u32 {
    ask::<V6>(&XdpContext::new(xdp), slot).unwrap_or(0)
}

#[inline(always)]
fn ask<F: Family>(ctx: &XdpContext, slot: u32) -> Option<u32> {
    let hop = mem::own(&maps::HOPS, slot)?;
    let found = mem::next_hop::<F>(ctx, &F::address(&hop.src), &F::address(&hop.dst))?;
    // A packet in a tunnel has to fit the wire at its end as well, and those between.
    let taken = services::peer_mtu(&hop.dst).min(paths::to(&hop.dst));
    hop.mtu = found.mtu.min(taken);
    hop.macs = found.macs;
    Some(found.ifindex)
}

#[inline(always)]
fn slot(dst: u32) -> u32 {
    (dst.wrapping_mul(0x9e37_79b1) >> 16) & (HOP_SLOTS - 1)
}

const _: () = assert!(HOP_SLOTS.is_power_of_two());
