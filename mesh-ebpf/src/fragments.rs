//! Fragments of TCP and UDP. The first has the ports; the others follow it, as far as it has come before them.

use aya_ebpf::programs::TcContext;
use mesh_common::{
    FlowKey, Fragment, SCOPE_PUBLISHED,
    wire::{ETH_LEN, ETHERTYPE_IPV6_BE, TCP, UDP},
};

use crate::{
    family::Family,
    maps,
    mem::{self, Packet as _},
    packet::Tuple,
    services,
};

/// Seconds for which a first fragment is followed: as long as Linux waits for the rest.
const PATIENCE_S: u32 = 30;
/// No ports: as packets do not have them.
const NONE: u32 = 0;

/// Gives a fragment the ports of the packet that it is a part of, if they are known. `eth` is where its Ethernet header
/// is, `scope` where it comes in: a VNI or one of the `SCOPE_` constants.
#[inline(always)]
pub fn follow<F: Family>(ctx: &TcContext, eth: usize, tuple: &mut Tuple<F>, scope: u32) {
    find(ctx, eth, tuple, scope);
    if F::ETHERTYPE_BE == ETHERTYPE_IPV6_BE {
        // Too many ways lead here: with and without ports, extension headers, fragments.
        tuple.blur();
    }
}

#[inline(always)]
fn find<F: Family>(ctx: &TcContext, eth: usize, tuple: &mut Tuple<F>, scope: u32) {
    if tuple.fragment == 0 || (tuple.protocol != TCP && tuple.protocol != UDP) {
        return;
    }
    let (Some(scratch), Some([high, low])) = (mem::scratch(), F::identification(ctx, eth, tuple))
    else {
        return;
    };
    scratch.flow = tuple.key(scope);
    scratch.flow.sport_be = high;
    scratch.flow.dport_be = low;
    let ports = if tuple.is_tail() {
        recall(&scratch.flow)
    } else {
        learn(ctx, eth + ETH_LEN + tuple.l4 as usize, &scratch.flow)
    };
    if ports != NONE {
        tuple.take_ports(ports.to_ne_bytes());
    }
}

/// The ports of the first fragment, whose transport header is at `l4`.
#[inline(never)]
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
    // A full table costs the packet its rest.
    let _ = maps::FRAGMENTS.insert(key, fragment, 0);
    u32::from_ne_bytes([s0, s1, d0, d1])
}

/// The ports of the first fragment that came before.
#[inline(never)]
fn recall(key: &FlowKey) -> u32 {
    let Some(first) = mem::get_flow(&maps::FRAGMENTS, key) else {
        return NONE;
    };
    if mem::now_s().wrapping_sub(first.seen_s) > PATIENCE_S {
        return NONE;
    }
    let ([s0, s1], [d0, d1]) = (first.sport_be.to_ne_bytes(), first.dport_be.to_ne_bytes());
    u32::from_ne_bytes([s0, s1, d0, d1])
}
