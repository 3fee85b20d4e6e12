//! Into and out of VXLAN, in tc.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM},
    programs::TcContext,
};
use mesh_common::{
    DropReason, Endpoint, Link, Settings, Verdict,
    wire::{self, ETH_LEN, IPV4_LEN, IPV6_LEN, OVERHEAD},
};

use crate::{
    family::{Family, V4},
    mem::{self, Packet as _},
    packet::Tuple,
    services,
};

/// The inner Ethernet header of a packet put into a tunnel.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Inner {
    /// Network.
    pub vni: u32,
    /// Destination MAC.
    pub dmac: [u8; 6],
    /// Source MAC.
    pub smac: [u8; 6],
    /// Not zero: encrypted. [`send`] puts the device that does it here, by interface index.
    pub encrypted: u32,
}

/// A device that tunnel packets from a link leave by: it says how large they may be, as those that encrypt are alike.
#[inline(always)]
pub fn device(settings: &Settings, link: &Link) -> u32 {
    if link.encrypted != 0 {
        settings.cipher
    } else {
        settings.uplink
    }
}

/// Whether a tunnel packet came by the device that decrypts.
#[inline(always)]
pub fn is_decrypted(ctx: &TcContext, settings: &Settings) -> bool {
    let device = ctx.ifindex();
    device == settings.cipher || device == settings.former_cipher
}

/// Whether a packet out of a tunnel may go to a task: it is of this node, and its network is an encrypted one if the
/// packet came encrypted, and only then. The device it came by, which says how large packets may be.
#[inline(always)]
pub fn admit(ctx: &TcContext, settings: &Settings, endpoint: &Endpoint) -> Result<u32, DropReason> {
    if endpoint.ifindex == 0 {
        return Err(DropReason::NoEndpoint);
    }
    match (is_decrypted(ctx, settings), endpoint.encrypted != 0) {
        (true, true) => Ok(settings.cipher),
        (false, false) => Ok(settings.uplink),
        _ => Err(DropReason::Unencrypted),
    }
}

/// Encapsulates a packet of family `F` and sends it to the node at `peer_be`. `hash` spreads flows.
#[inline(always)]
pub fn send<F: Family>(
    ctx: &TcContext,
    peer_be: u32,
    inner: Inner,
    hash: u32,
) -> Result<Verdict, DropReason> {
    let scratch = mem::scratch().ok_or(DropReason::Kernel)?;
    scratch.inner = inner;
    if inner.encrypted != 0 {
        scratch.inner.encrypted = services::peer_cipher(peer_be);
        if scratch.inner.encrypted == 0 {
            return Err(DropReason::Unencrypted);
        }
    }
    if encapsulate(ctx.skb.skb, peer_be, hash, F::ETHERTYPE_BE.into()) != 0 {
        Ok(Verdict::Forwarded)
    } else {
        Err(DropReason::Kernel)
    }
}

/// [`send`] with the inner Ethernet header in the scratch space, verified once. One if the kernel did it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encapsulate(
    skb: *mut __sk_buff,
    peer_be: u32,
    hash: u32,
    ethertype_be: u32,
) -> u32 {
    let ctx = TcContext::new(skb);
    wrap(&ctx, peer_be, hash, ethertype_be as u16)
        .is_ok()
        .into()
}

#[inline(always)]
fn wrap(ctx: &TcContext, peer_be: u32, hash: u32, ethertype_be: u16) -> Result<(), DropReason> {
    let scratch = mem::scratch().ok_or(DropReason::Kernel)?;
    let settings = services::settings().ok_or(DropReason::Kernel)?;
    let inner = &scratch.inner;
    let header = wire::tunnel_header(
        settings.vtep.low_be(),
        peer_be,
        wire::outer_port_be(hash),
        settings.vxlan_port_be,
        inner.vni,
        ctx.len() as u16,
    );
    mem::grow(ctx)?;
    store(ctx, ETH_LEN, &header)?;
    let at = ETH_LEN + size_of_val(&header);
    store(ctx, at, &inner.dmac)?;
    store(ctx, at + 6, &inner.smac)?;
    store(ctx, at + 12, &ethertype_be)?;
    store(ctx, 12, &wire::ETHERTYPE_IPV4_BE)?;
    if inner.encrypted != 0 {
        // It knows the other nodes by these very addresses, and has no Ethernet: the kernel strips that.
        mem::to_egress(inner.encrypted);
    } else {
        mem::to_neighbour(settings.uplink);
    }
    Ok(())
}

/// Removes the outer headers behind the Ethernet header; the inner Ethernet header goes with them.
#[inline(always)]
pub fn strip<F: Family>(ctx: &TcContext) -> Result<(), DropReason> {
    if F::strip(ctx) {
        Ok(())
    } else {
        Err(DropReason::Kernel)
    }
}

/// Strips a packet of IPv6 where the kernel does not know that IPv6 may come out of IPv4 (before 6.3). To it, the outer
/// headers and as much of the inner one as IPv6's is longer than IPv4's are taken away, and then IPv4 becomes IPv6,
/// which gives that length back. One if the kernel did it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn strip_before_6_3(skb: *mut __sk_buff) -> u32 {
    const LONGER: usize = IPV6_LEN - IPV4_LEN;
    let ctx = TcContext::new(skb);
    let Some(head) = ctx.fetch::<LONGER>(ETH_LEN + OVERHEAD) else {
        return 0;
    };
    let stripped = mem::shrink(&ctx, OVERHEAD + LONGER, 0)
        && ctx.change_proto(wire::ETHERTYPE_IPV6_BE, 0).is_ok()
        && ctx
            .store(ETH_LEN, &head, u64::from(BPF_F_RECOMPUTE_CSUM))
            .is_ok();
    stripped.into()
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

/// Whether a packet is a probe of one agent to another: to the tunnels' port inside a tunnel, where no task can send.
#[inline(always)]
pub fn is_probe<F: Family>(settings: &Settings, tuple: &Tuple<F>) -> bool {
    F::ETHERTYPE_BE == wire::ETHERTYPE_IPV4_BE
        && tuple.ports
        && tuple.protocol == wire::UDP
        && tuple.dport == settings.vxlan_port_be
}

/// What is sent on the tunnel device itself: probes, to the peer that they name. The device drops what it is told no
/// tunnel for.
#[inline(always)]
pub fn probe(ctx: &TcContext) -> Result<Verdict, DropReason> {
    if let (Some(settings), Some(tuple)) = (services::settings(), V4::parse(ctx, 0))
        && is_probe(settings, &tuple)
        && services::is_peer(tuple.dst)
    {
        let own = settings.vtep.low_be();
        mem::set_tunnel(ctx, settings.ingress_vni, tuple.dst, own)?;
    }
    Ok(Verdict::Pass)
}
