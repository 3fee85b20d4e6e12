//! Virtual addresses at the socket. A task that connects or sends to one has the address of a task behind it put
//! in its place, once, before there is any packet: nothing is left to translate, to remember or to time out on the
//! way. What asks a socket for its peer is told the virtual address again.
//!
//! Which network an address is on follows from the socket's network namespace, so that networks with equal subnets
//! stay apart. The tables have a network's IPv6 addresses under the IPv4 ones in their last 32 bits; what is kept with
//! sockets has them as the sockets do. What sockets do not see (ICMP, raw sockets, a service without backends) goes on to `overlay`.

use aya_ebpf::{macros::cgroup_sock_addr, maps::lpm_trie::Key, programs::SockAddrContext};
use mesh_common::{
    Addr, AddrKey, Connected, DATAGRAMS_BACK, DATAGRAMS_OUT, Datagram, DatagramKey, Pool,
    ScopedAddr, TABLE_DATAGRAMS, flow_hash, wire::TCP, wire::UDP,
};

use crate::{
    maps, mem,
    services::{self, Choice},
    sockaddr::{self, Family, V4, V6},
};

/// The call goes on, with the address as it is now.
const PROCEED: i32 = 1;
/// Type of stream sockets.
const SOCK_STREAM: u32 = 1;
/// Type of datagram sockets.
const SOCK_DGRAM: u32 = 2;
/// All bits of a [`ScopedAddr`].
const WHOLE: u32 = 192;

/// TCP and UDP `connect()`.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect::<V4>(&ctx)
}

/// The same for IPv6 sockets, mapped IPv4 addresses included.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    connect::<V6>(&ctx)
}

/// UDP `sendto()`, `sendmsg()` with an address; of an IPv6 socket too, if the address is a mapped IPv4 one.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    sendmsg::<V4>(&ctx)
}

/// The same for IPv6 addresses.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    sendmsg::<V6>(&ctx)
}

/// UDP `recvfrom()`, `recvmsg()`.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    recvmsg::<V4>(&ctx)
}

/// The same for IPv6 sockets, mapped IPv4 addresses included.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    recvmsg::<V6>(&ctx)
}

/// `getpeername()`.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    getpeername::<V4>(&ctx)
}

/// The same for IPv6 sockets, mapped IPv4 addresses included.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    getpeername::<V6>(&ctx)
}

/// What a call is about: an address on a network of the calling task.
struct Target {
    vni: u32,
    address: Addr,
    /// The virtual address's backends; none if the address is a task's own.
    pool: Option<&'static Pool>,
}

/// The address of the call; `None` if it is on none of the task's networks.
#[inline(always)]
fn target<F: Family>(ctx: &SockAddrContext) -> Option<Target> {
    let address = F::address(ctx);
    let seen = ScopedAddr {
        cookie: sockaddr::namespace(ctx),
        address,
    };
    let vni = *maps::NAMESPACES.get(Key::new(WHOLE, seen))?;
    let key = AddrKey {
        vni,
        address: address.low(),
    };
    let pool = mem::get(&maps::VIPS, &key);
    Some(Target { vni, address, pool })
}

/// A backend that takes new flows, each as likely as the others; with affinity, the one of the calling task.
#[inline(always)]
fn choose(ctx: &SockAddrContext, pool: &Pool) -> Option<Choice> {
    let hash = if pool.affinity_s == 0 {
        sockaddr::random()
    } else {
        let [low, high] = sockaddr::namespace(ctx);
        flow_hash(low, high, 0, 0, 0)
    };
    services::draw(pool, hash)
}

#[inline(always)]
fn connect<F: Family>(ctx: &SockAddrContext) -> i32 {
    let (kind, protocol) = sockaddr::kind(ctx);
    let known = (kind == SOCK_STREAM && protocol == u32::from(TCP))
        || (kind == SOCK_DGRAM && protocol == u32::from(UDP));
    if known && !connect_to_vip::<F>(ctx, protocol) {
        // The socket may have been connected to a virtual address before.
        sockaddr::disconnect(ctx);
    }
    PROCEED
}

