//! First stop of a packet from the wire: published ports whose backend is on another node, and their replies.
//! Whatever XDP cannot do (a neighbour to resolve, a local task, an unfinished checksum) goes on to `uplink_tc`.

use aya_ebpf::programs::XdpContext;
use mesh_common::{
    DropReason, Published, SCOPE_PUBLISHED, Settings, V6_UPLINK, Verdict, asked_mac, mac_of,
    node_mac,
    wire::{self, ETH_LEN, ETHERTYPE_IPV4_BE, ETHERTYPE_IPV6_BE, IPV4_LEN, OVERHEAD},
};

use crate::{
    family::{Family, V4, V6},
    hops,
    maps::{self, Hop},
    mem::{self, Packet as _},
    mss,
    packet::{self, Tuple},
    services,
};

/// The program.
#[inline(always)]
pub fn run(ctx: &XdpContext) -> Result<Verdict, DropReason> {
    let Some(settings) = services::settings() else {
        return Ok(Verdict::Pass);
    };
    if is_foreign(ctx, settings) {
        return Ok(Verdict::Pass);
    }
    let Some(tuple) = V4::parse(ctx, 0) else {
        if packet::ethertype(ctx, 0) == Some(ETHERTYPE_IPV6_BE) {
            mem::continue_in(&maps::XDP_V6, ctx, V6_UPLINK);
        }
        return Ok(Verdict::Pass);
    };
    if services::is_tunnel(settings, &tuple) {
        return back::<V4>(ctx, settings, &tuple);
    }
    match services::service(&tuple) {
        Some(service) => request::<V4>(ctx, settings, service, &tuple),
        None => Ok(Verdict::Pass),
    }
}

/// Whether a packet is TCP or UDP over IPv4 for a port that nobody has published: most of what comes in, told with
/// one test of bounds.
#[inline(always)]
fn is_foreign(ctx: &XdpContext, settings: &Settings) -> bool {
    let Some(glance) = mem::glance(ctx) else {
        return false;
    };
    glance.ethertype == ETHERTYPE_IPV4_BE
        && glance.version == wire::IPV4_NO_OPTIONS
        && (glance.protocol == wire::TCP || glance.protocol == wire::UDP)
        && glance.dport != settings.vxlan_port_be
        && !services::is_published(glance.protocol, glance.dport)
}

/// The program's part for IPv6, in a tunnel or not. The tunnels themselves are IPv4.
#[inline(always)]
pub fn run_v6(ctx: &XdpContext) -> Result<Verdict, DropReason> {
    let Some(settings) = services::settings() else {
        return Ok(Verdict::Pass);
    };
    if let Some(outer) = V4::parse(ctx, 0) {
        return back::<V6>(ctx, settings, &outer);
    }
    let Some(tuple) = V6::parse(ctx, 0) else {
        return Ok(Verdict::Pass);
    };
    match services::published(&tuple) {
        Some(service) => request::<V6>(ctx, settings, service, &tuple),
        None => Ok(Verdict::Pass),
    }
}

/// A packet for a published port, which may be a client's.
#[inline(always)]
fn request<F: Family>(
    ctx: &XdpContext,
    settings: &Settings,
    service: &Published,
    tuple: &Tuple<F>,
) -> Result<Verdict, DropReason> {
    if F::is_martian(&tuple.src)
        || !services::is_own::<F>(&tuple.dst)
        || !F::is_on(&settings.prefix)
    {
        return Ok(Verdict::Pass);
    }
    if !checksum_is_final(ctx, 0, tuple) {
        return Ok(Verdict::Handover);
    }
    let key = tuple.key(SCOPE_PUBLISHED);
    let Some(choice) = services::choose(&service.pool, &key, tuple, false) else {
        return Ok(Verdict::Pass);
    };
    if choice.is_local() {
        return Ok(Verdict::Handover);
    }
    let length = ctx.length() as u16;
    let vtep = settings.vtep.low_be();
    let peer = choice.endpoint.peer.low_be();
    let outer = length.wrapping_add((OVERHEAD - ETH_LEN) as u16);
    let Some(hop) = hops::find::<V4>(ctx, &vtep, &peer, outer) else {
        return Ok(Verdict::Handover);
    };
    if !mss::clamp_first(ctx, settings, 0, peer, tuple) {
        return Ok(Verdict::Handover);
    }
    services::count(&choice, ctx, tuple);
    mem::adjust_head(ctx, -(OVERHEAD as i32))?;
    let header = wire::tunnel_header(
        vtep,
        peer,
        wire::outer_port_be(tuple.spread()),
        settings.vxlan_port_be,
        settings.ingress_vni,
        length,
    );
    address::<V4>(ctx, hop)?;
    mem::write_words::<9, 36>(ctx, ETH_LEN, header)?;
    let inner = packet::macs(choice.endpoint.mac, asked_mac(vtep, service.direct & 1));
    mem::write_words::<3, 12>(ctx, OVERHEAD, inner)?;
    Ok(Verdict::Forwarded)
}

