//! Rewriting addresses and ports, and remembering how to rewrite the replies.

use aya_ebpf::{bindings::BPF_F_MARK_MANGLED_0, programs::TcContext};
use mesh_common::{
    Addr, DropReason, FlowKey, NAT_LINK, NAT_LOOPBACK, NAT_PEER, Nat, SCOPE_PORT, Settings,
    Verdict, mac_of, node_mac,
    wire::{ETH_LEN, GATEWAY_BE, TCP},
};

use crate::{
    family::Family,
    maps::{self, Scratch},
    mem,
    packet::Tuple,
    too_big,
    tunnel::{self, Inner},
};

/// Substitutes tried for a client's port that is taken.
const ATTEMPTS: u32 = 8;
/// Lowest substitute.
const FIRST_PORT: u32 = 1024;

/// The loopback interface's index: 1 in every namespace.
const LOOPBACK: u32 = 1;

/// Rewrites the packet from `old` to the addresses and ports of `new`, checksums included. Later fragments have neither
/// ports nor a transport checksum.
#[inline(always)]
pub fn rewrite<F: Family>(
    ctx: &TcContext,
    old: &Tuple<F>,
    new: &Tuple<F>,
) -> Result<(), DropReason> {
    let src = ETH_LEN + F::SOURCE;
    let l4 = ETH_LEN + old.l4 as usize;
    let (check, mangled) = if old.is_tail() {
        (0, 0)
    } else if old.protocol == TCP {
        (l4 + 16, 0)
    } else {
        (l4 + 6, u64::from(BPF_F_MARK_MANGLED_0))
    };
    address::<F>(ctx, src, check, mangled, &old.src, &new.src)?;
    let dst = src + F::ADDRESS_LEN;
    address::<F>(ctx, dst, check, mangled, &old.dst, &new.dst)?;
    if old.is_tail() {
        return Ok(());
    }
    port(ctx, l4, check, mangled, old.sport, new.sport)?;
    port(ctx, l4 + 2, check, mangled, old.dport, new.dport)
}

#[inline(always)]
fn address<F: Family>(
    ctx: &TcContext,
    at: usize,
    check: usize,
    flags: u64,
    old: &F::Address,
    new: &F::Address,
) -> Result<(), DropReason> {
    if F::same(old, new) {
        return Ok(());
    }
    F::rewrite(ctx, at, check, flags, old, new)
}

