//! Second stop of a packet from the wire: out of tunnels into tasks, and published ports that XDP handed over
//! or is not there for.

use aya_ebpf::programs::TcContext;
use mesh_common::{
    Addr, DropReason, SCOPE_RETURN, Settings, Verdict, mac_of, node_mac,
    wire::{self, ETH_LEN, IPV4_LEN, OVERHEAD, UDP_LEN},
};

use crate::{
    ingress::{self, Client},
    maps, mem,
    mem::Packet as _,
    nat, overlay,
    packet::{self, Tuple},
    services,
};

/// Longest headers looked at: a tunnel's and a TCP segment's inside.
const HEADERS: usize = OVERHEAD + ETH_LEN + IPV4_LEN + 20;

/// The program.
#[inline(always)]
pub fn run(ctx: &TcContext) -> Result<Verdict, DropReason> {
    if !mem::untag(ctx) {
        return Ok(Verdict::Pass);
    }
    mem::pull(ctx, HEADERS);
    let Some(tuple) = packet::ipv4(ctx, 0) else {
        return Ok(Verdict::Pass);
    };
    let Some(settings) = services::settings() else {
        return Ok(Verdict::Pass);
    };
    if tuple.protocol == wire::UDP
        && tuple.dport == settings.vxlan_port_be
        && tuple.dst == settings.vtep.low_be()
    {
        return unpack(ctx, settings, &tuple);
    }
    let Some(service) = services::published(&tuple) else {
        return Ok(Verdict::Pass);
    };
    if wire::is_martian_be(tuple.src) || !services::is_own(tuple.dst) {
        return Ok(Verdict::Pass);
    }
    ingress::balance(
        ctx,
        settings,
        service,
        &tuple,
        Client::Outside(ctx.ifindex()),
    )
}

/// A tunnel packet. What is not for a task or a process of this node goes to the tunnel device (see `device`).
#[inline(always)]
fn unpack(ctx: &TcContext, settings: &Settings, outer: &Tuple) -> Result<Verdict, DropReason> {
    if !services::is_peer(outer.src) {
        return Err(DropReason::UnknownPeer);
    }
    let [flags, _, _, _, v0, v1, v2, _] =
        mem::bytes::<8>(ctx, ETH_LEN + IPV4_LEN + UDP_LEN).ok_or(DropReason::Malformed)?;
    if flags != wire::VXLAN_FLAGS {
        return Err(DropReason::Malformed);
    }
    let vni = u32::from_be_bytes([0, v0, v1, v2]);
    let dmac = mem::bytes::<6>(ctx, OVERHEAD).ok_or(DropReason::Malformed)?;
    let smac = mem::bytes::<6>(ctx, OVERHEAD + 6).ok_or(DropReason::Malformed)?;
    let Some(inner) = packet::ipv4(ctx, OVERHEAD) else {
        return Ok(Verdict::Pass);
    };
    if vni != settings.ingress_vni {
        let endpoint =
            services::endpoint(vni, Addr::v4_be(inner.dst)).ok_or(DropReason::NoEndpoint)?;
        if endpoint.ifindex == 0 {
            return Err(DropReason::NoEndpoint);
        }
        mem::shrink(ctx)?;
        return overlay::arrive(ctx, vni, &inner, endpoint, smac);
    }
    let [_, kind, a, b, c, d] = dmac;
    let named = u32::from_ne_bytes([a, b, c, d]);
    if kind == node_mac(0)[1] {
        let Some(nat) = mem::get_flow(&maps::FLOWS, &inner.key(SCOPE_RETURN)) else {
            return Ok(Verdict::Pass);
        };
        mem::shrink(ctx)?;
        return nat::reply(ctx, settings, &inner, nat);
    }
    if kind != mac_of(0)[1] {
        return Err(DropReason::NoEndpoint);
    }
    let endpoint = services::endpoint(vni, Addr::v4_be(named)).ok_or(DropReason::NoEndpoint)?;
    if endpoint.ifindex == 0 {
        return Err(DropReason::NoEndpoint);
    }
    ingress::from_peer(ctx, &inner, outer.src, named, endpoint)
}

/// The program on the tunnel device, where the kernel has stripped what `unpack` let pass: replies to clients
/// outside, when XDP is not there or does not know the neighbour.
#[inline(always)]
pub fn device(ctx: &TcContext) -> Result<Verdict, DropReason> {
    mem::pull(ctx, ETH_LEN + IPV4_LEN + 20);
    let Some(settings) = services::settings() else {
        return Ok(Verdict::Pass);
    };
    let (vni, peer) = mem::tunnel(ctx).ok_or(DropReason::UnknownPeer)?;
    if !services::is_peer(peer) {
        return Err(DropReason::UnknownPeer);
    }
    let inner = packet::ipv4(ctx, 0).ok_or(DropReason::NotIpv4)?;
    if vni != settings.ingress_vni || !services::is_own(inner.src) {
        return Err(DropReason::NoEndpoint);
    }
    let uplink = mem::route(ctx, inner.src, inner.dst).unwrap_or(settings.uplink);
    mem::adopt(ctx);
    mem::to_neighbour(uplink);
    Ok(Verdict::Returned)
}
