//! Second stop of a packet from the wire: out of tunnels into tasks, and published ports that XDP handed over
//! or is not there for.

use aya_ebpf::programs::TcContext;
use mesh_common::{
    Addr, DropReason, SCOPE_PUBLISHED, SCOPE_RETURN, Settings, V6_TUNNEL, V6_UPLINK, Verdict,
    mac_of, node_mac,
    wire::{self, ETH_LEN, ETHERTYPE_IPV4_BE, ETHERTYPE_IPV6_BE, IPV4_LEN, OVERHEAD, UDP_LEN},
};

use crate::{
    family::{Family, V4, V6},
    fragments, icmp,
    ingress::{self, Client},
    maps, mem,
    mem::Packet as _,
    mss, nat, overlay,
    packet::{self, Tuple},
    services, tunnel,
};

/// The program.
#[inline(always)]
pub fn run(ctx: &TcContext) -> Result<Verdict, DropReason> {
    if !mem::untag(ctx) {
        return Ok(Verdict::Pass);
    }
    mem::pull(ctx, OVERHEAD + V4::HEADERS);
    let Some(tuple) = V4::parse(ctx, 0) else {
        if packet::ethertype(ctx, 0) == Some(ETHERTYPE_IPV6_BE) {
            mem::continue_in(&maps::TC_V6, ctx, V6_UPLINK);
        }
        return Ok(Verdict::Pass);
    };
    let Some(settings) = services::settings() else {
        return Ok(Verdict::Pass);
    };
    if services::is_tunnel(settings, &tuple) {
        return unpack::<V4>(ctx, settings, &tuple);
    }
    request::<V4>(ctx, settings, tuple)
}

/// The program's part for IPv6, in a tunnel or not. The tunnels themselves are IPv4.
#[inline(always)]
pub fn run_v6(ctx: &TcContext) -> Result<Verdict, DropReason> {
    mem::pull(ctx, OVERHEAD + V6::HEADERS);
    let Some(settings) = services::settings() else {
        return Ok(Verdict::Pass);
    };
    if let Some(outer) = V4::parse(ctx, 0) {
        return unpack::<V6>(ctx, settings, &outer);
    }
    let Some(tuple) = V6::parse(ctx, 0) else {
        return Ok(Verdict::Pass);
    };
    request::<V6>(ctx, settings, tuple)
}

/// The program on the device that encrypts: tunnel packets of other nodes, decrypted, and nothing else. They come
/// without an Ethernet header.
#[inline(always)]
pub fn decrypted(ctx: &TcContext) -> Result<Verdict, DropReason> {
    mem::prepend_ethernet(ctx)?;
    tunnel::store(ctx, 12, &ETHERTYPE_IPV4_BE)?;
    mem::pull(ctx, OVERHEAD + V4::HEADERS);
    let outer = V4::parse(ctx, 0).ok_or(DropReason::Malformed)?;
    let settings = services::settings().ok_or(DropReason::NoEndpoint)?;
    if !services::is_tunnel(settings, &outer) {
        return Err(DropReason::Unencrypted);
    }
    unpack::<V4>(ctx, settings, &outer)
}

/// A packet that may be a client's.
#[inline(always)]
fn request<F: Family>(
    ctx: &TcContext,
    settings: &Settings,
    mut tuple: Tuple<F>,
) -> Result<Verdict, DropReason> {
    fragments::follow(ctx, 0, &mut tuple, SCOPE_PUBLISHED);
    let tuple = &tuple;
    let Some(service) = services::published(tuple) else {
        icmp::divert(ctx, 0, tuple, icmp::UPLINK);
        return Ok(Verdict::Pass);
    };
    if F::is_martian(&tuple.src) || !services::is_own::<F>(&tuple.dst) {
        return Ok(Verdict::Pass);
    }
    ingress::balance(
        ctx,
        settings,
        service,
        tuple,
        tuple,
        Client::Outside(ctx.ifindex()),
    )
}