/// A tunnel packet. Replies of another node's task to a client outside are stripped and sent on; all else is tc's.
#[inline(always)]
fn back<F: Family>(
    ctx: &XdpContext,
    settings: &Settings,
    outer: &Tuple<V4>,
) -> Result<Verdict, DropReason> {
    let vxlan = ETH_LEN + IPV4_LEN + wire::UDP_LEN;
    let (Some(flags), Some(vni)) = (mem::u32_at(ctx, vxlan), mem::u32_at(ctx, vxlan + 4)) else {
        return Ok(Verdict::Handover);
    };
    if flags.to_ne_bytes()[0] != wire::VXLAN_FLAGS || u32::from_be(vni) >> 8 != settings.ingress_vni
    {
        return Ok(Verdict::Handover);
    }
    let (Some(kind), Some(named)) = (mem::u16_at(ctx, OVERHEAD), mem::u32_at(ctx, OVERHEAD + 2))
    else {
        return Ok(Verdict::Handover);
    };
    let [k0, k1, ..] = node_mac(0);
    if kind != u16::from_ne_bytes([k0, k1])
        || named != settings.vtep.low_be()
        || !services::is_peer(outer.src)
    {
        return Ok(Verdict::Handover);
    }
    let Some(inner) = F::parse(ctx, OVERHEAD) else {
        if F::ETHERTYPE_BE == ETHERTYPE_IPV4_BE
            && packet::ethertype(ctx, OVERHEAD) == Some(ETHERTYPE_IPV6_BE)
        {
            mem::continue_in(&maps::XDP_V6, ctx, V6_UPLINK);
        }
        return Ok(Verdict::Handover);
    };
    if !services::is_own::<F>(&inner.src) || !checksum_is_final(ctx, OVERHEAD, &inner) {
        return Ok(Verdict::Handover);
    }
    let length = (ctx.length() as usize - OVERHEAD - ETH_LEN) as u16;
    let Some(hop) = hops::find::<F>(ctx, &inner.src, &inner.dst, length) else {
        return Ok(Verdict::Handover);
    };
    if !mss::clamp_first(ctx, settings, OVERHEAD, outer.src, &inner) {
        return Ok(Verdict::Handover);
    }
    mem::adjust_head(ctx, OVERHEAD as i32)?;
    address::<F>(ctx, hop)?;
    Ok(Verdict::Returned)
}

#[inline(always)]
fn address<F: Family>(ctx: &XdpContext, hop: &Hop) -> Result<(), DropReason> {
    mem::write_words::<3, 12>(ctx, 0, hop.macs)?;
    mem::write_u16(ctx, 12, F::ETHERTYPE_BE)
}

/// Whether the transport checksum is more than the pseudo header's sum that a sender on this machine left for
/// its device to complete; SCTP's is zero then. One final checksum in 65,536 looks the same, and behind extension headers nobody looks;
/// tc handles all.
#[inline(always)]
fn checksum_is_final<F: Family>(ctx: &XdpContext, eth: usize, tuple: &Tuple<F>) -> bool {
    let ip = eth + ETH_LEN;
    if tuple.l4 as usize != F::HEADER_LEN {
        return false;
    }
    let l4 = ip + F::HEADER_LEN;
    if tuple.protocol == wire::SCTP {
        return mem::u32_at(ctx, l4 + 8).is_some_and(|check| check != 0);
    }
    let at = if tuple.protocol == wire::TCP {
        l4 + 16
    } else {
        l4 + 6
    };
    let (Some(check), Some(length)) =
        (mem::u16_at(ctx, at), F::transport_length(ctx, ip, tuple.l4))
    else {
        return false;
    };
    check != F::pseudo(tuple, length)
}

const _: () = assert!(mac_of(0)[1] != node_mac(0)[1]);
