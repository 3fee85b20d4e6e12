//! A client's packet to a published port, in tc: to a local task by DNAT, to another node by tunnel.

use aya_ebpf::programs::TcContext;
use mesh_common::{
    Addr, DropReason, Endpoint, NAT_LINK, NAT_LOOPBACK, NAT_PEER, NAT_UPLINK, Nat, Published,
    SCOPE_PUBLISHED, SCOPE_RETURN, SCOPE_TASK, Settings, Verdict, mac_of, node_mac,
    wire::GATEWAY_BE,
};

use crate::{
    nat,
    packet::Tuple,
    services,
    tunnel::{self, Inner},
};

/// Where a client is, and so how replies reach it.
#[derive(Clone, Copy)]
pub enum Client {
    /// Beyond this uplink.
    Outside(u32),
    /// The task behind this gateway link, with this MAC.
    Task(u32, [u8; 6]),
    /// A process of this node; its packet as it was before it was given the tunnel end point's address.
    Process(Tuple),
}

/// Balances a client's packet. `Pass` if the service has no backend: the stack then refuses the connection.
#[inline(always)]
pub fn balance(
    ctx: &TcContext,
    settings: &Settings,
    service: &Published,
    tuple: &Tuple,
    client: Client,
) -> Result<Verdict, DropReason> {
    // Processes appear to others under the tunnel end point's address.
    let (seen, original) = match client {
        Client::Process(original) => (*tuple, original),
        _ => (*tuple, *tuple),
    };
    let key = seen.key(SCOPE_PUBLISHED);
    let Some(choice) = services::choose(&service.pool, settings.ingress_vni, &key, &seen, false)
    else {
        return Ok(Verdict::Pass);
    };
    services::count(&service.pool, &choice, ctx, seen.begins());
    let undo = match client {
        Client::Outside(ifindex) => nat::undo(&original, NAT_UPLINK, ifindex, Addr::NONE, [0; 6]),
        Client::Task(ifindex, mac) => nat::undo(&original, NAT_LINK, ifindex, Addr::NONE, mac),
        Client::Process(_) => nat::undo(&original, NAT_LOOPBACK, 0, Addr::NONE, [0; 6]),
    };
    if choice.is_local() {
        return enter(
            ctx,
            service,
            &original,
            &seen,
            choice.backend.low_be(),
            choice.endpoint,
            &undo,
        );
    }
    if !matches!(client, Client::Outside(_)) {
        nat::remember(&seen.reply().key(SCOPE_RETURN), &undo, seen.begins())?;
    }
    nat::rewrite(ctx, &original, &seen)?;
    let inner = Inner {
        vni: settings.ingress_vni,
        dmac: choice.endpoint.mac,
        smac: node_mac(settings.vtep.low_be()),
    };
    tunnel::send(
        ctx,
        settings,
        choice.endpoint.peer.low_be(),
        &inner,
        seen.hash(),
    )
}

/// A client's packet that another node has balanced to a task of this one; still inside its tunnel.
#[inline(always)]
pub fn from_peer(
    ctx: &TcContext,
    tuple: &Tuple,
    peer_be: u32,
    backend_be: u32,
    endpoint: &Endpoint,
) -> Result<Verdict, DropReason> {
    let Some(service) = services::published(tuple) else {
        return Err(DropReason::NotPublished);
    };
    crate::mem::shrink(ctx)?;
    let undo = nat::undo(tuple, NAT_PEER, 0, Addr::v4_be(peer_be), [0; 6]);
    enter(ctx, service, tuple, tuple, backend_be, endpoint, &undo)
}

/// Into the task: `current` is the packet as it stands, `seen` with the client as the task is to see it.
#[inline(always)]
fn enter(
    ctx: &TcContext,
    service: &Published,
    current: &Tuple,
    seen: &Tuple,
    backend_be: u32,
    endpoint: &Endpoint,
    undo: &Nat,
) -> Result<Verdict, DropReason> {
    let mut new = Tuple {
        dst: backend_be,
        dport: service.target_be,
        ..*seen
    };
    if new.src == backend_be {
        // A task that reaches itself would drop a packet from its own address.
        new.src = seen.dst;
    }
    nat::remember(&new.reply().key(SCOPE_TASK), undo, seen.begins())?;
    nat::rewrite(ctx, current, &new)?;
    tunnel::deliver(ctx, endpoint.ifindex, endpoint.mac, mac_of(GATEWAY_BE))
}
