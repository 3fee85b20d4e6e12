//! A packet of one of this node's own processes to itself: `curl localhost:80`, `curl own-address:80`.
//! The process appears to tasks under the tunnel end point's address, which every node can answer.

use aya_ebpf::programs::TcContext;
use mesh_common::{DropReason, Verdict, wire::is_loopback_be};

use crate::{
    ingress::{self, Client},
    mem, overlay,
    packet::{self, Tuple},
    services,
};

/// The program.
#[inline(always)]
pub fn run(ctx: &TcContext) -> Result<Verdict, DropReason> {
    mem::pull(ctx, overlay::HEADERS);
    let Some(original) = packet::ipv4(ctx, 0) else {
        return Ok(Verdict::Pass);
    };
    let Some(service) = services::published(&original) else {
        return Ok(Verdict::Pass);
    };
    let Some(settings) = services::settings() else {
        return Ok(Verdict::Pass);
    };
    if !is_loopback_be(original.dst) && !services::is_own(original.dst) {
        return Ok(Verdict::Pass);
    }
    let vtep = settings.vtep.low_be();
    let seen = Tuple {
        src: vtep,
        dst: vtep,
        ..original
    };
    ingress::balance(ctx, settings, service, &seen, Client::Process(original))
}
