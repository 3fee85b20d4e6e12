//! How large packets the routers on the way to another node take, as they say about tunnel packets (RFC 1191). Known for
//! some minutes, so that a way that takes more again is found.

use aya_ebpf::programs::TcContext;
use mesh_common::{
    Addr, PATH_KEPT_S, PATH_MTU_LEAST, PathMtu, Settings,
    wire::{ETH_LEN, ETHERTYPE_IPV4_BE, IPV4_LEN, UDP},
};

use crate::{family::Family, maps, mem, packet::Tuple, services};

/// Type and code of "fragmentation needed" (RFC 792).
const TOO_BIG: [u8; 2] = [3, 4];
/// Where an ICMP message of IPv4 is, and behind its header the packet that it quotes.
const MESSAGE: usize = ETH_LEN + IPV4_LEN;
const QUOTE: usize = MESSAGE + 8;

/// Largest packet for the node at `peer_be` that routers take; no limit where none has said so lately. Verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn path_mtu(peer_be: u32) -> u32 {
    to(&Addr::v4_be(peer_be))
}

/// The same by address; no limit for what is no node either.
#[inline(always)]
pub fn to(address: &Addr) -> u32 {
    match known(address) {
        Some(path) => path.mtu,
        None => u32::MAX,
    }
}

#[inline(always)]
fn known(peer: &Addr) -> Option<&'static PathMtu> {
    let path = mem::get_flow(&maps::PATHS, peer)?;
    ((path.until_s.wrapping_sub(mem::now_s()) as i32) > 0).then_some(path)
}

/// Whether an ICMP error is about `packet`, a tunnel packet of this node's. If it says that a router takes smaller ones
/// only, that is remembered, also of what may be an encrypted one: that goes between ports of each node's own.
#[inline(always)]
pub fn learn<F: Family>(ctx: &TcContext, settings: &Settings, packet: &Tuple<F>) -> bool {
    let peer = F::key(&packet.dst);
    let is_tunnel = packet.dport == settings.vxlan_port_be;
    if F::ETHERTYPE_BE != ETHERTYPE_IPV4_BE
        || packet.protocol != UDP
        || !is_tunnel && settings.cipher == 0
        || !settings.vtep.same(&F::key(&packet.src))
        || !services::is_peer(peer.low_be())
    {
        return false;
    }
    remember(ctx, &peer);
    is_tunnel
}

/// Anybody can forge such a message, but not make it count for more than a packet that was too big, nor for less than
/// what every link takes.
#[inline(always)]
fn remember(ctx: &TcContext, peer: &Addr) -> Option<()> {
    let [kind, code, _, _, _, _, high, low] = mem::bytes::<8>(ctx, MESSAGE)?;
    let sent = u32::from(u16::from_be(mem::u16_at(ctx, QUOTE + 2)?));
    // Routers from before RFC 1191 say zero.
    let mtu = u32::from(u16::from_be_bytes([high, low])).max(PATH_MTU_LEAST);
    if [kind, code] != TOO_BIG || mtu >= sent || known(peer).is_some_and(|path| path.mtu < mtu) {
        return None;
    }
    let path = PathMtu {
        mtu,
        until_s: mem::now_s().wrapping_add(PATH_KEPT_S),
    };
    // Without room, the next message is as good.
    let _ = maps::PATHS.insert(peer, &path, 0);
    Some(())
}
