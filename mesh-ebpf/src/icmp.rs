//! ICMP errors about flows that are rewritten on their way: the message has to go to the end that sent the packet
//! it is about, and that packet has to look as it did when that end sent it. Programs of their own, because an error
//! is rare and the others' stacks are full.

use aya_ebpf::programs::TcContext;
use mesh_common::{
    Addr, DropReason, Endpoint, Link, MORE_GATEWAY_ERROR, MORE_OVERLAY_ERROR, MORE_TUNNEL_ERROR,
    MORE_UPLINK_ERROR, Nat, Published, SCOPE_PORT, SCOPE_PUBLISHED, SCOPE_RETURN, SCOPE_TASK,
    Settings, Verdict, mac_of, node_mac,
    wire::{self, ETH_LEN, GATEWAY_BE, IPV4_LEN, OVERHEAD, UDP_LEN},
};

use crate::{
    family::Family,
    maps, mem, nat, overlay,
    packet::Tuple,
    paths, services,
    tunnel::{self, Inner},
};

/// ICMP header; the packet that an error is about follows.
const ICMP_LEN: usize = 8;
/// First bytes of a transport header, which every error quotes: the ports are among them.
const QUOTED: usize = 8;

/// Goes on in the program for errors of `place` (a `MORE_` constant), if the packet whose Ethernet header is at `eth`
/// is an ICMP error; comes back if it is none.
#[inline(always)]
pub fn divert<F: Family>(ctx: &TcContext, eth: usize, tuple: &Tuple<F>, place: u32) {
    if tuple.protocol == F::ICMP
        && !tuple.is_tail()
        && tuple.l4 as usize == F::HEADER_LEN
        && mem::u8_at(ctx, eth + ETH_LEN + F::HEADER_LEN).is_some_and(F::is_error)
    {
        mem::continue_in(&maps::TC_MORE, ctx, F::MORE + place);
    }
}

/// Where an error of a packet whose Ethernet header is at `eth` quotes an IP header.
#[inline(always)]
const fn quote<F: Family>(eth: usize) -> usize {
    eth + ETH_LEN + F::HEADER_LEN + ICMP_LEN
}

/// What an error is about, as who noticed it saw it. `None`: it cannot be told, or has no ports.
#[inline(always)]
fn about<F: Family>(ctx: &TcContext, eth: usize) -> Option<Tuple<F>> {
    let ip = quote::<F>(eth);
    mem::pull(ctx, ip + F::HEADER_LEN + QUOTED);
    let mut tuple = F::quoted(ctx, ip)?;
    let has_ports =
        tuple.protocol == wire::TCP || tuple.protocol == wire::UDP || tuple.protocol == wire::SCTP;
    if !has_ports {
        return None;
    }
    tuple.sport = mem::u16_at(ctx, ip + F::HEADER_LEN)?;
    tuple.dport = mem::u16_at(ctx, ip + F::HEADER_LEN + 2)?;
    Some(tuple)
}

/// Rewrites the error at the front of the packet: its addresses from those of `outer` to `src` and `dst`, the packet
/// it is about from `old` to `new`.
#[inline(always)]
fn rewrite<F: Family>(
    ctx: &TcContext,
    outer: &Tuple<F>,
    src: &F::Address,
    dst: &F::Address,
    old: &Tuple<F>,
    new: &Tuple<F>,
) -> Result<(), DropReason> {
    let check = ETH_LEN + F::HEADER_LEN + 2;
    let (source, destination) = (F::SOURCE, F::SOURCE + F::ADDRESS_LEN);
    F::readdress(ctx, ETH_LEN, source, check, &outer.src, src)?;
    F::readdress(ctx, ETH_LEN, destination, check, &outer.dst, dst)?;
    let ip = quote::<F>(0);
    F::readdress(ctx, ip, source, check, &old.src, &new.src)?;
    F::readdress(ctx, ip, destination, check, &old.dst, &new.dst)?;
    let ports = ip + F::HEADER_LEN;
    nat::port(ctx, ports, check, 0, old.sport, new.sport)?;
    nat::port(ctx, ports + 2, check, 0, old.dport, new.dport)
}

/// How the answer to `packet` is rewritten.
#[inline(always)]
fn known<F: Family>(packet: &Tuple<F>, scope: u32) -> Option<&'static Nat> {
    nat::find(&packet.reply(), scope)
}

