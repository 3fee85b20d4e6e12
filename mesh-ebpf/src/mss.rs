//! The largest segment that each end of a TCP connection announces (RFC 9293, section 3.7.1): lowered to what fits the
//! tunnel that it crosses, at both of the tunnel's ends, so that no segment is too big for either.

use aya_ebpf::{
    bindings::__sk_buff,
    programs::{TcContext, XdpContext},
};
use mesh_common::{
    DropReason, Settings, checksum,
    wire::{ETH_LEN, OVERHEAD},
};

use crate::{
    family::{Family, TCP_LEN},
    mem::{self, Packet},
    packet::Tuple,
    paths, too_big,
    tunnel::store,
};

/// Kinds of TCP options.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
/// Length of the MSS option.
const MSS_LEN: u8 = 4;
/// Options looked at. Senders put this one first; where it is further back, packets that are too big are answered.
const OPTIONS: usize = 10;
/// Where a TCP header has its length, in words in the upper four bits, and its checksum.
const LENGTH: usize = 12;
const CHECKSUM: usize = 16;

/// Largest segment that fits a tunnel that takes packets of `mtu` bytes; zero: any.
#[inline(always)]
fn most<F: Family>(mtu: u32) -> u16 {
    let most = mtu.saturating_sub((OVERHEAD + F::HEADER_LEN + TCP_LEN) as u32);
    if mtu == 0 || most > u32::from(u16::MAX) {
        u16::MAX
    } else {
        most as u16
    }
}

/// In tc: lowers what the packet announces to what fits a tunnel by `device` to the node at `peer_be`, if it opens a
/// connection.
#[inline(always)]
pub fn clamp<F: Family>(
    ctx: &TcContext,
    device: u32,
    peer_be: u32,
    tuple: &Tuple<F>,
) -> Result<(), DropReason> {
    if !tuple.opens() {
        return Ok(());
    }
    let tcp = ETH_LEN as u32 + u32::from(tuple.l4);
    let most = most::<F>(too_big::tunnel_mtu(ctx.skb.skb, device, peer_be, u32::MAX));
    if lower_mss(ctx.skb.skb, tcp, most.into()) != 0 {
        Ok(())
    } else {
        Err(DropReason::Kernel)
    }
}

/// Lowers the announcement in the TCP header at `tcp`, if there is one above `most`. One unless the kernel refused to.
/// Verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lower_mss(skb: *mut __sk_buff, tcp: u32, most: u32) -> u32 {
    let ctx = TcContext::new(skb);
    let (tcp, most) = (tcp as usize, most as u16);
    let Some([length]) = ctx.fetch::<1>(tcp + LENGTH) else {
        return 1;
    };
    let end = tcp + (length >> 4) as usize * 4;
    let mut at = tcp + TCP_LEN;
    let mut walked = 0;
    while walked < OPTIONS && at + MSS_LEN as usize <= end {
        let option = tcp_option(skb, at as u32);
        if option & FOUND != 0 {
            let old = option as u16;
            return (old <= most || replace(&ctx, tcp, at + 2, old, most)).into();
        }
        if option == 0 {
            return 1;
        }
        at += (option as u8) as usize;
        walked += 1;
    }
    1
}

/// The length of the TCP option at `at`; zero: there are no more. If it is the announcement,
/// `FOUND` and its value. Verified once, or each option would multiply the ways through [`lower_mss`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tcp_option(skb: *mut __sk_buff, at: u32) -> u32 {
    let ctx = TcContext::new(skb);
    let Some([kind, length, high, low]) = ctx.fetch::<4>(at as usize) else {
        return 0;
    };
    match kind {
        END => 0,
        NO_OPERATION => 1,
        MSS if length == MSS_LEN => FOUND | u32::from(u16::from_be_bytes([high, low])),
        _ if length < 2 => 0,
        _ => length.into(),
    }
}

/// See [`tcp_option`].
const FOUND: u32 = 1 << 16;

/// Overwrites the announcement at `at`. Behind an odd number of bytes its own count in the sum the other way round.
#[inline(always)]
fn replace(ctx: &TcContext, tcp: usize, at: usize, old: u16, new: u16) -> bool {
    let summed = |value: u16| {
        u64::from(if (at - tcp) & 1 == 0 {
            value.to_be()
        } else {
            value.to_be().swap_bytes()
        })
    };
    ctx.l4_csum_replace(tcp + CHECKSUM, summed(old), summed(new), 2)
        .is_ok()
        && store(ctx, at, &new.to_be()).is_ok()
}

/// In XDP: whether the packet, whose Ethernet header is at `eth` and whose IP header is a plain one, announces no more
/// than fits a tunnel to the node at `peer_be`, be it that it has just been lowered. If not, tc has to look for the option.
#[inline(always)]
pub fn clamp_first<F: Family>(
    ctx: &XdpContext,
    settings: &Settings,
    eth: usize,
    peer_be: u32,
    tuple: &Tuple<F>,
) -> bool {
    let tcp = eth + ETH_LEN + F::HEADER_LEN;
    if !tuple.opens() || mem::u8_at(ctx, tcp + LENGTH).is_some_and(|length| length >> 4 <= 5) {
        return true;
    }
    let Some(option) = mem::u32_at(ctx, tcp + TCP_LEN) else {
        return false;
    };
    let [kind, length, high, low] = option.to_ne_bytes();
    if kind != MSS || length != MSS_LEN {
        return false;
    }
    let mtu = mem::mtu(ctx, settings.uplink).min(paths::path_mtu(peer_be));
    let (old, most) = (u16::from_be_bytes([high, low]), most::<F>(mtu));
    if old <= most {
        return true;
    }
    let Some(check) = mem::u16_at(ctx, tcp + CHECKSUM) else {
        return false;
    };
    let check = checksum::update(check, old.to_be(), most.to_be());
    mem::write_u16(ctx, tcp + TCP_LEN + 2, most.to_be()).is_ok()
        && mem::write_u16(ctx, tcp + CHECKSUM, check).is_ok()
}
