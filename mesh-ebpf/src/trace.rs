//! Tells user space of packets and what became of them, while it asks for that. When nobody asks, a program reads one
//! byte of the settings; when somebody does, it goes on in another program, which tells of the packet as it stands and
//! then answers in its place.

use aya_ebpf::programs::{TcContext, XdpContext};
use mesh_common::{
    Addr, MORE_TRACE, Place, Settings, TraceEvent, TraceFilter, XDP_TRACE,
    wire::{OVERHEAD, UDP},
};

use crate::{
    family::{Family, V4, V6},
    maps,
    mem::{self, Packet},
    packet::Tuple,
    services,
};

/// After a verdict in tc: goes on in the program that tells of the packet, if it is asked for.
#[inline(always)]
pub fn tc(ctx: &TcContext, place: Place, outcome: u32, action: i32) {
    if leave_word(place, outcome, action as u32) {
        mem::continue_in(&maps::TC_MORE, ctx, MORE_TRACE);
    }
}

/// After a verdict in XDP.
#[inline(always)]
pub fn xdp(ctx: &XdpContext, outcome: u32, action: u32) {
    if leave_word(Place::UplinkXdp, outcome, action) {
        mem::continue_in(&maps::XDP_V6, ctx, XDP_TRACE);
    }
}

#[inline(always)]
fn leave_word(place: Place, outcome: u32, action: u32) -> bool {
    if services::settings().is_none_or(|settings| settings.trace == 0) {
        return false;
    }
    let Some(traced) = mem::own(&maps::TRACED, 0) else {
        return false;
    };
    traced.action = action;
    traced.event.place = place as u8;
    traced.event.outcome = outcome as u8;
    true
}

/// The program: what it was left to answer. Zero, which lets a packet pass in tc and is an error in XDP, never happens:
/// the map has its one entry.
#[inline(always)]
pub fn run(packet: &impl Packet) -> u32 {
    let Some(traced) = mem::own(&maps::TRACED, 0) else {
        return 0;
    };
    let Some(settings) = services::settings() else {
        return traced.action;
    };
    let event = &mut traced.event;
    event.time_ns = mem::now_ns();
    event.ifindex = packet.ifindex();
    event.length = packet.length();
    event.peer_be = peer(packet, settings);
    let eth = if event.peer_be == 0 { 0 } else { OVERHEAD };
    if let Some(tuple) = V4::parse(packet, eth) {
        note(event, &tuple);
    } else if let Some(tuple) = V6::parse(packet, eth) {
        note(event, &tuple);
    } else {
        return traced.action;
    }
    trace_tell();
    traced.action
}

#[inline(always)]
fn note<F: Family>(event: &mut TraceEvent, tuple: &Tuple<F>) {
    event.src = F::key(&tuple.src);
    event.dst = F::key(&tuple.dst);
    event.sport_be = tuple.sport;
    event.dport_be = tuple.dport;
    event.protocol = tuple.protocol;
    event.flags = tuple.flags.0;
}

/// The other node, if the packet is in a tunnel; zero if it is in none.
#[inline(always)]
fn peer(packet: &impl Packet, settings: &Settings) -> u32 {
    let own = settings.vtep.low_be();
    match V4::parse(packet, 0) {
        Some(outer) if outer.protocol == UDP && outer.dport == settings.vxlan_port_be => {
            if outer.src == own {
                outer.dst
            } else if outer.dst == own {
                outer.src
            } else {
                0
            }
        }
        _ => 0,
    }
}

/// Tells of the packet at hand, if it is one of those that are asked for. Verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn trace_tell() -> u32 {
    let (Some(traced), Some(filter)) = (mem::own(&maps::TRACED, 0), maps::TRACE_FILTER.get(0))
    else {
        return 0;
    };
    let event = &traced.event;
    if !is_asked_for(filter, event) {
        return 0;
    }
    let Some(mut entry) = maps::TRACE_EVENTS.reserve::<TraceEvent>(0) else {
        traced.lost += 1;
        return 0;
    };
    entry.write(*event);
    entry.submit(0);
    1
}

#[inline(always)]
fn is_asked_for(filter: &TraceFilter, event: &TraceEvent) -> bool {
    let client = &filter.client;
    if !client.same(&Addr::NONE) && !client.same(&event.src) && !client.same(&event.dst) {
        return false;
    }
    if filter.protocol != 0 && filter.protocol != event.protocol {
        return false;
    }
    if filter.ports_be[0] == 0 {
        return true;
    }
    // Left at the first that fits: the verifier would follow each of both ways through all the others.
    for port in filter.ports_be {
        if port != 0 && (port == event.sport_be || port == event.dport_be) {
            return true;
        }
    }
    false
}
