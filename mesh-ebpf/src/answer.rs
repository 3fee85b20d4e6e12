//! Answers given in place: ARP, and echo to a virtual address.

use aya_ebpf::programs::TcContext;
use mesh_common::{
    Addr, AddrKey, DropReason, LINK_GATEWAY, Link, Verdict, mac_of,
    wire::{ETH_LEN, ETHERTYPE_IPV4_BE, GATEWAY_BE},
};

use crate::{family::Family, maps, mem, overlay::sent_by, packet::Tuple, services, tunnel::store};

/// Operation of an ARP request and reply, as they stand in the packet.
const REQUEST_BE: u16 = 1_u16.to_be();
const REPLY_BE: u16 = 2_u16.to_be();

/// Answers an ARP request from the tables. On a gateway link everything but the question for the gateway is
/// the stack's business: it asks for the task's MAC.
#[inline(always)]
pub fn arp(ctx: &TcContext, ifindex: u32, link: &Link) -> Result<Verdict, DropReason> {
    let operation = mem::u16_at(ctx, ETH_LEN + 6).ok_or(DropReason::Malformed)?;
    let sender = mem::u32_at(ctx, ETH_LEN + 14).ok_or(DropReason::Malformed)?;
    let target = mem::u32_at(ctx, ETH_LEN + 24).ok_or(DropReason::Malformed)?;
    // A probe (RFC 5227) has no sender address yet.
    let own = sender == link.address.low_be() || sender == 0;
    if !own || !sent_by(ctx, link.mac) {
        return Err(DropReason::Spoofed);
    }
    let mac = if link.kind == LINK_GATEWAY {
        if operation != REQUEST_BE || target != GATEWAY_BE {
            return Ok(Verdict::Pass);
        }
        mac_of(GATEWAY_BE)
    } else {
        // Nobody else has the task's own address, and only requests are answered.
        if operation != REQUEST_BE || target == link.address.low_be() {
            return Err(DropReason::NoEndpoint);
        }
        let key = AddrKey {
            vni: link.vni,
            address: Addr::v4_be(target),
        };
        match services::endpoint(link.vni, key.address) {
            Some(endpoint) => endpoint.mac,
            None if mem::get(&maps::VIPS, &key).is_some() => mac_of(target),
            None => return Err(DropReason::NoEndpoint),
        }
    };
    store(ctx, 0, &link.mac)?;
    store(ctx, 6, &mac)?;
    store(ctx, ETH_LEN + 6, &REPLY_BE)?;
    store(ctx, ETH_LEN + 8, &mac)?;
    store(ctx, ETH_LEN + 14, &target)?;
    store(ctx, ETH_LEN + 18, &link.mac)?;
    store(ctx, ETH_LEN + 24, &sender)?;
    mem::to_egress(ifindex);
    Ok(Verdict::Answered)
}

/// Answers an echo request that `tuple` describes. A fragment other than the first goes back as it came.
#[inline(always)]
pub fn echo<F: Family>(
    ctx: &TcContext,
    ifindex: u32,
    tuple: &Tuple<F>,
) -> Result<Verdict, DropReason> {
    let icmp = ETH_LEN + tuple.l4 as usize;
    if F::ETHERTYPE_BE == ETHERTYPE_IPV4_BE && tuple.l4 as usize != F::HEADER_LEN {
        return Err(DropReason::Protocol);
    }
    if !tuple.is_tail() && ctx.load::<u8>(icmp).map_err(|_| DropReason::Malformed)? != F::ECHO {
        return Err(DropReason::Protocol);
    }
    let to = mem::bytes::<6>(ctx, 0).ok_or(DropReason::Malformed)?;
    let from = mem::bytes::<6>(ctx, 6).ok_or(DropReason::Malformed)?;
    // Swapping the addresses leaves the IP header's checksum as it is, and the pseudo header's sum.
    store(ctx, 0, &from)?;
    store(ctx, 6, &to)?;
    store(ctx, ETH_LEN + F::SOURCE, &tuple.dst)?;
    store(ctx, ETH_LEN + F::SOURCE + F::ADDRESS_LEN, &tuple.src)?;
    if !tuple.is_tail() {
        let (old, new) = (
            u16::from_ne_bytes([F::ECHO, 0]),
            u16::from_ne_bytes([F::ECHO_REPLY, 0]),
        );
        ctx.l4_csum_replace(icmp + 2, u64::from(old), u64::from(new), 2)
            .map_err(|_| DropReason::Kernel)?;
        store(ctx, icmp, &F::ECHO_REPLY)?;
    }
    mem::to_egress(ifindex);
    Ok(Verdict::Answered)
}
