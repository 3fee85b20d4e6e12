//! Fragments of TCP and UDP. The first has the ports; the others follow it, as far as it has come before them.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use mesh_common::{
    FlowKey, Fragment, SCOPE_PUBLISHED, TABLE_FRAGMENTS,
    wire::{ETH_LEN, TCP, UDP},
};

use crate::{
    family::Family,
    maps,
    mem::{self, Packet as _},
    packet::Tuple,
    services,
};

/// Seconds for which a first fragment is followed: as long as Linux waits for the rest.
const PATIENCE_S: i32 = 30;
/// No ports: as packets do not have them.
const NONE: u32 = 0;

/// Gives a fragment the ports of the packet that it is a part of, if they are known. `eth` is where its Ethernet header
/// is, `scope` where it comes in: a VNI or one of the `SCOPE_` constants.
#[inline(always)]
pub fn follow<F: Family>(ctx: &TcContext, eth: usize, tuple: &mut Tuple<F>, scope: u32) {
    if tuple.fragment == 0 || (tuple.protocol != TCP && tuple.protocol != UDP) {
        return;
    }
    let (Some(scratch), Some((at, mask))) = (mem::scratch(), F::identification(tuple)) else {
        return;
    };
    scratch.flow = tuple.key(scope);
    let at = (eth + ETH_LEN + at) as u32;
    let l4 = if tuple.is_tail() {
        0
    } else {
        (eth + ETH_LEN + tuple.l4 as usize) as u32
    };
    let ports = fragment_ports(ctx.skb.skb, at, mask, l4);
    if ports != NONE {
        tuple.take_ports(ports.to_ne_bytes());
    }
}

/// The ports of a fragment whose identification is under `mask` at `at`, and whose transport header is at `l4`; zero: it
/// has none. What its packet's key has but for that is in the scratch space. Verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn fragment_ports(skb: *mut __sk_buff, at: u32, mask: u32, l4: u32) -> u32 {
    let ctx = TcContext::new(skb);
    let (Some(scratch), Some(bytes)) = (mem::scratch(), ctx.fetch::<4>(at as usize)) else {
        return NONE;
    };
    let key = &mut scratch.flow;
    let [high0, high1, low0, low1] = (u32::from_ne_bytes(bytes) & mask).to_ne_bytes();
    key.sport_be = u16::from_ne_bytes([high0, high1]);
    key.dport_be = u16::from_ne_bytes([low0, low1]);
    if l4 == 0 {
        recall(key)
    } else {
        learn(&ctx, l4 as usize, key)
    }
}

/// The ports of the first fragment, whose transport header is at `l4`.
#[inline(always)]
fn learn(ctx: &TcContext, l4: usize, key: &FlowKey) -> u32 {
    let Some([s0, s1, d0, d1]) = ctx.fetch::<4>(l4) else {
        return NONE;
    };
    let (sport_be, dport_be) = (u16::from_ne_bytes([s0, s1]), u16::from_ne_bytes([d0, d1]));
    // Not every stranger's packet is worth an entry.
    if key.scope == SCOPE_PUBLISHED && !services::is_published(key.protocol, dport_be) {
        return NONE;
    }
    let fragment = Fragment {
        sport_be,
        dport_be,
        seen_s: mem::now_s(),
    };
    let new = mem::get_flow(&maps::FRAGMENTS, key).is_none();
    // A refusal costs the packet its rest.
    mem::keep(&maps::FRAGMENTS, TABLE_FRAGMENTS, key, &fragment, new);
    u32::from_ne_bytes([s0, s1, d0, d1])
}

/// The ports of the first fragment that came before.
#[inline(always)]
fn recall(key: &FlowKey) -> u32 {
    let Some(first) = mem::get_flow(&maps::FRAGMENTS, key) else {
        return NONE;
    };
    // Signed: clocks of CPUs, and of user space, may be apart by the last bit.
    if (mem::now_s().wrapping_sub(first.seen_s) as i32) > PATIENCE_S {
        return NONE;
    }
    let ([s0, s1], [d0, d1]) = (first.sport_be.to_ne_bytes(), first.dport_be.to_ne_bytes());
    u32::from_ne_bytes([s0, s1, d0, d1])
}
