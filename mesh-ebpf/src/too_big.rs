//! The answer to a packet that a tunnel does not take: how large it may be (RFC 1191, RFC 8201).

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use mesh_common::{
    Addr, DropReason, PATH_MTU_LEAST, Place, Verdict,
    wire::{ETH_LEN, OVERHEAD, TCP},
};

use crate::{
    family::Family, maps, mem, mem::Packet as _, mss, packet::Tuple, paths, services, tunnel::store,
};

/// The loopback interface's index: 1 in every namespace.
const LOOPBACK: u32 = 1;

/// A tunnel packet that routers take, whatever they have said, be it that it is to be encrypted, which takes 60 bytes.
const SMALL: u32 = PATH_MTU_LEAST - 60;

/// Whether a packet fits into a tunnel by `device` to the node at `peer_be`; if not, goes on in the program that answers
/// it. To be asked before the packet is changed, as the answer quotes it. What opens a connection is made to announce
/// what fits.
#[inline(always)]
pub fn check<F: Family>(
    ctx: &TcContext,
    device: u32,
    peer_be: u32,
    tuple: &Tuple<F>,
) -> Result<(), DropReason> {
    let length = length(ctx, tuple) + OVERHEAD as u32;
    let mtu = if tuple.protocol == TCP && length <= SMALL {
        // Made to fit at the other end as well.
        mem::mtu(ctx, device)
    } else {
        let mtu = tunnel_mtu(ctx.skb.skb, device, peer_be, length);
        if F::LEAST_MTU > 0 && mtu < F::LEAST_MTU + OVERHEAD as u32 {
            // No end of a connection would send less: the wires alone count, and a router is not believed.
            let wires = tunnel_mtu(ctx.skb.skb, device, peer_be, 0);
            wires.min(F::LEAST_MTU + OVERHEAD as u32)
        } else {
            mtu
        }
    };
    if mtu == 0 || length <= mtu {
        return mss::clamp(ctx, device, peer_be, tuple);
    }
    mem::scratch().ok_or(DropReason::Kernel)?.largest = mtu.saturating_sub(OVERHEAD as u32);
    mem::continue_in(&maps::TC_MORE, ctx, F::MORE + mesh_common::MORE_TOO_BIG);
    Err(DropReason::TooBig)
}

/// Largest tunnel packet that `device`, the wire of the node at `peer_be` and what is between them take; zero: there is no
/// such device. What is between them is not asked for a `length` that it takes anyhow. Verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tunnel_mtu(skb: *mut __sk_buff, device: u32, peer_be: u32, length: u32) -> u32 {
    let ctx = TcContext::new(skb);
    let own = mem::mtu(&ctx, device);
    let Some(settings) = services::settings() else {
        return own;
    };
    // What encryption takes, it takes of the other wires too.
    let taken = if device == settings.uplink {
        0
    } else {
        mem::mtu(&ctx, settings.uplink).saturating_sub(own)
    };
    let way = if length > SMALL {
        paths::path_mtu(peer_be)
    } else {
        u32::MAX
    };
    let peer = services::peer_mtu(&Addr::v4_be(peer_be)).min(way);
    own.min(peer.saturating_sub(taken))
}

/// Length of the packet from its IP header on; of each part, if the device is to cut it up.
#[inline(always)]
fn length<F: Family>(ctx: &TcContext, tuple: &Tuple<F>) -> u32 {
    /// `GSO_BY_FRAGS`: SCTP has cut it up already, and the device only divides it.
    const DIVIDED: u32 = 0xffff;
    let part = mem::part(ctx);
    if part == 0 {
        return ctx.len() - ETH_LEN as u32;
    }
    if part == DIVIDED {
        return 0;
    }
    let l4 = tuple.l4 as usize;
    let header = if tuple.protocol == TCP {
        let offset = mem::u8_at(ctx, ETH_LEN + F::HEADER_LEN + 12).unwrap_or(0x50);
        u32::from(offset >> 4) * 4
    } else {
        8
    };
    l4 as u32 + header + part
}

/// The program.
#[inline(always)]
pub fn run<F: Family>(ctx: &TcContext) -> Result<Verdict, DropReason> {
    mem::pull(ctx, F::HEADERS);
    let tuple = F::parse(ctx, 0).ok_or(DropReason::TooBig)?;
    if tuple.is_tail() || !F::may_answer(ctx) {
        return Err(DropReason::TooBig);
    }
    let ifindex = ctx.ifindex();
    let mtu = mem::scratch().ok_or(DropReason::TooBig)?.largest;
    // A program of an earlier build called, which keeps that elsewhere.
    if mtu == 0 {
        return Err(DropReason::TooBig);
    }
    let to = mem::bytes::<6>(ctx, 0).ok_or(DropReason::TooBig)?;
    let from = mem::bytes::<6>(ctx, 6).ok_or(DropReason::TooBig)?;
    F::too_big(ctx, &tuple, mtu)?;
    store(ctx, 0, &from)?;
    store(ctx, 6, &to)?;
    if ifindex == LOOPBACK {
        mem::to_ingress(LOOPBACK);
    } else {
        mem::to_egress(ifindex);
    }
    Ok(Verdict::Answered)
}

/// The program that the packet came in by.
#[inline(always)]
pub fn place(ctx: &TcContext) -> Place {
    let ifindex = ctx.ifindex();
    match mem::get(&maps::LINKS, &ifindex) {
        Some(link) if link.kind == mesh_common::LINK_OVERLAY => Place::Overlay,
        Some(_) => Place::Gateway,
        None if ifindex == LOOPBACK => Place::Loopback,
        None => Place::UplinkTc,
    }
}
