//! A packet that a task sends on an overlay network.

use aya_ebpf::programs::TcContext;
use mesh_common::{
    Addr, AddrKey, DropReason, Endpoint, Link, NAT_LINK, Pool, Settings, V6_OVERLAY, Verdict,
    mac_of,
    wire::{ETHERTYPE_ARP_BE, ETHERTYPE_IPV4_BE, ETHERTYPE_IPV6_BE},
};

use crate::{
    answer, discovery,
    family::{Family, V4, V6},
    fragments, icmp, maps, mem, nat,
    packet::{self, Tuple},
    refused, services, too_big,
    tunnel::{self, Inner},
};

/// The program. `link` is the entry of the interface it came in by.
#[inline(always)]
pub fn run(ctx: &TcContext, ifindex: u32, link: &Link) -> Result<Verdict, DropReason> {
    if !mem::untag(ctx) {
        return Err(DropReason::NotIp);
    }
    mem::pull(ctx, V4::HEADERS);
    match packet::ethertype(ctx, 0) {
        Some(ETHERTYPE_ARP_BE) => return answer::arp(ctx, ifindex, link),
        Some(ETHERTYPE_IPV4_BE) => {}
        Some(ETHERTYPE_IPV6_BE) if link.prefix.is_some() => {
            mem::continue_in(&maps::TC_V6, ctx, V6_OVERLAY);
            return Err(DropReason::NotIp);
        }
        _ => return Err(DropReason::NotIp),
    }
    let tuple = V4::parse(ctx, 0).ok_or(DropReason::Malformed)?;
    sent::<V4>(ctx, ifindex, link, tuple)
}

/// The program's part for IPv6.
#[inline(always)]
pub fn run_v6(ctx: &TcContext, ifindex: u32, link: &Link) -> Result<Verdict, DropReason> {
    mem::pull(ctx, V6::HEADERS);
    let tuple = V6::parse(ctx, 0).ok_or(DropReason::Malformed)?;
    if discovery::is_solicitation(ctx, &tuple) {
        return discovery::answer(ctx, ifindex, link, &tuple);
    }
    if is_multicast(ctx) {
        // A host reports its groups from other addresses than the task's.
        return Err(DropReason::NotUnicast);
    }
    sent::<V6>(ctx, ifindex, link, tuple)
}

#[inline(always)]
fn sent<F: Family>(
    ctx: &TcContext,
    ifindex: u32,
    link: &Link,
    mut tuple: Tuple<F>,
) -> Result<Verdict, DropReason> {
    let destination = admit(ctx, link, &tuple)?;
    icmp::divert(ctx, 0, &tuple, icmp::OVERLAY);
    fragments::follow(ctx, 0, &mut tuple, link.vni);
    let tuple = &tuple;
    let settings = services::settings().ok_or(DropReason::NoEndpoint)?;
    if let Some(pool) = mem::get(&maps::VIPS, &destination) {
        return to_vip(ctx, settings, ifindex, link, pool, tuple);
    }
    if tuple.ports && tuple.begins() {
        // The same ports may have led to this task by a virtual address before.
        nat::forget(&tuple.reply().key(link.vni));
    }
    let Some(endpoint) = mem::get(&maps::ENDPOINTS, &destination) else {
        refused::answer::<F>(ctx);
        return Err(DropReason::NoEndpoint);
    };
    if endpoint.ifindex != 0 {
        return arrive(ctx, link.vni, tuple, endpoint, link.mac);
    }
    let device = tunnel::device(settings, link);
    too_big::check(ctx, device, endpoint.peer.low_be(), tuple)?;
    send(ctx, link, tuple, endpoint)
}

/// Where a packet is to go on the link's network, if its sender is who it says and it is for one alone.
#[inline(always)]
pub fn admit<F: Family>(
    ctx: &TcContext,
    link: &Link,
    tuple: &Tuple<F>,
) -> Result<AddrKey, DropReason> {
    if !is_from::<F>(ctx, link, tuple) {
        return Err(DropReason::Spoofed);
    }
    if is_multicast(ctx) {
        return Err(DropReason::NotUnicast);
    }
    let low = F::low_be(&link.prefix, &tuple.dst).ok_or(DropReason::NoEndpoint)?;
    Ok(AddrKey {
        vni: link.vni,
        address: Addr::v4_be(low),
    })
}