/// Treats an error about `packet`, which `nat` has rewritten or would rewrite the answer to: as that answer.
#[inline(always)]
fn answer<F: Family>(
    ctx: &TcContext,
    settings: &Settings,
    outer: &Tuple<F>,
    packet: &Tuple<F>,
    nat: &Nat,
) -> Result<Verdict, DropReason> {
    let answer = translate(ctx, outer, packet, nat)?;
    nat::send_back::<F>(ctx, settings, nat, answer.spread())
}

/// Rewrites an error about `packet` as `nat` rewrites the answer to it, and gives that answer.
#[inline(always)]
fn translate<F: Family>(
    ctx: &TcContext,
    outer: &Tuple<F>,
    packet: &Tuple<F>,
    nat: &Nat,
) -> Result<Tuple<F>, DropReason> {
    let answer = nat::target(&packet.reply(), nat);
    let original = answer.reply();
    rewrite(ctx, outer, &answer.src, &answer.dst, packet, &original)?;
    Ok(answer)
}

/// What a task sends on its gateway link about a packet that came by a published port.
#[inline(always)]
pub fn gateway<F: Family>(
    ctx: &TcContext,
    _ifindex: u32,
    link: &Link,
) -> Result<Verdict, DropReason> {
    mem::pull(ctx, F::HEADERS);
    let outer = F::parse(ctx, 0).ok_or(DropReason::Malformed)?;
    if !overlay::is_from::<F>(ctx, link, &outer) {
        return Err(DropReason::Spoofed);
    }
    let settings = services::settings().ok_or(DropReason::NoEndpoint)?;
    let Some(packet) = about::<F>(ctx, 0) else {
        return Ok(Verdict::Pass);
    };
    match known(&packet, SCOPE_TASK) {
        Some(nat) => answer(ctx, settings, &outer, &packet, nat),
        None => Ok(Verdict::Pass),
    }
}

/// What a task sends on an overlay network to another task.
#[inline(always)]
pub fn overlay<F: Family>(
    ctx: &TcContext,
    ifindex: u32,
    link: &Link,
) -> Result<Verdict, DropReason> {
    mem::pull(ctx, F::HEADERS);
    let outer = F::parse(ctx, 0).ok_or(DropReason::Malformed)?;
    let key = overlay::admit(ctx, link, &outer)?;
    if mem::get(&maps::VIPS, &key).is_some() {
        // Only a task that has reached itself sees a virtual address as a client.
        let packet = about::<F>(ctx, 0).ok_or(DropReason::Protocol)?;
        let nat = known(&packet, link.vni).ok_or(DropReason::Protocol)?;
        translate(ctx, &outer, &packet, nat)?;
        return tunnel::deliver(ctx, ifindex, link.mac, mac_of(key.address.low_be()));
    }
    let endpoint = mem::get(&maps::ENDPOINTS, &key).ok_or(DropReason::NoEndpoint)?;
    if endpoint.ifindex != 0 {
        return arrive(ctx, link.vni, &outer, endpoint, link.mac);
    }
    overlay::send(ctx, link, &outer, endpoint)
}

/// At the node of the task it is for. If the task had sent to a virtual address, the error is about that.
#[inline(always)]
fn arrive<F: Family>(
    ctx: &TcContext,
    vni: u32,
    outer: &Tuple<F>,
    endpoint: &Endpoint,
    smac: [u8; 6],
) -> Result<Verdict, DropReason> {
    if let Some(packet) = about::<F>(ctx, 0)
        && let Some(nat) = known(&packet, vni)
    {
        let answer = nat::target(&packet.reply(), nat);
        rewrite(
            ctx,
            outer,
            &answer.src,
            &outer.dst,
            &packet,
            &answer.reply(),
        )?;
    }
    tunnel::deliver(ctx, endpoint.ifindex, endpoint.mac, smac)
}

/// From a router or a client, about a reply that went out under this node's address; or from a router between two
/// nodes.
#[inline(always)]
pub fn uplink<F: Family>(ctx: &TcContext) -> Result<Verdict, DropReason> {
    mem::pull(ctx, F::HEADERS);
    let settings = services::settings().ok_or(DropReason::NoEndpoint)?;
    let outer = F::parse(ctx, 0).ok_or(DropReason::Malformed)?;
    if !services::is_own::<F>(&outer.dst) {
        return Ok(Verdict::Pass);
    }
    let Some(packet) = about::<F>(ctx, 0) else {
        return Ok(Verdict::Pass);
    };
    if paths::learn(ctx, settings, &packet) {
        return Ok(Verdict::Pass);
    }
    // What the client sent: it names the backend as any of its packets does.
    let mut asked = packet.reply();
    asked.ports = true;
    let Some(service) = services::published(&asked) else {
        return Ok(Verdict::Pass);
    };
    let scratch = mem::scratch().ok_or(DropReason::Kernel)?;
    scratch.flow = asked.key(SCOPE_PUBLISHED);
    let vni = settings.ingress_vni;
    let Some(choice) = services::choose(&service.pool, &scratch.flow, &asked, false) else {
        return Ok(Verdict::Pass);
    };
    let low = choice.backend.low_be();
    if choice.is_local() {
        return enter(
            ctx,
            settings,
            service,
            &outer,
            &packet,
            low,
            choice.endpoint,
        );
    }
    let inner = Inner {
        vni,
        dmac: choice.endpoint.mac,
        smac: node_mac(settings.vtep.low_be()),
        encrypted: 0,
    };
    let peer = choice.endpoint.peer.low_be();
    tunnel::send::<F>(ctx, peer, inner, asked.spread())
}

