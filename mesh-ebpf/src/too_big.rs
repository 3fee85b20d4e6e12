//! The answer to a packet that a tunnel does not take: how large it may be (RFC 1191, RFC 8201).

use aya_ebpf::programs::TcContext;
use mesh_common::{
    DropReason, Place, Verdict,
    wire::{ETH_LEN, OVERHEAD, TCP},
};

use crate::{
    family::Family,
    maps, mem,
    mem::Packet as _,
    mss,
    packet::Tuple,
    services,
    tunnel::{self, store},
};

/// The loopback interface's index: 1 in every namespace.
const LOOPBACK: u32 = 1;

/// Whether a packet fits into a tunnel by `device`; if not, goes on in the program that answers it. To be asked before the packet
/// is changed, as the answer quotes it. What opens a connection is made to announce what fits.
#[inline(always)]
pub fn check<F: Family>(ctx: &TcContext, device: u32, tuple: &Tuple<F>) -> Result<(), DropReason> {
    let mtu = mem::mtu(ctx, device);
    if mtu == 0 || length(ctx, tuple) + OVERHEAD as u32 <= mtu {
        return mss::clamp(ctx, device, tuple);
    }
    mem::continue_in(&maps::TC_MORE, ctx, F::MORE + mesh_common::MORE_TOO_BIG);
    Err(DropReason::TooBig)
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
    let settings = services::settings().ok_or(DropReason::TooBig)?;
    let tuple = F::parse(ctx, 0).ok_or(DropReason::TooBig)?;
    if tuple.is_tail() || !F::may_answer(ctx) {
        return Err(DropReason::TooBig);
    }
    let ifindex = ctx.ifindex();
    let device = match mem::get(&maps::LINKS, &ifindex) {
        Some(link) => tunnel::device(settings, link),
        None => settings.uplink,
    };
    let mtu = mem::mtu(ctx, device).saturating_sub(OVERHEAD as u32);
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
