//! The largest segment that each end of a TCP connection announces (RFC 9293, section 3.7.1): lowered to what fits the
//! tunnel that it crosses, at both of the tunnel's ends, so that no segment is too big for either.

use aya_ebpf::programs::{TcContext, XdpContext};
use mesh_common::{
    DropReason, Settings, checksum,
    wire::{ETH_LEN, OVERHEAD},
};

use crate::{
    family::{Family, TCP_LEN},
    mem::{self, Packet},
    packet::Tuple,
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

/// Largest segment that fits a tunnel by this node's uplink.
#[inline(always)]
fn most<F: Family>(packet: &impl Packet, settings: &Settings) -> u16 {
    let mtu = mem::mtu(packet, settings.uplink);
    let most = mtu.saturating_sub((OVERHEAD + F::HEADER_LEN + TCP_LEN) as u32);
    if mtu == 0 || most > u32::from(u16::MAX) {
        u16::MAX
    } else {
        most as u16
    }
}

/// In tc: lowers what the packet announces, if it opens a connection.
#[inline(always)]
pub fn clamp<F: Family>(
    ctx: &TcContext,
    settings: &Settings,
    tuple: &Tuple<F>,
) -> Result<(), DropReason> {
    if !tuple.opens() || lower(ctx, ETH_LEN + tuple.l4 as usize, most::<F>(ctx, settings)) {
        Ok(())
    } else {
        Err(DropReason::Kernel)
    }
}

/// Lowers the announcement in the TCP header at `tcp`, if there is one above `most`. Whether the kernel did it.
#[inline(never)]
fn lower(ctx: &TcContext, tcp: usize, most: u16) -> bool {
    let Some([length]) = ctx.fetch::<1>(tcp + LENGTH) else {
        return true;
    };
    let end = tcp + (length >> 4) as usize * 4;
    let mut at = tcp + TCP_LEN;
    let mut walked = 0;
    while walked < OPTIONS && at + MSS_LEN as usize <= end {
        let Some([kind, length, high, low]) = ctx.fetch::<4>(at) else {
            return true;
        };
        match kind {
            END => return true,
            NO_OPERATION => at += 1,
            MSS if length == MSS_LEN => {
                let old = u16::from_be_bytes([high, low]);
                return old <= most || replace(ctx, tcp, at + 2, old, most);
            }
            _ if length < 2 => return true,
            _ => at += length as usize,
        }
        walked += 1;
    }
    true
}

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
/// than fits, be it that it has just been lowered. If not, tc has to look for the option.
#[inline(always)]
pub fn clamp_first<F: Family>(
    ctx: &XdpContext,
    settings: &Settings,
    eth: usize,
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
    let (old, most) = (u16::from_be_bytes([high, low]), most::<F>(ctx, settings));
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
