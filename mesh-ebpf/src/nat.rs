//! Rewriting addresses and ports, and remembering how to rewrite the replies.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_RECOMPUTE_CSUM},
    programs::TcContext,
};
use mesh_common::{
    Addr, DropReason, FlowKey, NAT_DIRECT, NAT_LINK, NAT_LOOPBACK, NAT_PEER, Nat, SCOPE_PORT,
    Settings, TABLE_FLOWS, Verdict, crc, mac_of, node_mac,
    wire::{ETH_LEN, GATEWAY_BE, SCTP, TCP},
};

use crate::{
    family::{Family, V4, V6},
    maps::{self, Ends},
    mem::{self, Packet as _},
    packet::{Flags, Tuple},
    services, too_big,
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
    let scratch = mem::scratch().ok_or(DropReason::Kernel)?;
    *F::change(scratch) = [old.ends(), new.ends()];
    let l4 = ETH_LEN as u32 + u32::from(old.l4);
    let kind = if old.is_tail() {
        TAIL
    } else {
        old.protocol.into()
    };
    if F::rewrite_ends(ctx, l4, kind) != 0 {
        Ok(())
    } else {
        Err(DropReason::Kernel)
    }
}

/// In place of a protocol: a fragment other than the first.
const TAIL: u32 = 0x100;

/// [`rewrite_to`] for IPv4, verified once. One if the kernel did it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn rewrite_v4(skb: *mut __sk_buff, l4: u32, kind: u32) -> u32 {
    rewrite_to::<V4>(&TcContext::new(skb), l4 as usize, kind)
        .is_ok()
        .into()
}

/// The same for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn rewrite_v6(skb: *mut __sk_buff, l4: u32, kind: u32) -> u32 {
    rewrite_to::<V6>(&TcContext::new(skb), l4 as usize, kind)
        .is_ok()
        .into()
}

/// Rewrites the packet, whose transport header is at `l4`, as `F::change` of the scratch space says. `kind` is its protocol or
/// `TAIL`.
#[inline(always)]
fn rewrite_to<F: Family>(ctx: &TcContext, l4: usize, kind: u32) -> Result<(), DropReason> {
    let scratch = mem::scratch().ok_or(DropReason::Kernel)?;
    let [old, new] = F::change(scratch);
    let (check, mangled) = if kind == TAIL {
        (0, 0)
    } else if kind == u32::from(TCP) {
        (l4 + 16, 0)
    } else {
        (l4 + 6, u64::from(BPF_F_MARK_MANGLED_0))
    };
    let sctp = kind == u32::from(SCTP);
    // SCTP's checksum covers no addresses.
    let check = if sctp { 0 } else { check };
    let src = ETH_LEN + F::SOURCE;
    address::<F>(ctx, src, check, mangled, &old.src, &new.src)?;
    let dst = src + F::ADDRESS_LEN;
    address::<F>(ctx, dst, check, mangled, &old.dst, &new.dst)?;
    if kind == TAIL {
        return Ok(());
    }
    if sctp {
        return sctp_ports::<F>(ctx, l4, old, new);
    }
    port(ctx, l4, check, mangled, old.sport, new.sport)?;
    port(ctx, l4 + 2, check, mangled, old.dport, new.dport)
}

/// Rewrites the ports of the SCTP header at `l4`.
#[inline(always)]
fn sctp_ports<F: Family>(
    ctx: &TcContext,
    l4: usize,
    old: &Ends<F::Address>,
    new: &Ends<F::Address>,
) -> Result<(), DropReason> {
    let [old, new] = [old, new].map(|ends| u32::from(ends.dport) << 16 | u32::from(ends.sport));
    if old == new {
        return Ok(());
    }
    let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
    let check = ctx.fetch::<4>(l4 + 8).ok_or(DropReason::Malformed)?;
    let check = u32::from_ne_bytes(check);
    let length = F::transport_length(ctx, ETH_LEN, (l4 - ETH_LEN) as u16);
    let length = length.ok_or(DropReason::Malformed)?;
    ctx.store(l4, &new, flags).map_err(|_| DropReason::Kernel)?;
    // Zero: a sender on this machine has left it for its device to complete.
    if check == 0 {
        return Ok(());
    }
    let check = crc::update(check, old, new, length, &|a, b| crc_times(a, b));
    ctx.store(l4 + 8, &check, flags)
        .map_err(|_| DropReason::Kernel)
}

/// [`crc::times`], verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn crc_times(a: u32, b: u32) -> u32 {
    crc::times(a, b)
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

/// A kind of entry, whether or not the node in between is needed: that changes while a flow is open.
#[inline(always)]
fn through(kind: u8) -> u8 {
    if kind == NAT_DIRECT { NAT_PEER } else { kind }
}

