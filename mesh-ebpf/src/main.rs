//! The eBPF programs of the data plane. Files in the order a packet meets them:
//!
//! ```text
//!   wire --> uplink_xdp --> uplink_tc ------------------------> task
//!               |  ^           |  (out of VXLAN, DNAT)            |
//!               v  |           v                                  v
//!          VXLAN to another  stack, mesh-vxlan (uplink_tc::device)
//!          node, and back                                         |
//!                                                                 |
//!   wire <-- tunnel <-- overlay (another task, a virtual address) +
//!   wire <-- nat    <-- gateway (replies, calls of published ports, the way out)
//!   lo   --> loopback (the node's own processes) --> task or tunnel
//!
//!   a task's connect(), sendmsg() to a virtual address --> sockets --> the same to a task's own address
//! ```
//!
//! `ingress` balances published ports for all tc programs, `services` chooses backends, `hops` knows neighbours for
//! XDP, `nat` rewrites, `tunnel` encapsulates, `mss` lowers what TCP announces, `paths`
//! knows what routers between nodes take, `answer`, `discovery` and `refused`
//! reply in place, `extensions` and `fragments` find ports where they are not in their usual place. `family` is what differs between IPv4 and IPv6; a program that meets IPv6 goes on in its twin, which
//! has a stack of its own. `maps` has all maps, `mem` all unsafe code but that of socket calls, which is in `sockaddr`.
//!
//! The kernel's verifier follows every way through a program, and through what is inlined into it, from where it came.
//! A function with an unmangled name it verifies once, for any arguments: what multiplies ways (options, extension
//! headers, fragments, rewriting) is in such functions. What does not fit into their arguments is in `maps::Scratch`.
//!
//! Every packet ends in a [`Verdict`] or a [`DropReason`], which only `xdp` and `tc` below count and translate, and
//! which `trace` tells of when it is asked.
#![no_std]
#![no_main]

mod answer;
mod discovery;
mod extensions;
mod family;
mod fragments;
mod gateway;
mod hops;
mod icmp;
mod ingress;
mod loopback;
mod maps;
mod mem;
mod messages;
mod mss;
mod nat;
mod overlay;
mod packet;
mod paths;
mod refused;
mod services;
mod sockaddr;
mod sockets;
mod too_big;
mod trace;
mod tunnel;
mod uplink_tc;
mod uplink_xdp;

