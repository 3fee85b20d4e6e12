//! A client's packet to a published port, in tc: to a local task by DNAT, to another node by tunnel.

use aya_ebpf::programs::TcContext;
use mesh_common::{
    Addr, DropReason, Endpoint, NAT_DIRECT, NAT_LINK, NAT_LOOPBACK, NAT_PEER, NAT_UPLINK,
    Published, SCOPE_PUBLISHED, SCOPE_RETURN, SCOPE_TASK, Settings, Verdict, asked_mac, mac_of,
    wire::GATEWAY_BE,
};

use crate::{
    family::Family,
    mem, mss, nat,
    packet::Tuple,
    services, too_big,
    tunnel::{self, Inner},
};

/// Where a client is, and so how replies reach it.
#[derive(Clone, Copy)]
pub enum Client {
    /// Beyond this uplink.
    Outside(u32),
    /// The task behind this gateway link, with this MAC.
    Task(u32, [u8; 6]),
    /// A process of this node.
    Process,
}

/// Balances a client's packet: `original` as it stands, `seen` as others are to see it. `Pass` if the service has no backend of this family: the stack then refuses the
/// connection.
#[inline(always)]
pub fn balance<F: Family>(
    ctx: &TcContext,
    settings: &Settings,
    service: &Published,
    original: &Tuple<F>,
    seen: &Tuple<F>,
    client: Client,
) -> Result<Verdict, DropReason> {
    if !F::is_on(&settings.prefix) {
        return Ok(Verdict::Pass);
    }
    let scratch = mem::scratch().ok_or(DropReason::Kernel)?;
    scratch.flow = seen.key(SCOPE_PUBLISHED);
    let Some(choice) = services::choose(&service.pool, &scratch.flow, seen, false) else {
        return Ok(Verdict::Pass);
    };
    services::count(&choice, ctx, seen);
    let (kind, ifindex, mac) = match client {
        Client::Outside(ifindex) => (NAT_UPLINK, ifindex, [0; 6]),
        Client::Task(ifindex, mac) => (NAT_LINK, ifindex, mac),
        Client::Process => (NAT_LOOPBACK, 0, [0; 6]),
    };
    nat::undo(&mut scratch.undo, original, kind, ifindex, Addr::NONE, mac);
    if choice.is_local() {
        return enter(
            ctx,
            settings,
            service,
            original,
            seen,
            choice.backend.low_be(),
            choice.endpoint,
        );
    }
    let peer = choice.endpoint.peer.low_be();
    too_big::check(ctx, settings.uplink, peer, original)?;
    let direct = match client {
        // Clients behind another interface may be this node's to reach alone.
        Client::Outside(ifindex) if ifindex == settings.uplink => service.direct & 1,
        Client::Outside(_) => 0,
        Client::Task(..) | Client::Process => {
            scratch.reply = seen.reply().key(SCOPE_RETURN);
            nat::remember(seen.begins())?;
            0
        }
    };
    nat::rewrite(ctx, original, seen)?;
    let inner = Inner {
        vni: settings.ingress_vni,
        dmac: choice.endpoint.mac,
        smac: asked_mac(settings.vtep.low_be(), direct),
        encrypted: 0,
    };
    tunnel::send::<F>(ctx, peer, inner, seen.spread())
}

/// A client's packet that another node, which sent it from `smac`, has balanced to a task of this one; still inside its
/// tunnel.
#[inline(always)]
pub fn from_peer<F: Family>(
    ctx: &TcContext,
    settings: &Settings,
    tuple: &Tuple<F>,
    (peer_be, smac): (u32, [u8; 6]),
    backend_be: u32,
    endpoint: &Endpoint,
) -> Result<Verdict, DropReason> {
    let Some(service) = services::published(tuple) else {
        return Err(if tuple.is_tail() {
            DropReason::Fragment
        } else {
            DropReason::NotPublished
        });
    };
    tunnel::strip::<F>(ctx)?;
    mss::clamp(ctx, settings.uplink, peer_be, tuple)?;
    let scratch = mem::scratch().ok_or(DropReason::Kernel)?;
    let kind = if smac[1] == asked_mac(0, 1)[1] {
        NAT_DIRECT
    } else {
        NAT_PEER
    };
    nat::undo(
        &mut scratch.undo,
        tuple,
        kind,
        0,
        Addr::v4_be(peer_be),
        [0; 6],
    );
    enter(ctx, settings, service, tuple, tuple, backend_be, endpoint)
}

/// Into the task: `current` is the packet as it stands, `seen` with the client as the task is to see it.
#[inline(always)]
fn enter<F: Family>(
    ctx: &TcContext,
    settings: &Settings,
    service: &Published,
    current: &Tuple<F>,
    seen: &Tuple<F>,
    backend_be: u32,
    endpoint: &Endpoint,
) -> Result<Verdict, DropReason> {
    let mut new = Tuple {
        dst: F::join(&settings.prefix, backend_be),
        dport: service.target_be,
        ..*seen
    };
    if F::same(&new.src, &new.dst) {
        // A task that reaches itself would drop a packet from its own address.
        new.src = seen.dst;
    }
    mem::scratch().ok_or(DropReason::Kernel)?.reply = new.reply().key(SCOPE_TASK);
    new.sport = nat::claim(seen)?;
    nat::rewrite(ctx, current, &new)?;
    tunnel::deliver(ctx, endpoint.ifindex, endpoint.mac, mac_of(GATEWAY_BE))
}
