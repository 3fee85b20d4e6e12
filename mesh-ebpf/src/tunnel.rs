//! Into and out of VXLAN, in tc.

use aya_ebpf::programs::TcContext;
use mesh_common::{
    DropReason, Settings, Verdict,
    wire::{self, ETH_LEN},
};

use crate::{family::Family, mem};

/// The inner Ethernet header of a packet put into a tunnel.
pub struct Inner {
    /// Network.
    pub vni: u32,
    /// Destination MAC.
    pub dmac: [u8; 6],
    /// Source MAC.
    pub smac: [u8; 6],
}

/// Encapsulates a packet of family `F` and sends it to the node at `peer_be`.
#[inline(always)]
pub fn send<F: Family>(
    ctx: &TcContext,
    settings: &Settings,
    peer_be: u32,
    inner: &Inner,
    hash: u32,
) -> Result<Verdict, DropReason> {
    let length = ctx.len() as u16;
    let header = wire::tunnel_header(
        settings.vtep.low_be(),
        peer_be,
        wire::outer_port_be(hash),
        settings.vxlan_port_be,
        inner.vni,
        length,
    );
    mem::grow(ctx)?;
    store(ctx, ETH_LEN, &header)?;
    let at = ETH_LEN + size_of_val(&header);
    store(ctx, at, &inner.dmac)?;
    store(ctx, at + 6, &inner.smac)?;
    store(ctx, at + 12, &F::ETHERTYPE_BE)?;
    store(ctx, 12, &wire::ETHERTYPE_IPV4_BE)?;
    mem::to_neighbour(settings.uplink);
    Ok(Verdict::Forwarded)
}

/// Overwrites bytes of the packet wherever they are.
#[inline(always)]
pub fn store<T>(ctx: &TcContext, offset: usize, value: &T) -> Result<(), DropReason> {
    ctx.store(offset, value, 0).map_err(|_| DropReason::Kernel)
}

/// Hands the packet to the task behind `ifindex`.
#[inline(always)]
pub fn deliver(
    ctx: &TcContext,
    ifindex: u32,
    dmac: [u8; 6],
    smac: [u8; 6],
) -> Result<Verdict, DropReason> {
    store(ctx, 0, &dmac)?;
    store(ctx, 6, &smac)?;
    mem::adopt(ctx);
    mem::to_peer(ifindex);
    Ok(Verdict::Delivered)
}
