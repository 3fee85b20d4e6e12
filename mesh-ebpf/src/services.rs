//! Which backend a flow goes to. The same answer from XDP, tc and every node, as the rows are the same everywhere.

use mesh_common::{
    Addr, AddrKey, Conn, CounterKey, Endpoint, FlowKey, Pool, PortKey, Published, Settings,
    port_bit, wire,
};

use crate::{
    family::{Family, V4},
    maps,
    mem::{self, Packet},
    packet::Tuple,
};

/// A chosen backend and where it is.
#[derive(Clone, Copy)]
pub struct Choice {
    pub backend: Addr,
    pub endpoint: &'static Endpoint,
}

impl Choice {
    /// Whether the task is on this node.
    #[inline(always)]
    pub fn is_local(&self) -> bool {
        self.endpoint.ifindex != 0
    }
}

/// The node's settings; `None` before user space has written them.
#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    let settings = maps::SETTINGS.get(0)?;
    if settings.ingress_vni == 0 {
        None
    } else {
        Some(settings)
    }
}

/// The task that has an address on a network.
#[inline(always)]
pub fn endpoint(vni: u32, address: Addr) -> Option<&'static Endpoint> {
    mem::get(&maps::ENDPOINTS, &AddrKey { vni, address })
}

/// Whether an address is this node's.
#[inline(always)]
pub fn is_own<F: Family>(address: &F::Address) -> bool {
    mem::get(&maps::OWN, &F::key(address)).is_some()
}

/// Whether an address is another node's tunnel end point.
#[inline(always)]
pub fn is_peer(address_be: u32) -> bool {
    mem::get(&maps::PEERS, &Addr::v4_be(address_be)).is_some()
}

/// Whether a packet is a tunnel's to this node.
#[inline(always)]
pub fn is_tunnel(settings: &Settings, tuple: &Tuple<V4>) -> bool {
    tuple.protocol == wire::UDP
        && tuple.dport == settings.vxlan_port_be
        && tuple.dst == settings.vtep.low_be()
}

/// The service behind a published port, if the destination port of this packet is one.
#[inline(always)]
pub fn published<F: Family>(tuple: &Tuple<F>) -> Option<&'static Published> {
    if !tuple.ports {
        return None;
    }
    let (word, bit) = port_bit(tuple.protocol, u16::from_be(tuple.dport));
    if maps::PORTS.get(word)? & bit == 0 {
        return None;
    }
    let key = PortKey {
        port_be: tuple.dport,
        protocol: tuple.protocol,
        pad: 0,
    };
    mem::get(&maps::PUBLISHED, &key)
}

/// The backend in a row's slot for `hash`.
#[inline(always)]
pub fn slot(first: u32, length: u32, hash: u32) -> Option<&'static Addr> {
    if length == 0 {
        return None;
    }
    maps::ROWS.get(first.wrapping_add(hash % length))
}

/// Chooses a backend on network `vni`.
///
/// A flow has an entry only where one is needed: UDP, and TCP while the current and the previous row disagree
/// about it (then a new connection follows the current row, and an open one the row it began under).
/// `keep` asks for an entry in any case.
#[inline(always)]
pub fn choose<F: Family>(
    pool: &Pool,
    vni: u32,
    key: &FlowKey,
    tuple: &Tuple<F>,
    keep: bool,
) -> Option<Choice> {
    let known = mem::get_flow(&maps::CONNS, key);
    // A SYN begins anew, even if an earlier connection had the same ports.
    if !tuple.syn
        && let Some(conn) = known
    {
        let backend = conn.backend;
        if let Some(endpoint) = endpoint(vni, backend) {
            return Some(Choice { backend, endpoint });
        }
    }
    let hash = tuple.hash();
    let current = slot(pool.current, pool.current_len, hash);
    let previous = slot(pool.previous, pool.previous_len, hash);
    // What an earlier connection left would lead the packets after the SYN astray.
    let mut entry = keep || tuple.protocol != wire::TCP || known.is_some();
    let mut chosen = current;
    if let Some(old) = previous
        && !current.is_some_and(|new| new.same(old))
    {
        entry = true;
        if !tuple.begins() && endpoint(vni, *old).is_some() {
            chosen = Some(old);
        }
    }
    let backend = *chosen?;
    let endpoint = endpoint(vni, backend)?;
    if entry {
        // A full table only costs this flow its memory; the row still answers.
        let _ = maps::CONNS.insert(key, Conn { backend }, 0);
    }
    Some(Choice { backend, endpoint })
}

/// Counts a client's packet to a backend.
#[inline(always)]
pub fn count(pool: &Pool, choice: &Choice, packet: &impl Packet, new_flow: bool) {
    let key = CounterKey {
        pool: pool.id,
        backend: choice.backend,
    };
    mem::count_backend(&maps::COUNTERS, &key, new_flow, packet.length());
}