/// A tunnel packet. What is not for a task or a process of this node goes to the tunnel device (see `device`).
#[inline(always)]
fn unpack<F: Family>(
    ctx: &TcContext,
    settings: &Settings,
    outer: &Tuple<V4>,
) -> Result<Verdict, DropReason> {
    if !services::is_peer(outer.src) {
        // An agent's proof that its node could send from this one's address (see `DIRECT`), for this one's agent to see: no
        // tunnel packet, and from itself a node's stack takes nothing.
        let first = mem::u8_at(ctx, ETH_LEN + IPV4_LEN + UDP_LEN);
        return if outer.src == settings.vtep.low_be() && first == Some(0) {
            Ok(Verdict::Pass)
        } else {
            Err(DropReason::UnknownPeer)
        };
    }
    let [flags, _, _, _, v0, v1, v2, _] =
        mem::bytes::<8>(ctx, ETH_LEN + IPV4_LEN + UDP_LEN).ok_or(DropReason::Malformed)?;
    if flags != wire::VXLAN_FLAGS {
        return Err(DropReason::Malformed);
    }
    let vni = u32::from_be_bytes([0, v0, v1, v2]);
    if vni == settings.ingress_vni && tunnel::is_decrypted(ctx, settings) {
        return Err(DropReason::Unencrypted);
    }
    let dmac = mem::bytes::<6>(ctx, OVERHEAD).ok_or(DropReason::Malformed)?;
    let smac = mem::bytes::<6>(ctx, OVERHEAD + 6).ok_or(DropReason::Malformed)?;
    let Some(mut inner) = F::parse(ctx, OVERHEAD) else {
        if F::ETHERTYPE_BE == ETHERTYPE_IPV4_BE
            && packet::ethertype(ctx, OVERHEAD) == Some(ETHERTYPE_IPV6_BE)
        {
            mem::continue_in(&maps::TC_V6, ctx, V6_UPLINK);
        }
        return Ok(Verdict::Pass);
    };
    icmp::divert(ctx, OVERHEAD, &inner, icmp::TUNNEL);
    if vni != settings.ingress_vni {
        let address = Addr::v4_be(F::last_be(&inner.dst));
        let endpoint = services::endpoint(vni, address).ok_or(DropReason::NoEndpoint)?;
        let device = tunnel::admit(ctx, settings, endpoint)?;
        // Not before: a packet that may not enter leaves nothing behind for those that may.
        fragments::follow(ctx, OVERHEAD, &mut inner, vni);
        tunnel::strip::<F>(ctx)?;
        mss::clamp(ctx, device, outer.src, &inner)?;
        return overlay::arrive(ctx, vni, &inner, endpoint, smac);
    }
    fragments::follow(ctx, OVERHEAD, &mut inner, vni);
    let [_, kind, a, b, c, d] = dmac;
    let named = u32::from_ne_bytes([a, b, c, d]);
    if kind == node_mac(0)[1] {
        let Some(nat) = nat::find(&inner, SCOPE_RETURN) else {
            // A packet to be cut up stays one of a tunnel's: only the kernel's device makes it another.
            if mem::part(ctx) != 0 || !services::is_own::<F>(&inner.src) {
                return Ok(Verdict::Pass);
            }
            tunnel::strip::<F>(ctx)?;
            mss::clamp(ctx, settings.uplink, outer.src, &inner)?;
            return Ok(leave(ctx, settings, &inner));
        };
        tunnel::strip::<F>(ctx)?;
        mss::clamp(ctx, settings.uplink, outer.src, &inner)?;
        return nat::reply(ctx, settings, &inner, nat);
    }
    if kind != mac_of(0)[1] {
        return Err(DropReason::NoEndpoint);
    }
    let endpoint = services::endpoint(vni, Addr::v4_be(named)).ok_or(DropReason::NoEndpoint)?;
    if endpoint.ifindex == 0 {
        return Err(DropReason::NoEndpoint);
    }
    ingress::from_peer(ctx, settings, &inner, (outer.src, smac), named, endpoint)
}

/// A reply to a client outside, when XDP is not there or does not know the neighbour.
#[inline(always)]
fn leave<F: Family>(ctx: &TcContext, settings: &Settings, tuple: &Tuple<F>) -> Verdict {
    let uplink = mem::route::<F>(ctx, &tuple.src, &tuple.dst).unwrap_or(settings.uplink);
    mem::to_neighbour(uplink);
    Verdict::Returned
}

/// The program on the tunnel device, where the kernel has stripped what `unpack` let pass. Probes are for the agent, which
/// takes them from the device.
#[inline(always)]
pub fn device(ctx: &TcContext) -> Result<Verdict, DropReason> {
    mem::pull(ctx, V4::HEADERS);
    if packet::ethertype(ctx, 0) == Some(ETHERTYPE_IPV6_BE) {
        mem::continue_in(&maps::TC_V6, ctx, V6_TUNNEL);
    }
    stripped::<V4>(ctx)
}

/// The program's part for IPv6.
#[inline(always)]
pub fn device_v6(ctx: &TcContext) -> Result<Verdict, DropReason> {
    mem::pull(ctx, V6::HEADERS);
    stripped::<V6>(ctx)
}

#[inline(always)]
fn stripped<F: Family>(ctx: &TcContext) -> Result<Verdict, DropReason> {
    let Some(settings) = services::settings() else {
        return Ok(Verdict::Pass);
    };
    let (vni, peer) = mem::tunnel(ctx).ok_or(DropReason::UnknownPeer)?;
    if !services::is_peer(peer) {
        return Err(DropReason::UnknownPeer);
    }
    let inner = F::parse(ctx, 0).ok_or(DropReason::NotIp)?;
    if vni == settings.ingress_vni && tunnel::is_probe(settings, &inner) {
        return Ok(Verdict::Pass);
    }
    if vni != settings.ingress_vni || !services::is_own::<F>(&inner.src) {
        return Err(DropReason::NoEndpoint);
    }
    mss::clamp(ctx, settings.uplink, peer, &inner)?;
    mem::adopt(ctx);
    Ok(leave(ctx, settings, &inner))
}
