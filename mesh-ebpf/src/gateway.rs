//! A packet that a task sends on its gateway link: replies to clients of published ports, calls of this node's
//! published ports, and the way out, which is the stack's.

use aya_ebpf::programs::TcContext;
use mesh_common::{
    DropReason, Link, SCOPE_TASK, V6_GATEWAY, Verdict,
    wire::{ETHERTYPE_ARP_BE, ETHERTYPE_IPV4_BE, ETHERTYPE_IPV6_BE, UDP},
};

use crate::{
    answer, discovery,
    family::{Family, V4, V6},
    fragments, icmp,
    ingress::{self, Client},
    maps, mem, nat, overlay,
    packet::{self, Tuple},
    services,
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
        Some(ETHERTYPE_IPV6_BE) => {
            mem::continue_in(&maps::TC_V6, ctx, V6_GATEWAY);
            return Err(DropReason::NotIp);
        }
        _ => return Ok(Verdict::Pass),
    }
    // The gateway's MAC is no interface's; without this the stack takes the packet for somebody else's.
    mem::adopt(ctx);
    let tuple = V4::parse(ctx, 0).ok_or(DropReason::Malformed)?;
    sent::<V4>(ctx, ifindex, link, tuple)
}

/// The program's part for IPv6. Whatever is not from the task's own address ends here.
#[inline(always)]
pub fn run_v6(ctx: &TcContext, ifindex: u32, link: &Link) -> Result<Verdict, DropReason> {
    mem::pull(ctx, V6::HEADERS);
    let tuple = V6::parse(ctx, 0).ok_or(DropReason::Malformed)?;
    if discovery::is_solicitation(ctx, &tuple) {
        return discovery::answer(ctx, ifindex, link, &tuple);
    }
    if overlay::is_multicast(ctx) {
        return Err(DropReason::NotUnicast);
    }
    mem::adopt(ctx);
    sent::<V6>(ctx, ifindex, link, tuple)
}

#[inline(always)]
fn sent<F: Family>(
    ctx: &TcContext,
    ifindex: u32,
    link: &Link,
    mut tuple: Tuple<F>,
) -> Result<Verdict, DropReason> {
    if !overlay::is_from::<F>(ctx, link, &tuple) {
        return Err(DropReason::Spoofed);
    }
    let Some(settings) = services::settings() else {
        return Ok(Verdict::Pass);
    };
    // Masquerading would make it a packet of this node, which the other nodes believe.
    if packet::is_udp_to(ctx, &tuple, settings.vxlan_port_be).ok_or(DropReason::Malformed)? {
        return Err(DropReason::Spoofed);
    }
    fragments::follow(ctx, 0, &mut tuple, SCOPE_TASK);
    let tuple = &tuple;
    if !tuple.ports {
        icmp::divert(ctx, 0, tuple, icmp::GATEWAY);
        return Ok(Verdict::Pass);
    }
    let key = tuple.key(SCOPE_TASK);
    if let Some(nat) = mem::get_flow(&maps::FLOWS, &key) {
        // A "client" that had itself answered on a node's tunnel port.
        if tuple.protocol == UDP && nat.dport_be == settings.vxlan_port_be {
            return Err(DropReason::Spoofed);
        }
        if tuple.resets() {
            mem::touch(&key, nat.seen_s, 1, nat.kind);
        }
        return nat::reply(ctx, settings, tuple, nat);
    }
    let Some(service) = services::published(tuple) else {
        return Ok(Verdict::Pass);
    };
    if !services::is_own::<F>(&tuple.dst) {
        return Ok(Verdict::Pass);
    }
    ingress::balance(
        ctx,
        settings,
        service,
        tuple,
        tuple,
        Client::Task(ifindex, link.mac),
    )
}
