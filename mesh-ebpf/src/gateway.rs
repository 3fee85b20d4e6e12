//! A packet that a task sends on its gateway link: replies to clients of published ports, calls of this node's
//! published ports, and the way out, which is the stack's.

use aya_ebpf::programs::TcContext;
use mesh_common::{
    DropReason, Link, SCOPE_TASK, Verdict,
    wire::{ETHERTYPE_ARP_BE, ETHERTYPE_IPV4_BE, UDP},
};

use crate::{
    answer,
    ingress::{self, Client},
    maps, mem, nat, overlay, packet, services,
};

/// The program. `link` is the entry of the interface it came in by.
#[inline(always)]
pub fn run(ctx: &TcContext, ifindex: u32, link: &Link) -> Result<Verdict, DropReason> {
    if !mem::untag(ctx) {
        return Err(DropReason::NotIpv4);
    }
    mem::pull(ctx, overlay::HEADERS);
    match packet::ethertype(ctx, 0) {
        Some(ETHERTYPE_ARP_BE) => return answer::arp(ctx, ifindex, link),
        Some(ETHERTYPE_IPV4_BE) => {}
        _ => return Ok(Verdict::Pass),
    }
    // The gateway's MAC is no interface's; without this the stack takes the packet for somebody else's.
    mem::adopt(ctx);
    let tuple = packet::ipv4(ctx, 0).ok_or(DropReason::Malformed)?;
    if tuple.src != link.address.low_be() || !overlay::sent_by(ctx, link.mac) {
        return Err(DropReason::Spoofed);
    }
    let Some(settings) = services::settings() else {
        return Ok(Verdict::Pass);
    };
    // Masquerading would make it a packet of this node, which the other nodes believe.
    if packet::is_udp_to(ctx, &tuple, settings.vxlan_port_be).ok_or(DropReason::Malformed)? {
        return Err(DropReason::Spoofed);
    }
    if !tuple.ports {
        return Ok(Verdict::Pass);
    }
    if let Some(nat) = mem::get_flow(&maps::FLOWS, &tuple.key(SCOPE_TASK)) {
        // A "client" that had itself answered on a node's tunnel port.
        if tuple.protocol == UDP && nat.dport_be == settings.vxlan_port_be {
            return Err(DropReason::Spoofed);
        }
        return nat::reply(ctx, settings, &tuple, nat);
    }
    let Some(service) = services::published(&tuple) else {
        return Ok(Verdict::Pass);
    };
    if !services::is_own(tuple.dst) {
        return Ok(Verdict::Pass);
    }
    ingress::balance(
        ctx,
        settings,
        service,
        &tuple,
        Client::Task(ifindex, link.mac),
    )
}
