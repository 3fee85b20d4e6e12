//! The answer to a packet that nobody is there for: a reset (RFC 9293), or that its port is unreachable. What is left of
//! a flow whose task has gone ends so, and not in silence.

use aya_ebpf::programs::TcContext;
use mesh_common::{
    DropReason, Verdict, checksum,
    wire::{ETH_LEN, TCP},
};

use crate::{
    family::{Family, TCP_LEN},
    maps,
    mem::{self, Packet as _},
    packet::Tuple,
    tunnel::store,
};

/// Its length in words of 32 bits, as it stands in the header.
const OFFSET: u8 = 5 << 4;
/// TCP flags.
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Goes on in the program that answers a packet of a task's overlay link. Comes back before user space has put the
/// program there.
#[inline(always)]
pub fn answer<F: Family>(ctx: &TcContext) {
    mem::continue_in(&maps::TC_MORE, ctx, F::MORE + mesh_common::MORE_REFUSED);
}

/// The program.
#[inline(always)]
pub fn run<F: Family>(ctx: &TcContext) -> Result<Verdict, DropReason> {
    const NOBODY: DropReason = DropReason::NoEndpoint;
    mem::pull(ctx, F::HEADERS);
    let tuple = F::parse(ctx, 0).ok_or(NOBODY)?;
    // A reset is not answered, nor what is for many, nor what does not show whose it is.
    let answerable = tuple.ports && tuple.l4 as usize == F::HEADER_LEN && !tuple.resets();
    if !answerable || F::is_martian(&tuple.dst) {
        return Err(NOBODY);
    }
    let to = mem::bytes::<6>(ctx, 0).ok_or(NOBODY)?;
    let from = mem::bytes::<6>(ctx, 6).ok_or(NOBODY)?;
    if tuple.protocol == TCP {
        reset(ctx, &tuple)?;
    } else {
        F::no_port(ctx, &tuple)?;
    }
    store(ctx, 0, &from)?;
    store(ctx, 6, &to)?;
    mem::to_egress(ctx.ifindex());
    Ok(Verdict::Answered)
}

/// Makes a TCP segment the reset that answers it, behind its Ethernet header.
#[inline(always)]
fn reset<F: Family>(ctx: &TcContext, tuple: &Tuple<F>) -> Result<(), DropReason> {
    let at = ETH_LEN + F::HEADER_LEN;
    let seq = mem::u32_at(ctx, at + 4).ok_or(DropReason::NoEndpoint)?;
    let ack = mem::u32_at(ctx, at + 8).ok_or(DropReason::NoEndpoint)?;
    let [offset, had] = mem::bytes::<2>(ctx, at + 12).ok_or(DropReason::NoEndpoint)?;
    let (seq, ack, flags) = if had & ACK != 0 {
        (ack, 0, RST)
    } else {
        let length = F::transport_length(ctx, ETH_LEN, tuple.l4).ok_or(DropReason::NoEndpoint)?;
        let data = u32::from(length).wrapping_sub(u32::from(offset >> 4) * 4);
        let marks = u32::from(had & SYN != 0) + u32::from(had & FIN != 0);
        let next = u32::from_be(seq).wrapping_add(data).wrapping_add(marks);
        (0, next.to_be(), RST | ACK)
    };
    let answer = tuple.reply();
    let ([p0, p1], [q0, q1]) = (answer.sport.to_ne_bytes(), answer.dport.to_ne_bytes());
    let ([s0, s1, s2, s3], [a0, a1, a2, a3]) = (seq.to_ne_bytes(), ack.to_ne_bytes());
    let mut header = [
        p0, p1, q0, q1, s0, s1, s2, s3, a0, a1, a2, a3, OFFSET, flags, 0, 0, 0, 0, 0, 0,
    ];
    let sum = mem::sum(&header)? + u64::from(F::pseudo(&answer, TCP_LEN as u16));
    let check = (!checksum::fold(sum)).to_ne_bytes();
    (header[16], header[17]) = (check[0], check[1]);
    mem::trim(ctx, F::HEADERS)?;
    F::answer(ctx, tuple, TCP, TCP_LEN)?;
    store(ctx, at, &header)
}