/// Connects to a backend, if the address is a virtual one that has any.
#[inline(always)]
fn connect_to_vip<F: Family>(ctx: &SockAddrContext, protocol: u32) -> bool {
    let Some(Target {
        vni,
        address,
        pool: Some(pool),
    }) = target::<F>(ctx)
    else {
        return false;
    };
    let Some(choice) = choose(ctx, pool) else {
        return false;
    };
    let backend = address.with_low(choice.backend.low_be());
    let port_be = sockaddr::port_be(ctx);
    let noted = sockaddr::connect(
        ctx,
        &Connected {
            vip: address,
            backend,
            vni,
            pool: pool.id,
            port_be,
            pad: [0; 2],
        },
    );
    if !noted {
        return false;
    }
    if protocol == u32::from(UDP) {
        // The kernel does not tell user space what is kept with UDP sockets. This entry is for user space only.
        let key = DatagramKey {
            cookie: sockaddr::socket(ctx),
            address,
            port_be,
            way: DATAGRAMS_OUT,
            pad: 0,
        };
        let kept = Datagram {
            address: backend,
            vni,
            pool: pool.id,
        };
        note(&key, &kept);
    }
    F::set(ctx, &backend);
    services::count_flow(&choice);
    true
}

#[inline(always)]
fn sendmsg<F: Family>(ctx: &SockAddrContext) -> i32 {
    let Some(target) = target::<F>(ctx) else {
        return PROCEED;
    };
    let port_be = sockaddr::port_be(ctx);
    let mut key = DatagramKey {
        cookie: sockaddr::socket(ctx),
        address: target.address,
        port_be,
        way: DATAGRAMS_BACK,
        pad: 0,
    };
    let Some(pool) = target.pool else {
        // The answer comes from the address that was asked, even if it answered for a virtual one before.
        if mem::get_flow(&maps::DATAGRAMS, &key).is_some() {
            mem::remove(&maps::DATAGRAMS, TABLE_DATAGRAMS, &key);
        }
        return PROCEED;
    };
    // A connected socket hears nobody but whom it is connected to.
    if let Some(peer) = sockaddr::connected(ctx)
        && peer.vip.same(&target.address)
        && peer.port_be == port_be
    {
        F::set(ctx, &peer.backend);
        return PROCEED;
    }
    key.way = DATAGRAMS_OUT;
    let backend = match mem::get_flow(&maps::DATAGRAMS, &key) {
        Some(kept) if services::endpoint(target.vni, kept.address.low()).is_some() => kept.address,
        _ => {
            let Some(choice) = choose(ctx, pool) else {
                return PROCEED;
            };
            let backend = target.address.with_low(choice.backend.low_be());
            let kept = Datagram {
                address: backend,
                vni: target.vni,
                pool: pool.id,
            };
            if !note(&key, &kept) {
                return PROCEED;
            }
            services::count_flow(&choice);
            backend
        }
    };
    key.way = DATAGRAMS_BACK;
    key.address = backend;
    let known = mem::get_flow(&maps::DATAGRAMS, &key)
        .is_some_and(|kept| kept.address.same(&target.address));
    if !known {
        let kept = Datagram {
            address: target.address,
            vni: target.vni,
            pool: pool.id,
        };
        if !note(&key, &kept) {
            return PROCEED;
        }
    }
    F::set(ctx, &backend);
    PROCEED
}

/// Keeps what a socket talks to. Whether the kernel took it.
#[inline(always)]
fn note(key: &DatagramKey, kept: &Datagram) -> bool {
    let new = mem::get_flow(&maps::DATAGRAMS, key).is_none();
    mem::keep(&maps::DATAGRAMS, TABLE_DATAGRAMS, key, kept, new)
}

#[inline(always)]
fn recvmsg<F: Family>(ctx: &SockAddrContext) -> i32 {
    if peer_is_vip::<F>(ctx) {
        return PROCEED;
    }
    let key = DatagramKey {
        cookie: sockaddr::socket(ctx),
        address: F::address(ctx),
        port_be: sockaddr::port_be(ctx),
        way: DATAGRAMS_BACK,
        pad: 0,
    };
    if let Some(kept) = mem::get_flow(&maps::DATAGRAMS, &key) {
        F::set(ctx, &kept.address);
    }
    PROCEED
}

#[inline(always)]
fn getpeername<F: Family>(ctx: &SockAddrContext) -> i32 {
    peer_is_vip::<F>(ctx);
    PROCEED
}

/// Puts the virtual address that the socket was connected to in the place of the backend's.
#[inline(always)]
fn peer_is_vip<F: Family>(ctx: &SockAddrContext) -> bool {
    let Some(peer) = sockaddr::connected(ctx) else {
        return false;
    };
    let found = !peer.vip.same(&Addr::NONE)
        && peer.backend.same(&F::address(ctx))
        && peer.port_be == sockaddr::port_be(ctx);
    if found {
        F::set(ctx, &peer.vip);
    }
    found
}