/// Whether two entries belong to the same flow.
#[inline(always)]
fn same(a: &Nat, b: &Nat) -> bool {
    a.src.same(&b.src)
        && a.dst.same(&b.dst)
        && a.peer.same(&b.peer)
        && a.sport_be == b.sport_be
        && a.dport_be == b.dport_be
        && through(a.kind) == through(b.kind)
        && a.ifindex == b.ifindex
}

/// Remembers `scratch.undo` for packets with the key `scratch.reply`. A packet that begins a flow replaces what is there.
#[inline(always)]
pub fn remember(begins: bool) -> Result<(), DropReason> {
    if remember_reply(begins.into()) != 0 {
        Ok(())
    } else {
        Err(DropReason::Kernel)
    }
}

/// [`remember`], verified once. One if there is an entry now.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn remember_reply(begins: u32) -> u32 {
    let Some(scratch) = mem::scratch() else {
        return 0;
    };
    let (key, nat) = (&scratch.reply, &scratch.undo);
    let known = mem::get_flow(&maps::FLOWS, key);
    if let Some(known) = known
        && (begins == 0 || same(known, nat))
    {
        return 1;
    }
    mem::keep(&maps::FLOWS, TABLE_FLOWS, key, nat, known.is_none()).into()
}

/// How to rewrite a packet that comes in at `scope`. The key is too large for the stack.
#[inline(always)]
pub fn find<F: Family>(packet: &Tuple<F>, scope: u32) -> Option<&'static Nat> {
    let scratch = mem::scratch()?;
    scratch.flow = packet.key(scope);
    mem::get_flow(&maps::FLOWS, &scratch.flow)
}

/// Forgets how to rewrite packets with `key`.
#[inline(always)]
pub fn forget(key: &FlowKey) {
    if mem::get_flow(&maps::FLOWS, key).is_some() {
        mem::remove(&maps::FLOWS, TABLE_FLOWS, key);
    }
}

/// Remembers `scratch.undo` for replies with the key `scratch.reply`, for a task that is to see the packet as `seen`. If
/// another flow has the key, a substitute takes the client's port, for replies as for this packet: it is given.
/// Network byte order.
#[inline(always)]
pub fn claim<F: Family>(seen: &Tuple<F>) -> Result<u16, DropReason> {
    let about = u32::from(seen.flags.0) << 8 | u32::from(seen.protocol);
    match claim_reply(about, KNOWN) {
        CLAIMED => return Ok(seen.sport),
        TAKEN => {}
        _ => return Err(DropReason::Kernel),
    }
    mem::scratch().ok_or(DropReason::Kernel)?.memory = seen.key(SCOPE_PORT);
    match claim_port(about, seen.hash()) {
        NO_PORT => Err(DropReason::PortsTaken),
        NO_ENTRY => Err(DropReason::Kernel),
        port => Ok(port as u16),
    }
}

/// Which keys [`claim_reply`] claims: such as this flow has already,
const KNOWN: u32 = 0;
/// or no other flow has, where one that has ended counts until the task has forgotten it,
const FREE: u32 = 1;
/// or no longer.
const OVER: u32 = 2;

/// Answers of [`claim_reply`].
const TAKEN: u32 = 0;
const CLAIMED: u32 = 1;
const REFUSED: u32 = 2;

/// Answers of [`claim_port`] that are no port: all are taken,
const NO_PORT: u32 = 1 << 16;
/// or the kernel keeps no entry.
const NO_ENTRY: u32 = 1 << 17;

/// Claims the key `scratch.reply`, if `which` (`KNOWN`, `FREE`, `OVER`) has it. `about` is a packet's protocol, and above it
/// the TCP flags. Verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn claim_reply(about: u32, which: u32) -> u32 {
    let Some(scratch) = mem::scratch() else {
        return REFUSED;
    };
    let (key, nat) = (&scratch.reply, &scratch.undo);
    let (protocol, flags) = (about as u8, Flags((about >> 8) as u8));
    let known = mem::get_flow(&maps::FLOWS, key);
    if let Some(known) = known {
        if same(known, nat) {
            let closed = u8::from(flags.end() || (known.closed != 0 && !flags.are_first()));
            mem::touch(key, nat.seen_s, closed, nat.kind);
            return CLAIMED;
        }
        let free = known.is_forgotten(protocol, nat.seen_s)
            || (which == OVER && known.is_over(protocol, nat.seen_s));
        if !flags.may_begin(protocol) || !free {
            return TAKEN;
        }
    }
    if which == KNOWN {
        return TAKEN;
    }
    if mem::keep(&maps::FLOWS, TABLE_FLOWS, key, nat, known.is_none()) {
        CLAIMED
    } else {
        REFUSED
    }
}