/// Whether the packet has the task's own address and MAC.
#[inline(always)]
pub fn is_from<F: Family>(ctx: &TcContext, link: &Link, tuple: &Tuple<F>) -> bool {
    let own = F::join(&link.prefix, link.address.low_be());
    F::same(&tuple.src, &own) && sent_by(ctx, link.mac)
}

/// Whether the packet is for more than one, by its MAC.
#[inline(always)]
pub fn is_multicast(ctx: &TcContext) -> bool {
    mem::bytes::<6>(ctx, 0).is_some_and(|[first, ..]| first & 1 != 0)
}

/// Whether the packet's source MAC is the task's.
#[inline(always)]
pub fn sent_by(ctx: &TcContext, mac: [u8; 6]) -> bool {
    let Some(source) = mem::bytes::<6>(ctx, 6) else {
        return false;
    };
    source[0] == mac[0]
        && source[1] == mac[1]
        && source[2] == mac[2]
        && source[3] == mac[3]
        && source[4] == mac[4]
        && source[5] == mac[5]
}

/// To a task on another node.
#[inline(always)]
pub fn send<F: Family>(
    ctx: &TcContext,
    link: &Link,
    tuple: &Tuple<F>,
    endpoint: &Endpoint,
) -> Result<Verdict, DropReason> {
    let inner = Inner {
        vni: link.vni,
        dmac: endpoint.mac,
        smac: link.mac,
        encrypted: link.encrypted.into(),
    };
    tunnel::send::<F>(ctx, endpoint.peer.low_be(), inner, tuple.spread())
}

/// At the node of the task it is for. If that task began the flow by a virtual address, the reply comes from there.
#[inline(always)]
pub fn arrive<F: Family>(
    ctx: &TcContext,
    vni: u32,
    tuple: &Tuple<F>,
    endpoint: &Endpoint,
    smac: [u8; 6],
) -> Result<Verdict, DropReason> {
    if tuple.ports
        && let Some(nat) = nat::find(tuple, vni)
    {
        nat::rewrite(ctx, tuple, &nat::target(tuple, nat))?;
    }
    tunnel::deliver(ctx, endpoint.ifindex, endpoint.mac, smac)
}

/// To a virtual address: echo is answered, TCP and UDP go to a task.
#[inline(always)]
fn to_vip<F: Family>(
    ctx: &TcContext,
    settings: &Settings,
    ifindex: u32,
    link: &Link,
    pool: &Pool,
    tuple: &Tuple<F>,
) -> Result<Verdict, DropReason> {
    if tuple.protocol == F::ICMP {
        return answer::echo(ctx, ifindex, tuple);
    }
    if !tuple.ports {
        return Err(if tuple.is_tail() {
            DropReason::Fragment
        } else {
            DropReason::Protocol
        });
    }
    let scratch = mem::scratch().ok_or(DropReason::Kernel)?;
    scratch.flow = tuple.key(link.vni);
    if let Some(nat) = mem::get_flow(&maps::FLOWS, &scratch.flow) {
        // The reply of a task that reached itself.
        nat::rewrite(ctx, tuple, &nat::target(tuple, nat))?;
        return tunnel::deliver(ctx, ifindex, link.mac, mac_of(F::last_be(&tuple.dst)));
    }
    let Some(choice) = services::choose(pool, &scratch.flow, tuple, true) else {
        // A first segment is sent again: by then there may be a task.
        if !tuple.is_first() {
            refused::answer::<F>(ctx);
        }
        return Err(DropReason::NoBackend);
    };
    services::count(&choice, ctx, tuple);
    let mut new = Tuple {
        dst: F::join(&link.prefix, choice.backend.low_be()),
        ..*tuple
    };
    if F::same(&new.src, &new.dst) {
        // A task drops packets from its own address: it meets itself as the virtual address.
        new.src = tuple.dst;
    }
    if !choice.is_local() {
        let device = tunnel::device(settings, link);
        too_big::check(ctx, device, choice.endpoint.peer.low_be(), tuple)?;
    }
    scratch.reply = new.reply().key(link.vni);
    nat::undo(
        &mut scratch.undo,
        tuple,
        NAT_LINK,
        ifindex,
        Addr::NONE,
        link.mac,
    );
    nat::remember(tuple.begins())?;
    nat::rewrite(ctx, tuple, &new)?;
    if choice.is_local() {
        return tunnel::deliver(ctx, choice.endpoint.ifindex, choice.endpoint.mac, link.mac);
    }
    send(ctx, link, &new, choice.endpoint)
}
