//! The address of a socket call and what is kept with its socket. The unsafe code of the socket programs.

use aya_ebpf::{EbpfContext as _, helpers::generated as kernel, programs::SockAddrContext};
use mesh_common::{Addr, Connected};

use crate::maps;

/// IPv4 or IPv6: where in the context the address of the call is.
pub trait Family {
    /// The address of the call.
    fn address(ctx: &SockAddrContext) -> Addr;
    /// Replaces it.
    fn set(ctx: &SockAddrContext, address: &Addr);
}

/// Calls on `AF_INET` addresses.
pub struct V4;

/// Calls on `AF_INET6` addresses, mapped IPv4 ones included.
pub struct V6;

// The context is only reached by loads and stores of whole words at constant offsets, which `volatile` keeps apart.

impl Family for V4 {
    #[inline(always)]
    fn address(ctx: &SockAddrContext) -> Addr {
        // SAFETY: the kernel hands over a valid context.
        Addr::v4_be(unsafe { (&raw const (*ctx.sock_addr).user_ip4).read_volatile() })
    }

    #[inline(always)]
    fn set(ctx: &SockAddrContext, address: &Addr) {
        // SAFETY: as above; the field may be written.
        unsafe { (&raw mut (*ctx.sock_addr).user_ip4).write_volatile(address.low_be()) }
    }
}

impl Family for V6 {
    #[inline(always)]
    fn address(ctx: &SockAddrContext) -> Addr {
        // SAFETY: the kernel hands over a valid context.
        let word = |i: usize| unsafe { (&raw const (*ctx.sock_addr).user_ip6[i]).read_volatile() };
        Addr {
            words_be: [word(0), word(1), word(2), word(3)],
        }
    }

    #[inline(always)]
    fn set(ctx: &SockAddrContext, address: &Addr) {
        let [a, b, c, d] = address.words_be;
        // SAFETY: the kernel hands over a valid context; the field may be written.
        let word = |i: usize, value| unsafe {
            (&raw mut (*ctx.sock_addr).user_ip6[i]).write_volatile(value);
        };
        word(0, a);
        word(1, b);
        word(2, c);
        word(3, d);
    }
}

/// The port of the call, as on the wire.
#[inline(always)]
pub fn port_be(ctx: &SockAddrContext) -> u16 {
    // SAFETY: the kernel hands over a valid context.
    unsafe { (&raw const (*ctx.sock_addr).user_port).read_volatile() as u16 }
}

/// Type (`SOCK_*`) and IP protocol of the socket.
#[inline(always)]
pub fn kind(ctx: &SockAddrContext) -> (u32, u32) {
    // SAFETY: the kernel hands over a valid context.
    unsafe {
        (
            (&raw const (*ctx.sock_addr).type_).read_volatile(),
            (&raw const (*ctx.sock_addr).protocol).read_volatile(),
        )
    }
}

/// Cookie of the socket's network namespace, in halves.
#[inline(always)]
pub fn namespace(ctx: &SockAddrContext) -> [u32; 2] {
    // SAFETY: takes the kernel's own context.
    halves(unsafe { kernel::bpf_get_netns_cookie(ctx.as_ptr()) })
}

/// Cookie of the socket, in halves.
#[inline(always)]
pub fn socket(ctx: &SockAddrContext) -> [u32; 2] {
    // SAFETY: takes the kernel's own context.
    halves(unsafe { kernel::bpf_get_socket_cookie(ctx.as_ptr()) })
}

/// Little endian, as the programs' target is.
#[inline(always)]
const fn halves(cookie: u64) -> [u32; 2] {
    [cookie as u32, (cookie >> 32) as u32]
}

/// A random number.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: takes nothing.
    unsafe { kernel::bpf_get_prandom_u32() }
}

/// What the socket is really connected to.
#[inline(always)]
pub fn connected(ctx: &SockAddrContext) -> Option<&Connected> {
    // SAFETY: the kernel hands over a valid context with a socket; the value lives as long as the socket, which
    // the call at hand holds.
    unsafe { maps::SOCKETS.get_ptr_mut(ctx).as_ref() }
}

/// Notes what the socket is really connected to. Whether there was memory for it.
#[inline(always)]
pub fn connect(ctx: &SockAddrContext, value: &Connected) -> bool {
    // SAFETY: as in `connected`; calls on one socket's address are made under its lock.
    unsafe {
        let Some(kept) = maps::SOCKETS.get_or_insert_ptr_mut(ctx, None).as_mut() else {
            return false;
        };
        *kept = *value;
    }
    true
}

/// Notes that the socket is connected to no virtual address any more.
#[inline(always)]
pub fn disconnect(ctx: &SockAddrContext) {
    // SAFETY: as in `connect`.
    unsafe {
        if let Some(kept) = maps::SOCKETS.get_ptr_mut(ctx).as_mut() {
            kept.vip = Addr::NONE;
        }
    }
}
