//! Rewriting addresses and ports, and remembering how to rewrite the replies.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    programs::TcContext,
};
use mesh_common::{
    Addr, DropReason, FlowKey, NAT_LINK, NAT_LOOPBACK, NAT_PEER, Nat, Settings, Verdict, mac_of,
    node_mac,
    wire::{ETH_LEN, GATEWAY_BE, IPV4_LEN, TCP},
};

use crate::{
    maps, mem,
    packet::Tuple,
    tunnel::{self, Inner},
};

/// The loopback interface's index: 1 in every namespace.
const LOOPBACK: u32 = 1;

/// Rewrites the packet from `old` to the addresses and ports of `new`, checksums included.
#[inline(always)]
pub fn rewrite(ctx: &TcContext, old: &Tuple, new: &Tuple) -> Result<(), DropReason> {
    let ip = ETH_LEN;
    let l4 = ip + IPV4_LEN;
    let (check, mangled) = if old.protocol == TCP {
        (l4 + 16, 0)
    } else {
        (l4 + 6, u64::from(BPF_F_MARK_MANGLED_0))
    };
    address(ctx, ip + 12, check, mangled, old.src, new.src)?;
    address(ctx, ip + 16, check, mangled, old.dst, new.dst)?;
    port(ctx, l4, check, mangled, old.sport, new.sport)?;
    port(ctx, l4 + 2, check, mangled, old.dport, new.dport)
}

#[inline(always)]
fn address(
    ctx: &TcContext,
    at: usize,
    check: usize,
    flags: u64,
    old: u32,
    new: u32,
) -> Result<(), DropReason> {
    if old == new {
        return Ok(());
    }
    ctx.l4_csum_replace(
        check,
        u64::from(old),
        u64::from(new),
        flags | u64::from(BPF_F_PSEUDO_HDR) | 4,
    )
    .map_err(|_| DropReason::Kernel)?;
    ctx.l3_csum_replace(ETH_LEN + 10, u64::from(old), u64::from(new), 4)
        .map_err(|_| DropReason::Kernel)?;
    tunnel::store(ctx, at, &new)
}

#[inline(always)]
fn port(
    ctx: &TcContext,
    at: usize,
    check: usize,
    flags: u64,
    old: u16,
    new: u16,
) -> Result<(), DropReason> {
    if old == new {
        return Ok(());
    }
    ctx.l4_csum_replace(check, u64::from(old), u64::from(new), flags | 2)
        .map_err(|_| DropReason::Kernel)?;
    tunnel::store(ctx, at, &new)
}

/// How to treat a reply: rewrite it to the reply of `original`, then send it by `kind`.
#[inline(always)]
pub fn undo(original: &Tuple, kind: u8, ifindex: u32, peer: Addr, mac: [u8; 6]) -> Nat {
    Nat {
        src: Addr::v4_be(original.dst),
        dst: Addr::v4_be(original.src),
        peer,
        sport_be: original.dport,
        dport_be: original.sport,
        ifindex,
        mac,
        kind,
        pad: 0,
    }
}

/// Remembers `nat` for packets with `key`, unless it is there. A flow that another one has taken the place of
/// does not take it back: only a packet that begins a flow replaces what is there.
#[inline(always)]
pub fn remember(key: &FlowKey, nat: &Nat, begins: bool) -> Result<(), DropReason> {
    if let Some(known) = mem::get_flow(&maps::FLOWS, key)
        && (!begins
            || (known.src.same(&nat.src)
                && known.dst.same(&nat.dst)
                && known.peer.same(&nat.peer)
                && known.sport_be == nat.sport_be
                && known.dport_be == nat.dport_be
                && known.kind == nat.kind
                && known.ifindex == nat.ifindex))
    {
        return Ok(());
    }
    maps::FLOWS
        .insert(key, nat, 0)
        .map_err(|_| DropReason::Kernel)
}

/// The packet after `nat`.
#[inline(always)]
pub fn target(tuple: &Tuple, nat: &Nat) -> Tuple {
    Tuple {
        src: nat.src.low_be(),
        dst: nat.dst.low_be(),
        sport: nat.sport_be,
        dport: nat.dport_be,
        ..*tuple
    }
}

/// Rewrites a reply and sends it on its way.
#[inline(always)]
pub fn reply(
    ctx: &TcContext,
    settings: &Settings,
    tuple: &Tuple,
    nat: &Nat,
) -> Result<Verdict, DropReason> {
    let new = target(tuple, nat);
    rewrite(ctx, tuple, &new)?;
    match nat.kind {
        NAT_PEER => {
            let peer = nat.peer.low_be();
            let inner = Inner {
                vni: settings.ingress_vni,
                dmac: node_mac(peer),
                smac: node_mac(settings.vtep.low_be()),
            };
            tunnel::send(ctx, settings, peer, &inner, new.hash())?;
        }
        NAT_LINK => {
            tunnel::deliver(ctx, nat.ifindex, nat.mac, mac_of(GATEWAY_BE))?;
        }
        NAT_LOOPBACK => {
            tunnel::store(ctx, 0, &[0_u8; 12])?;
            mem::to_ingress(LOOPBACK);
        }
        _ => mem::to_neighbour(nat.ifindex),
    }
    Ok(Verdict::Returned)
}
