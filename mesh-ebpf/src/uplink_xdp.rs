//! First stop of a packet from the wire: published ports whose backend is on another node, and their replies.
//! Whatever XDP cannot do (a neighbour to resolve, a local task, an unfinished checksum) goes on to `uplink_tc`.

use aya_ebpf::programs::XdpContext;
use mesh_common::{
    DropReason, SCOPE_PUBLISHED, Settings, Verdict, checksum, mac_of, node_mac,
    wire::{self, ETH_LEN, IPV4_LEN, OVERHEAD},
};

use crate::{
    mem::{self, NextHop, Packet as _},
    packet::{self, Tuple},
    services,
};

/// The program.
#[inline(always)]
pub fn run(ctx: &XdpContext) -> Result<Verdict, DropReason> {
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
        return back(ctx, settings, &tuple);
    }
    let Some(service) = services::published(&tuple) else {
        return Ok(Verdict::Pass);
    };
    if wire::is_martian_be(tuple.src) || !services::is_own(tuple.dst) {
        return Ok(Verdict::Pass);
    }
    if !checksum_is_final(ctx, 0, &tuple) {
        return Ok(Verdict::Handover);
    }
    let key = tuple.key(SCOPE_PUBLISHED);
    let Some(choice) = services::choose(&service.pool, settings.ingress_vni, &key, &tuple, false)
    else {
        return Ok(Verdict::Pass);
    };
    if choice.is_local() {
        return Ok(Verdict::Handover);
    }
    let length = ctx.length() as u16;
    let vtep = settings.vtep.low_be();
    let peer = choice.endpoint.peer.low_be();
    let outer = length.wrapping_add((OVERHEAD - ETH_LEN) as u16);
    let Some(hop) = hop(ctx, vtep, peer, outer) else {
        return Ok(Verdict::Handover);
    };
    services::count(&service.pool, &choice, ctx, tuple.begins());
    mem::adjust_head(ctx, -(OVERHEAD as i32))?;
    let header = wire::tunnel_header(
        vtep,
        peer,
        wire::outer_port_be(tuple.hash()),
        settings.vxlan_port_be,
        settings.ingress_vni,
        length,
    );
    address(ctx, &hop)?;
    mem::write(ctx, ETH_LEN, header)?;
    mem::write(ctx, OVERHEAD, choice.endpoint.mac)?;
    mem::write(ctx, OVERHEAD + 6, node_mac(vtep))?;
    Ok(Verdict::Forwarded)
}

/// A tunnel packet. Replies of another node's task to a client outside are stripped and sent on; all else is tc's.
#[inline(always)]
fn back(ctx: &XdpContext, settings: &Settings, outer: &Tuple) -> Result<Verdict, DropReason> {
    let Some([flags, _, _, _, v0, v1, v2, _]) =
        mem::bytes::<8>(ctx, ETH_LEN + IPV4_LEN + wire::UDP_LEN)
    else {
        return Ok(Verdict::Handover);
    };
    let vni = u32::from_be_bytes([0, v0, v1, v2]);
    if flags != wire::VXLAN_FLAGS || vni != settings.ingress_vni {
        return Ok(Verdict::Handover);
    }
    let Some(mac) = mem::bytes::<6>(ctx, OVERHEAD) else {
        return Ok(Verdict::Handover);
    };
    if !same_mac(mac, node_mac(settings.vtep.low_be())) || !services::is_peer(outer.src) {
        return Ok(Verdict::Handover);
    }
    let Some(inner) = packet::ipv4(ctx, OVERHEAD) else {
        return Ok(Verdict::Handover);
    };
    if !services::is_own(inner.src) || !checksum_is_final(ctx, OVERHEAD, &inner) {
        return Ok(Verdict::Handover);
    }
    let length = (ctx.length() as usize - OVERHEAD - ETH_LEN) as u16;
    let Some(hop) = hop(ctx, inner.src, inner.dst, length) else {
        return Ok(Verdict::Handover);
    };
    mem::adjust_head(ctx, OVERHEAD as i32)?;
    address(ctx, &hop)?;
    mem::write(ctx, 12, wire::ETHERTYPE_IPV4_BE.to_ne_bytes())?;
    Ok(Verdict::Returned)
}

/// The next hop, if it is reached by the interface the packet came in by: only that one can XDP answer on.
#[inline(always)]
fn hop(ctx: &XdpContext, src: u32, dst: u32, length: u16) -> Option<NextHop> {
    let hop = mem::next_hop(ctx, src, dst, length)?;
    if hop.ifindex == ctx.ifindex() {
        Some(hop)
    } else {
        None
    }
}

#[inline(always)]
fn address(ctx: &XdpContext, hop: &NextHop) -> Result<(), DropReason> {
    mem::write(ctx, 0, hop.dmac)?;
    mem::write(ctx, 6, hop.smac)?;
    mem::write(ctx, 12, wire::ETHERTYPE_IPV4_BE.to_ne_bytes())
}

/// Whether the transport checksum is more than the pseudo header's sum that a sender on this machine left for
/// its device to complete. One final checksum in 65,536 looks the same; tc handles both.
#[inline(always)]
fn checksum_is_final(ctx: &XdpContext, eth: usize, tuple: &Tuple) -> bool {
    let l4 = eth + ETH_LEN + IPV4_LEN;
    let at = if tuple.protocol == wire::TCP {
        l4 + 16
    } else {
        l4 + 6
    };
    let (Some(check), Some(total)) = (mem::u16_at(ctx, at), mem::u16_at(ctx, eth + ETH_LEN + 2))
    else {
        return false;
    };
    let length = u16::from_be(total).wrapping_sub(IPV4_LEN as u16);
    check != checksum::pseudo_v4(tuple.src, tuple.dst, tuple.protocol, length)
}

#[inline(always)]
fn same_mac(a: [u8; 6], b: [u8; 6]) -> bool {
    a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] && a[5] == b[5]
}

const _: () = assert!(mac_of(0)[1] != node_mac(0)[1]);