/// A port for a client whose flow has none yet at its task: its own, or a substitute if that is taken by another flow: the
/// same client, through another node. Of the packet `about` is what it is for [`claim_reply`], `hash` its hash, and
/// `scratch.memory` the key of its substitute. Network byte order; or `NO_PORT`, or `NO_ENTRY`. Verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn claim_port(about: u32, hash: u32) -> u32 {
    let Some(scratch) = mem::scratch() else {
        return NO_ENTRY;
    };
    let known = mem::get_flow(&maps::FLOWS, &scratch.memory);
    if let Some(known) = known {
        // Whoever has had a substitute keeps it, though its own port may be free by now: in the middle of a flow the
        // task would take it for another client.
        let port = known.sport_be;
        scratch.reply.dport_be = port;
        if claim_reply(about, FREE) == CLAIMED {
            return port.into();
        }
    }
    let own = scratch.memory.sport_be;
    scratch.reply.dport_be = own;
    match claim_reply(about, FREE) {
        CLAIMED => {
            if known.is_some() {
                // Its substitute has become another flow's.
                mem::remove(&maps::FLOWS, TABLE_FLOWS, &scratch.memory);
            }
            return own.into();
        }
        TAKEN => {}
        _ => return NO_ENTRY,
    }
    if !Flags((about >> 8) as u8).may_begin(about as u8) {
        return NO_PORT;
    }
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        let port = FIRST_PORT + (hash.wrapping_add(attempt * 7919) % (65_536 - FIRST_PORT));
        let port = (port as u16).to_be();
        scratch.reply.dport_be = port;
        if claim_reply(about, FREE) == CLAIMED {
            scratch.substitute = scratch.undo;
            scratch.substitute.sport_be = port;
            let (key, nat) = (&scratch.memory, &scratch.substitute);
            let kept = mem::keep(&maps::FLOWS, TABLE_FLOWS, key, nat, known.is_none());
            return if kept { port.into() } else { NO_ENTRY };
        }
        attempt += 1;
    }
    // Nearly all ports are taken by flows of the last minute. A SYN that the task takes for one of an old connection
    // is sent again soon.
    scratch.reply.dport_be = own;
    if claim_reply(about, OVER) == CLAIMED {
        if known.is_some() {
            mem::remove(&maps::FLOWS, TABLE_FLOWS, &scratch.memory);
        }
        return own.into();
    }
    NO_PORT
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
    let new = target(tuple, nat);
    // What opens a connection goes by the node that was asked, which alone knows what its tunnels take (see `mss`).
    if nat.kind == NAT_DIRECT && !tuple.opens() {
        *F::change(mem::scratch().ok_or(DropReason::Kernel)?) = [tuple.ends(), new.ends()];
        let uplink = F::straight(ctx);
        if uplink != 0 {
            rewrite(ctx, tuple, &new)?;
            mem::to_neighbour(uplink);
            return Ok(Verdict::Returned);
        }
    }
    if through(nat.kind) == NAT_PEER {
        too_big::check(ctx, settings.uplink, nat.peer.low_be(), tuple)?;
    }
    rewrite(ctx, tuple, &new)?;
    send_back::<F>(ctx, settings, nat, new.spread())
}

/// The interface by which a reply, as `scratch.v4` is to make it, may go straight to the client. Zero: nothing proves that
/// the network takes it under another node's address, or the way is not by the uplink on which that was tried, or the
/// packet is too large for it. Verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn straight_v4(skb: *mut __sk_buff) -> u32 {
    straight::<V4>(&TcContext::new(skb)).unwrap_or(0)
}

/// The same for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn straight_v6(skb: *mut __sk_buff) -> u32 {
    straight::<V6>(&TcContext::new(skb)).unwrap_or(0)
}

#[inline(always)]
fn straight<F: Family>(ctx: &TcContext) -> Option<u32> {
    let [_, new] = F::change(mem::scratch()?);
    let until = mem::get(&maps::DIRECT, &F::key(&new.src))?;
    if (until.wrapping_sub(mem::now_s()) as i32) <= 0 {
        return None;
    }
    let uplink = mem::route::<F>(ctx, &new.src, &new.dst)?;
    (uplink == services::settings()?.uplink).then_some(uplink)
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
        NAT_PEER | NAT_DIRECT => {
            let peer = nat.peer.low_be();
            let inner = Inner {
                vni: settings.ingress_vni,
                dmac: node_mac(peer),
                smac: node_mac(settings.vtep.low_be()),
                encrypted: 0,
            };
            tunnel::send::<F>(ctx, peer, inner, hash)?;
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