use aya_ebpf::{
    bindings::{TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use mesh_common::{DropReason, Link, Place, Verdict, node_mac, wire};

use crate::{
    family::{V4, V6},
    mem::Packet as _,
};

/// On every uplink that can run XDP.
#[xdp]
pub fn uplink_xdp(ctx: XdpContext) -> u32 {
    let length = ctx.length();
    let redirect = services::settings().is_some_and(|settings| settings.redirect != 0);
    xdp(
        &ctx,
        uplink_xdp::run(&ctx),
        length,
        redirect.then(|| ctx.ifindex()),
    )
}

/// Where `uplink_xdp` goes on with IPv6.
#[xdp]
pub fn uplink_xdp_v6(ctx: XdpContext) -> u32 {
    let length = ctx.length();
    let redirect = services::settings().is_some_and(|settings| settings.redirect != 0);
    xdp(
        &ctx,
        uplink_xdp::run_v6(&ctx),
        length,
        redirect.then(|| ctx.ifindex()),
    )
}

/// On every uplink, ingress.
#[classifier]
pub fn uplink_tc(ctx: TcContext) -> i32 {
    tc(&ctx, Place::UplinkTc, uplink_tc::run(&ctx), ctx.len())
}

/// On the device that encrypts, ingress.
#[classifier]
pub fn cipher_tc(ctx: TcContext) -> i32 {
    tc(&ctx, Place::UplinkTc, uplink_tc::decrypted(&ctx), ctx.len())
}

/// Where `uplink_tc` goes on with IPv6.
#[classifier]
pub fn uplink_tc_v6(ctx: TcContext) -> i32 {
    tc(&ctx, Place::UplinkTc, uplink_tc::run_v6(&ctx), ctx.len())
}

/// On the tunnel device, ingress.
#[classifier]
pub fn tunnel_tc(ctx: TcContext) -> i32 {
    tc(&ctx, Place::Tunnel, uplink_tc::device(&ctx), ctx.len())
}

/// Where `tunnel_tc` goes on with IPv6.
#[classifier]
pub fn tunnel_tc_v6(ctx: TcContext) -> i32 {
    tc(&ctx, Place::Tunnel, uplink_tc::device_v6(&ctx), ctx.len())
}

/// On the tunnel device, egress: what the agent sends.
#[classifier]
pub fn probe_tc(ctx: TcContext) -> i32 {
    tc(&ctx, Place::Tunnel, tunnel::probe(&ctx), ctx.len())
}

/// On the host end of a task's overlay link, ingress: what the task sends.
#[classifier]
pub fn overlay_tc(ctx: TcContext) -> i32 {
    tc(&ctx, Place::Overlay, on_link(&ctx, overlay::run), ctx.len())
}

/// Where `overlay_tc` goes on with IPv6.
#[classifier]
pub fn overlay_tc_v6(ctx: TcContext) -> i32 {
    tc(
        &ctx,
        Place::Overlay,
        on_link(&ctx, overlay::run_v6),
        ctx.len(),
    )
}

/// On the host end of a task's gateway link, ingress: what the task sends.
#[classifier]
pub fn gateway_tc(ctx: TcContext) -> i32 {
    tc(&ctx, Place::Gateway, on_link(&ctx, gateway::run), ctx.len())
}

/// Where `gateway_tc` goes on with IPv6.
#[classifier]
pub fn gateway_tc_v6(ctx: TcContext) -> i32 {
    tc(
        &ctx,
        Place::Gateway,
        on_link(&ctx, gateway::run_v6),
        ctx.len(),
    )
}

/// On the loopback interface, ingress.
#[classifier]
pub fn loopback_tc(ctx: TcContext) -> i32 {
    tc(&ctx, Place::Loopback, loopback::run(&ctx), ctx.len())
}

/// Where `loopback_tc` goes on with IPv6.
#[classifier]
pub fn loopback_tc_v6(ctx: TcContext) -> i32 {
    tc(&ctx, Place::Loopback, loopback::run_v6(&ctx), ctx.len())
}

/// Where `uplink_tc` goes on with ICMP errors.
#[classifier]
pub fn uplink_error(ctx: TcContext) -> i32 {
    tc(&ctx, Place::UplinkTc, icmp::uplink::<V4>(&ctx), ctx.len())
}

/// Where `uplink_tc_v6` does.
#[classifier]
pub fn uplink_error_v6(ctx: TcContext) -> i32 {
    tc(&ctx, Place::UplinkTc, icmp::uplink::<V6>(&ctx), ctx.len())
}

/// Where `uplink_tc` goes on with ICMP errors in tunnels.
#[classifier]
pub fn tunnel_error(ctx: TcContext) -> i32 {
    tc(&ctx, Place::UplinkTc, icmp::tunnel::<V4>(&ctx), ctx.len())
}

/// Where `uplink_tc_v6` does.
#[classifier]
pub fn tunnel_error_v6(ctx: TcContext) -> i32 {
    tc(&ctx, Place::UplinkTc, icmp::tunnel::<V6>(&ctx), ctx.len())
}

/// Where `overlay_tc` goes on with ICMP errors.
#[classifier]
pub fn overlay_error(ctx: TcContext) -> i32 {
    tc(
        &ctx,
        Place::Overlay,
        on_link(&ctx, icmp::overlay::<V4>),
        ctx.len(),
    )
}

/// Where `overlay_tc_v6` does.
#[classifier]
pub fn overlay_error_v6(ctx: TcContext) -> i32 {
    tc(
        &ctx,
        Place::Overlay,
        on_link(&ctx, icmp::overlay::<V6>),
        ctx.len(),
    )
}

/// Where `gateway_tc` goes on with ICMP errors.
#[classifier]
pub fn gateway_error(ctx: TcContext) -> i32 {
    tc(
        &ctx,
        Place::Gateway,
        on_link(&ctx, icmp::gateway::<V4>),
        ctx.len(),
    )
}

/// Where `gateway_tc_v6` does.
#[classifier]
pub fn gateway_error_v6(ctx: TcContext) -> i32 {
    tc(
        &ctx,
        Place::Gateway,
        on_link(&ctx, icmp::gateway::<V6>),
        ctx.len(),
    )
}

/// Where all tc programs go on with packets that are too big for a tunnel.
#[classifier]
pub fn too_big(ctx: TcContext) -> i32 {
    let length = ctx.len();
    tc(&ctx, too_big::place(&ctx), too_big::run::<V4>(&ctx), length)
}

/// Where those for IPv6 do.
#[classifier]
pub fn too_big_v6(ctx: TcContext) -> i32 {
    let length = ctx.len();
    tc(&ctx, too_big::place(&ctx), too_big::run::<V6>(&ctx), length)
}

/// Where `overlay_tc` goes on with packets that nobody is there for.
#[classifier]
pub fn refused(ctx: TcContext) -> i32 {
    tc(&ctx, Place::Overlay, refused::run::<V4>(&ctx), ctx.len())
}

/// Where `overlay_tc_v6` does.
#[classifier]
pub fn refused_v6(ctx: TcContext) -> i32 {
    tc(&ctx, Place::Overlay, refused::run::<V6>(&ctx), ctx.len())
}

/// Where all tc programs go on with packets that are traced.
#[classifier]
pub fn trace_tc(ctx: TcContext) -> i32 {
    trace::run(&ctx) as i32
}

/// Where the XDP programs do.
#[xdp]
pub fn trace_xdp(ctx: XdpContext) -> u32 {
    trace::run(&ctx)
}

/// Does nothing: what the others are measured against.
#[xdp]
pub fn empty_xdp(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Does nothing: what the others are measured against.
#[classifier]
pub fn empty_tc(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// For benches: `uplink_xdp` with the packet put back, to run again and again on the same one.
#[xdp]
pub fn again_xdp(ctx: XdpContext) -> u32 {
    let length = ctx.length();
    let outcome = uplink_xdp::run(&ctx);
    let grown = match outcome {
        Ok(Verdict::Forwarded) => wire::OVERHEAD as i32,
        Ok(Verdict::Returned) => -(wire::OVERHEAD as i32),
        _ => 0,
    };
    let action = xdp(&ctx, outcome, length, None);
    if mem::adjust_head(&ctx, grown).is_err() {
        return xdp_action::XDP_ABORTED;
    }
    if grown < 0 {
        // The one header that was written over and matters.
        let vtep = mem::u32_at(&ctx, wire::ETH_LEN + 16).unwrap_or(0);
        let _ = mem::write(&ctx, wire::OVERHEAD, node_mac(vtep));
    }
    action
}

/// For benches: what `again_xdp` does beside running `uplink_xdp`.
#[xdp]
pub fn undo_xdp(ctx: XdpContext) -> u32 {
    if mem::adjust_head(&ctx, 0).is_err() {
        return xdp_action::XDP_ABORTED;
    }
    xdp_action::XDP_PASS
}

/// Runs a program of a task's link with the link's entry.
#[inline(always)]
fn on_link(
    ctx: &TcContext,
    run: impl FnOnce(&TcContext, u32, &Link) -> Result<Verdict, DropReason>,
) -> Result<Verdict, DropReason> {
    let ifindex = ctx.ifindex();
    let link = mem::get(&maps::LINKS, &ifindex).ok_or(DropReason::UnknownLink)?;
    run(ctx, ifindex, link)
}

/// Counts an outcome and says it in XDP's words. `redirect`: the interface to send by, where `XDP_TX` will not do.
#[inline(always)]
fn xdp(
    ctx: &XdpContext,
    outcome: Result<Verdict, DropReason>,
    length: u32,
    redirect: Option<u32>,
) -> u32 {
    let (index, action) = match outcome {
        Ok(verdict @ (Verdict::Pass | Verdict::Handover)) => (verdict as u32, xdp_action::XDP_PASS),
        Ok(verdict) => {
            if let Some(ifindex) = redirect {
                mem::to_egress(ifindex);
                (verdict as u32, xdp_action::XDP_REDIRECT)
            } else {
                (verdict as u32, xdp_action::XDP_TX)
            }
        }
        Err(reason) => (reason as u32, xdp_action::XDP_DROP),
    };
    mem::count(&maps::VERDICTS, Place::UplinkXdp.counter(index), length);
    trace::xdp(ctx, index, action);
    action
}

/// Counts an outcome and says it in tc's words.
#[inline(always)]
fn tc(ctx: &TcContext, place: Place, outcome: Result<Verdict, DropReason>, length: u32) -> i32 {
    let (index, action) = match outcome {
        Ok(verdict @ (Verdict::Pass | Verdict::Handover)) => (verdict as u32, TC_ACT_UNSPEC),
        Ok(verdict) => (verdict as u32, TC_ACT_REDIRECT as i32),
        Err(reason) => (reason as u32, TC_ACT_SHOT as i32),
    };
    mem::count(&maps::VERDICTS, place.counter(index), length);
    trace::tc(ctx, place, index, action);
    action
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
