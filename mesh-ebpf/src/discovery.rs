//! Neighbour discovery (RFC 4861): what ARP is for IPv4.

use aya_ebpf::programs::TcContext;
use mesh_common::{
    Addr, AddrKey, DropReason, LINK_GATEWAY, Link, Verdict, checksum, mac_of,
    wire::{ETH_LEN, GATEWAY_BE, GATEWAY_V6, ICMPV6, IPV6_LEN, is_link_local_v6},
};

use crate::{
    family::{Family as _, V6},
    maps, mem,
    overlay::sent_by,
    packet::Tuple,
    services,
    tunnel::store,
};

/// ICMPv6 types.
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// Option types; both options are eight bytes with an Ethernet address.
const SOURCE_ADDRESS: u8 = 1;
const TARGET_ADDRESS: u8 = 2;

/// Flags of an advertisement.
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Where the ICMPv6 header is, and in it the target and the option.
const ICMP: usize = ETH_LEN + IPV6_LEN;
const TARGET: usize = ICMP + 8;
const OPTION: usize = ICMP + 24;

/// Length of a solicitation without and with its option.
const BARE: u16 = 24;
const WITH_OPTION: u16 = 32;

/// Hop limit of all neighbour discovery: it has not been forwarded.
const HOP_LIMIT: u8 = 255;

/// Whether a packet asks for a neighbour.
#[inline(always)]
pub fn is_solicitation(ctx: &TcContext, tuple: &Tuple<V6>) -> bool {
    tuple.protocol == ICMPV6
        && tuple.l4 as usize == IPV6_LEN
        && mem::u8_at(ctx, ICMP) == Some(SOLICITATION)
}

/// Answers a solicitation from the tables: on a gateway link for the gateway, elsewhere for tasks and virtual
/// addresses.
#[inline(always)]
pub fn answer(
    ctx: &TcContext,
    ifindex: u32,
    link: &Link,
    tuple: &Tuple<V6>,
) -> Result<Verdict, DropReason> {
    let own = V6::join(&link.prefix, link.address.low_be());
    // A probe for a duplicate comes from no address, and there is no duplicate.
    if tuple.src.same(&Addr::NONE) {
        return Err(DropReason::NoEndpoint);
    }
    if !sent_by(ctx, link.mac) || !(tuple.src.same(&own) || is_link_local_v6(&tuple.src)) {
        return Err(DropReason::Spoofed);
    }
    let length = V6::transport_length(ctx, ETH_LEN, tuple.l4).ok_or(DropReason::Malformed)?;
    let hop_limit = mem::u8_at(ctx, ETH_LEN + 7).ok_or(DropReason::Malformed)?;
    let target = mem::addr_at(ctx, TARGET).ok_or(DropReason::Malformed)?;
    let option = length == WITH_OPTION
        && mem::bytes::<8>(ctx, OPTION)
            .is_some_and(|[kind, eights, ..]| kind == SOURCE_ADDRESS && eights == 1);
    if hop_limit != HOP_LIMIT || !(option || length == BARE) {
        return Err(DropReason::Malformed);
    }
    let mut flags = SOLICITED | OVERRIDE;
    let mac = if link.kind == LINK_GATEWAY {
        if !target.same(&GATEWAY_V6) {
            return Err(DropReason::NoEndpoint);
        }
        flags |= ROUTER;
        mac_of(GATEWAY_BE)
    } else {
        if target.same(&own) {
            return Err(DropReason::NoEndpoint);
        }
        let low = V6::low_be(&link.prefix, &target).ok_or(DropReason::NoEndpoint)?;
        let key = AddrKey {
            vni: link.vni,
            address: Addr::v4_be(low),
        };
        match services::endpoint(link.vni, key.address) {
            Some(endpoint) => endpoint.mac,
            None if mem::get(&maps::VIPS, &key).is_some() => mac_of(low),
            None => return Err(DropReason::NoEndpoint),
        }
    };
    let head = [ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    let [h0, h1, h2, h3, f0, f1, f2, f3] = head;
    let [m0, m1, m2, m3, m4, m5] = mac;
    let mut sum = checksum::pseudo_v6(&target, &tuple.src, ICMPV6, length) as u64
        + checksum::sum_v6(&target)
        + u64::from(u32::from_ne_bytes([h0, h1, h2, h3]))
        + u64::from(u32::from_ne_bytes([f0, f1, f2, f3]));
    if option {
        sum += u64::from(u32::from_ne_bytes([TARGET_ADDRESS, 1, m0, m1]))
            + u64::from(u32::from_ne_bytes([m2, m3, m4, m5]));
        store(ctx, OPTION, &[TARGET_ADDRESS, 1, m0, m1, m2, m3, m4, m5])?;
    }
    store(ctx, 0, &link.mac)?;
    store(ctx, 6, &mac)?;
    store(ctx, ETH_LEN + V6::SOURCE, &target)?;
    store(ctx, ETH_LEN + V6::SOURCE + V6::ADDRESS_LEN, &tuple.src)?;
    store(ctx, ICMP, &head)?;
    store(ctx, ICMP + 2, &!checksum::fold(sum))?;
    mem::to_egress(ifindex);
    Ok(Verdict::Answered)
}