/// Rewrites a port, and the checksum at `check`.
#[inline(always)]
pub fn port(
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
pub fn undo<F: Family>(
    nat: &mut Nat,
    original: &Tuple<F>,
    kind: u8,
    ifindex: u32,
    peer: Addr,
    mac: [u8; 6],
) {
    nat.src = F::key(&original.dst);
    nat.dst = F::key(&original.src);
    nat.peer = peer;
    nat.sport_be = original.dport;
    nat.dport_be = original.sport;
    nat.ifindex = ifindex;
    nat.mac = mac;
    nat.kind = kind;
    nat.closed = 0;
    nat.seen_s = mem::now_s();
}

/// Whether two entries belong to the same flow.
#[inline(always)]
fn same(a: &Nat, b: &Nat) -> bool {
    a.src.same(&b.src)
        && a.dst.same(&b.dst)
        && a.peer.same(&b.peer)
        && a.sport_be == b.sport_be
        && a.dport_be == b.dport_be
        && a.kind == b.kind
        && a.ifindex == b.ifindex
}

/// Remembers `nat` for packets with `key`. A packet that begins a flow replaces what is there.
#[inline(always)]
pub fn remember(key: &FlowKey, nat: &Nat, begins: bool) -> Result<(), DropReason> {
    if let Some(known) = mem::get_flow(&maps::FLOWS, key)
        && (!begins || same(known, nat))
    {
        return Ok(());
    }
    maps::FLOWS
        .insert(key, nat, 0)
        .map_err(|_| DropReason::Kernel)
}

/// Forgets how to rewrite packets with `key`.
#[inline(always)]
pub fn forget(key: &FlowKey) {
    if mem::get_flow(&maps::FLOWS, key).is_some() {
        // Gone already is as good.
        let _ = maps::FLOWS.remove(key);
    }
}

/// Remembers `nat` for replies with `key`, unless another flow has the key: then `false`. One that has ended counts
/// until the task has forgotten it, or with `now` no longer.
#[inline(always)]
pub fn claim<F: Family>(
    key: &FlowKey,
    nat: &Nat,
    tuple: &Tuple<F>,
    now: bool,
) -> Result<bool, DropReason> {
    if let Some(known) = mem::get_flow(&maps::FLOWS, key) {
        if same(known, nat) {
            let closed = u8::from(tuple.ends() || (known.closed != 0 && !tuple.is_first()));
            mem::touch(key, nat.seen_s, closed);
            return Ok(true);
        }
        let free = known.is_forgotten(key.protocol, nat.seen_s)
            || (now && known.is_over(key.protocol, nat.seen_s));
        if !tuple.begins() || !free {
            return Ok(false);
        }
    }
    maps::FLOWS
        .insert(key, nat, 0)
        .map_err(|_| DropReason::Kernel)?;
    Ok(true)
}

/// A port for a client whose own is taken at its task by another flow: the same client, through another node.
/// `seen` is the packet as it would have come to the task, `original` as it was sent, `scratch.reply` the key of its
/// reply. Network byte order; zero if there is none. (A plain number: the compiler packs a `Result` in a way that the verifier does not follow.)
#[inline(never)]
pub fn substitute<F: Family>(original: &Tuple<F>, seen: &Tuple<F>, scratch: &mut Scratch) -> u16 {
    scratch.memory = original.key(SCOPE_PORT);
    if let Some(known) = mem::get_flow(&maps::FLOWS, &scratch.memory) {
        let port = known.sport_be;
        scratch.reply.dport_be = port;
        if matches!(claim(&scratch.reply, &scratch.undo, seen, false), Ok(true)) {
            return port;
        }
    }
    if !seen.begins() {
        return 0;
    }
    let hash = original.hash();
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        let port = FIRST_PORT + (hash.wrapping_add(attempt * 7919) % (65_536 - FIRST_PORT));
        let port = (port as u16).to_be();
        scratch.reply.dport_be = port;
        if matches!(claim(&scratch.reply, &scratch.undo, seen, false), Ok(true)) {
            scratch.substitute = scratch.undo;
            scratch.substitute.sport_be = port;
            let kept = maps::FLOWS.insert(&scratch.memory, &scratch.substitute, 0);
            return if kept.is_ok() { port } else { 0 };
        }
        attempt += 1;
    }
    // Nearly all ports are taken by flows of the last minute. A SYN that the task takes for one of an old connection
    // is sent again soon.
    scratch.reply.dport_be = seen.sport;
    if matches!(claim(&scratch.reply, &scratch.undo, seen, true), Ok(true)) {
        return seen.sport;
    }
    0
}

/// The packet after `nat`.
#[inline(always)]
pub fn target<F: Family>(tuple: &Tuple<F>, nat: &Nat) -> Tuple<F> {
    Tuple {
        src: F::address(&nat.src),
        dst: F::address(&nat.dst),
        sport: nat.sport_be,
        dport: nat.dport_be,
        ..*tuple
    }
}

/// Rewrites a reply and sends it on its way.
#[inline(always)]
pub fn reply<F: Family>(
    ctx: &TcContext,
    settings: &Settings,
    tuple: &Tuple<F>,
    nat: &Nat,
) -> Result<Verdict, DropReason> {
    if nat.kind == NAT_PEER {
        too_big::check(ctx, settings, tuple)?;
    }
    let new = target(tuple, nat);
    rewrite(ctx, tuple, &new)?;
    send_back::<F>(ctx, settings, nat, new.spread())
}

/// Sends a reply that has been rewritten on its way.
#[inline(always)]
pub fn send_back<F: Family>(
    ctx: &TcContext,
    settings: &Settings,
    nat: &Nat,
    hash: u32,
) -> Result<Verdict, DropReason> {
    match nat.kind {
        NAT_PEER => {
            let peer = nat.peer.low_be();
            let inner = Inner {
                vni: settings.ingress_vni,
                dmac: node_mac(peer),
                smac: node_mac(settings.vtep.low_be()),
            };
            tunnel::send::<F>(ctx, settings, peer, &inner, hash)?;
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
