//! A packet of one of this node's own processes to itself: `curl localhost:80`, `curl own-address:80`.
//! The process appears to tasks under the tunnel end point's address, which every node can answer; in IPv6, under
//! the address that stands for it on the ingress network.

use aya_ebpf::programs::TcContext;
use mesh_common::{DropReason, SCOPE_PUBLISHED, V6_LOOPBACK, Verdict, wire::ETHERTYPE_IPV6_BE};

use crate::{
    family::{Family, V4, V6},
    fragments,
    ingress::{self, Client},
    maps, mem,
    packet::{self, Tuple},
    services,
};

/// The program.
#[inline(always)]
pub fn run(ctx: &TcContext) -> Result<Verdict, DropReason> {
    mem::pull(ctx, V4::HEADERS);
    if packet::ethertype(ctx, 0) == Some(ETHERTYPE_IPV6_BE) {
        mem::continue_in(&maps::TC_V6, ctx, V6_LOOPBACK);
        return Ok(Verdict::Pass);
    }
    sent::<V4>(ctx)
}

/// The program's part for IPv6.
#[inline(always)]
pub fn run_v6(ctx: &TcContext) -> Result<Verdict, DropReason> {
    mem::pull(ctx, V6::HEADERS);
    sent::<V6>(ctx)
}

#[inline(always)]
fn sent<F: Family>(ctx: &TcContext) -> Result<Verdict, DropReason> {
    let Some(mut original) = F::parse(ctx, 0) else {
        return Ok(Verdict::Pass);
    };
    fragments::follow(ctx, 0, &mut original, SCOPE_PUBLISHED);
    let Some(service) = services::published(&original) else {
        return Ok(Verdict::Pass);
    };
    let Some(settings) = services::settings() else {
        return Ok(Verdict::Pass);
    };
    if !F::is_loopback(&original.dst) && !services::is_own::<F>(&original.dst) {
        return Ok(Verdict::Pass);
    }
    let vtep = F::join(&settings.prefix, settings.vtep.low_be());
    let seen = Tuple {
        src: vtep,
        dst: vtep,
        ..original
    };
    ingress::balance(ctx, settings, service, &original, &seen, Client::Process)
}