/// Out of a tunnel, which `uplink_tc` has looked at.
#[inline(always)]
pub fn tunnel<F: Family>(ctx: &TcContext) -> Result<Verdict, DropReason> {
    mem::pull(ctx, OVERHEAD + F::HEADERS);
    let settings = services::settings().ok_or(DropReason::NoEndpoint)?;
    let [_, _, _, _, v0, v1, v2, _] =
        mem::bytes::<8>(ctx, ETH_LEN + IPV4_LEN + UDP_LEN).ok_or(DropReason::Malformed)?;
    let vni = u32::from_be_bytes([0, v0, v1, v2]);
    let [_, kind, a, b, c, d] = mem::bytes::<6>(ctx, OVERHEAD).ok_or(DropReason::Malformed)?;
    let smac = mem::bytes::<6>(ctx, OVERHEAD + 6).ok_or(DropReason::Malformed)?;
    let outer = F::parse(ctx, OVERHEAD).ok_or(DropReason::Malformed)?;
    if vni != settings.ingress_vni {
        let address = Addr::v4_be(F::last_be(&outer.dst));
        let endpoint = services::endpoint(vni, address).ok_or(DropReason::NoEndpoint)?;
        tunnel::admit(ctx, settings, endpoint)?;
        tunnel::strip::<F>(ctx)?;
        return arrive(ctx, vni, &outer, endpoint, smac);
    }
    let Some(packet) = about::<F>(ctx, OVERHEAD) else {
        return Ok(Verdict::Pass);
    };
    if kind == node_mac(0)[1] {
        // For a client: here, or outside, which is the tunnel device's.
        let Some(nat) = known(&packet, SCOPE_RETURN) else {
            return Ok(Verdict::Pass);
        };
        tunnel::strip::<F>(ctx)?;
        return answer(ctx, settings, &outer, &packet, nat);
    }
    let mut asked = packet.reply();
    asked.ports = true;
    let service = services::published(&asked).ok_or(DropReason::NotPublished)?;
    let named = u32::from_ne_bytes([a, b, c, d]);
    let endpoint = services::endpoint(vni, Addr::v4_be(named)).ok_or(DropReason::NoEndpoint)?;
    if endpoint.ifindex == 0 || kind != mac_of(0)[1] {
        return Err(DropReason::NoEndpoint);
    }
    tunnel::strip::<F>(ctx)?;
    enter(ctx, settings, service, &outer, &packet, named, endpoint)
}

/// Into the task that sent `packet`, which went out rewritten.
#[inline(always)]
fn enter<F: Family>(
    ctx: &TcContext,
    settings: &Settings,
    service: &Published,
    outer: &Tuple<F>,
    packet: &Tuple<F>,
    backend_be: u32,
    endpoint: &Endpoint,
) -> Result<Verdict, DropReason> {
    let mut sent = Tuple {
        src: F::join(&settings.prefix, backend_be),
        sport: service.target_be,
        ..*packet
    };
    if let Some(known) = known(packet, SCOPE_PORT) {
        // The client's port was taken at the task: it talks to a substitute.
        sent.dport = known.sport_be;
    }
    let own = sent.src;
    rewrite(ctx, outer, &outer.src, &own, packet, &sent)?;
    tunnel::deliver(ctx, endpoint.ifindex, endpoint.mac, mac_of(GATEWAY_BE))
}

/// Constants that say where an error comes in.
pub const GATEWAY: u32 = MORE_GATEWAY_ERROR;
/// On a task's overlay link.
pub const OVERLAY: u32 = MORE_OVERLAY_ERROR;
/// Out of a tunnel.
pub const TUNNEL: u32 = MORE_TUNNEL_ERROR;
/// By an uplink, in no tunnel.
pub const UPLINK: u32 = MORE_UPLINK_ERROR;
