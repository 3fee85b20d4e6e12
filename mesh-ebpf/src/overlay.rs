//! A packet that a task sends on an overlay network.

use aya_ebpf::programs::TcContext;
use mesh_common::{
    Addr, AddrKey, DropReason, Endpoint, FlowKey, Link, NAT_LINK, Pool, Settings, Verdict, mac_of,
    wire::{self, ETH_LEN, ETHERTYPE_ARP_BE, ETHERTYPE_IPV4_BE, IPV4_LEN},
};

use crate::{
    answer, maps, mem, nat,
    packet::{self, Tuple},
    services,
    tunnel::{self, Inner},
};

/// The program. `link` is the entry of the interface it came in by.
#[inline(always)]
pub fn run(ctx: &TcContext, ifindex: u32, link: &Link) -> Result<Verdict, DropReason> {
    if !mem::untag(ctx) {
        return Err(DropReason::NotIpv4);
    }
    mem::pull(ctx, HEADERS);
    match packet::ethertype(ctx, 0) {
        Some(ETHERTYPE_ARP_BE) => return answer::arp(ctx, ifindex, link),
        Some(ETHERTYPE_IPV4_BE) => {}
        _ => return Err(DropReason::NotIpv4),
    }
    let tuple = packet::ipv4(ctx, 0).ok_or(DropReason::Malformed)?;
    if tuple.src != link.address.low_be() || !sent_by(ctx, link.mac) {
        return Err(DropReason::Spoofed);
    }
    if mem::u8_at(ctx, 0).is_some_and(|first| first & 1 != 0) {
        return Err(DropReason::NotUnicast);
    }
    let settings = services::settings().ok_or(DropReason::NoEndpoint)?;
    let destination = AddrKey {
        vni: link.vni,
        address: Addr::v4_be(tuple.dst),
    };
    if let Some(pool) = mem::get(&maps::VIPS, &destination) {
        return to_vip(ctx, settings, ifindex, link, pool, &tuple);
    }
    if tuple.ports && tuple.begins() {
        // The same ports may have led to this task by a virtual address before.
        nat::forget(&tuple.reply().key(link.vni));
    }
    let endpoint = mem::get(&maps::ENDPOINTS, &destination).ok_or(DropReason::NoEndpoint)?;
    go(ctx, settings, link, &tuple, endpoint)
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

/// To a task address, here or on another node.
#[inline(always)]
fn go(
    ctx: &TcContext,
    settings: &Settings,
    link: &Link,
    tuple: &Tuple,
    endpoint: &Endpoint,
) -> Result<Verdict, DropReason> {
    if endpoint.ifindex != 0 {
        return arrive(ctx, link.vni, tuple, endpoint, link.mac);
    }
    let inner = Inner {
        vni: link.vni,
        dmac: endpoint.mac,
        smac: link.mac,
    };
    tunnel::send(ctx, settings, endpoint.peer.low_be(), &inner, tuple.hash())
}

/// At the node of the task it is for. If that task began the flow by a virtual address, the reply comes from there.
#[inline(always)]
pub fn arrive(
    ctx: &TcContext,
    vni: u32,
    tuple: &Tuple,
    endpoint: &Endpoint,
    smac: [u8; 6],
) -> Result<Verdict, DropReason> {
    if tuple.ports
        && let Some(nat) = mem::get_flow(&maps::FLOWS, &tuple.key(vni))
    {
        nat::rewrite(ctx, tuple, &nat::target(tuple, nat))?;
    }
    tunnel::deliver(ctx, endpoint.ifindex, endpoint.mac, smac)
}

/// To a virtual address: echo is answered, TCP and UDP go to a task.
#[inline(always)]
fn to_vip(
    ctx: &TcContext,
    settings: &Settings,
    ifindex: u32,
    link: &Link,
    pool: &Pool,
    tuple: &Tuple,
) -> Result<Verdict, DropReason> {
    if tuple.protocol == wire::ICMP {
        return answer::echo(ctx, ifindex, tuple);
    }
    if !tuple.ports {
        return Err(if tuple.tail {
            DropReason::Fragment
        } else {
            DropReason::Protocol
        });
    }
    let key = tuple.key(link.vni);
    if let Some(nat) = mem::get_flow(&maps::FLOWS, &key) {
        // The reply of a task that reached itself.
        nat::rewrite(ctx, tuple, &nat::target(tuple, nat))?;
        return tunnel::deliver(ctx, ifindex, link.mac, mac_of(tuple.dst));
    }
    let choice =
        services::choose(pool, link.vni, &key, tuple, true).ok_or(DropReason::NoBackend)?;
    services::count(pool, &choice, ctx, tuple.begins());
    let mut new = Tuple {
        dst: choice.backend.low_be(),
        ..*tuple
    };
    if new.src == new.dst {
        // A task drops packets from its own address: it meets itself as the virtual address.
        new.src = tuple.dst;
    }
    let reply: FlowKey = new.reply().key(link.vni);
    let scratch = mem::scratch().ok_or(DropReason::Kernel)?;
    nat::undo(
        &mut scratch.undo,
        tuple,
        NAT_LINK,
        ifindex,
        Addr::NONE,
        link.mac,
    );
    nat::remember(&reply, &scratch.undo, tuple.begins())?;
    nat::rewrite(ctx, tuple, &new)?;
    if choice.is_local() {
        return tunnel::deliver(ctx, choice.endpoint.ifindex, choice.endpoint.mac, link.mac);
    }
    go(ctx, settings, link, &new, choice.endpoint)
}

/// Longest headers looked at on a task's link.
pub const HEADERS: usize = ETH_LEN + IPV4_LEN + 20;
