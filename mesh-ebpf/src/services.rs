//! Which backend a flow goes to. The same answer from XDP, tc and every node, as the rows are the same everywhere.

use mesh_common::{
    Addr, AddrKey, BACKEND_ACTIVE, Conn, Endpoint, FlowKey, LINE_WORDS, Pool, Published, Row,
    SETTLE_S, Settings, TABLE_CONNS, TABLE_CONNS_ANY, port_bit, port_index, slot_of, wire,
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
    index: u32,
    there: u32,
}

impl Choice {
    /// Whether the task takes new flows.
    #[inline(always)]
    fn is_active(&self) -> bool {
        self.there == BACKEND_ACTIVE
    }

    /// As an entry has it.
    #[inline(always)]
    fn conn(&self) -> Conn {
        Conn {
            address: self.backend,
            index: self.index,
        }
    }

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

/// Whether an address is this node's. Most clients ask for the one that the other nodes know.
#[inline(always)]
pub fn is_own<F: Family>(address: &F::Address) -> bool {
    let key = F::key(address);
    settings().is_some_and(|settings| settings.vtep.same(&key))
        || mem::get(&maps::OWN, &key).is_some()
}

/// Whether an address is another node's tunnel end point.
#[inline(always)]
pub fn is_peer(address_be: u32) -> bool {
    mem::get(&maps::PEERS, &Addr::v4_be(address_be)).is_some()
}

/// Largest packet that another node's wire takes, from its IP header on; no limit for what is not known, and no node.
#[inline(always)]
pub fn peer_mtu(address: &Addr) -> u32 {
    match mem::get(&maps::PEERS, address) {
        Some(peer) if peer.mtu != 0 => peer.mtu,
        _ => u32::MAX,
    }
}

/// The device that encrypts for another node; zero if there is none.
#[inline(always)]
pub fn peer_cipher(address_be: u32) -> u32 {
    mem::get(&maps::PEERS, &Addr::v4_be(address_be)).map_or(0, |peer| peer.cipher)
}

/// Whether a packet is a tunnel's to this node.
#[inline(always)]
pub fn is_tunnel(settings: &Settings, tuple: &Tuple<V4>) -> bool {
    tuple.protocol == wire::UDP
        && tuple.dport == settings.vxlan_port_be
        && tuple.dst == settings.vtep.low_be()
}

/// Whether a port, as it stands in the packet, is published.
#[inline(always)]
pub fn is_published(protocol: u8, port_be: u16) -> bool {
    if protocol == wire::SCTP {
        return sctp_entry(port_be.into()) != NONE;
    }
    let (word, bit) = port_bit(protocol, u16::from_be(port_be));
    maps::PORTS.get(word).is_some_and(|bits| bits & bit != 0)
}

/// The service behind a published port, if the destination port of this packet is one.
#[inline(always)]
pub fn published<F: Family>(tuple: &Tuple<F>) -> Option<&'static Published> {
    if !tuple.ports || !is_published(tuple.protocol, tuple.dport) {
        return None;
    }
    service(tuple)
}

/// As [`published`], where most ports are.
#[inline(always)]
pub fn service<F: Family>(tuple: &Tuple<F>) -> Option<&'static Published> {
    if !tuple.ports {
        return None;
    }
    if tuple.protocol == wire::SCTP {
        return maps::PUBLISHED.get(sctp_entry(tuple.dport.into()));
    }
    let port = u16::from_be(tuple.dport);
    let entry = *maps::ENTRY_OF.get(port_index(tuple.protocol, port))?;
    // None, zero, becomes an index past the end.
    maps::PUBLISHED.get(entry.wrapping_sub(1))
}

/// Entry of a published port of SCTP, as it stands in the packet; `NONE` if it is not one. Verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sctp_entry(port_be: u32) -> u32 {
    mem::get(&maps::SCTP_PORTS, &(port_be as u16)).map_or(NONE, |entry| *entry)
}

/// No index: past the end of `BACKENDS` and `PUBLISHED`. (An `Option` would be compared in a way that the verifier does not follow.)
const NONE: u32 = u32::MAX;

/// A word of `ROWS`, counted from a line.
#[inline(always)]
fn word(line: u32, number: u32) -> Option<u32> {
    let line = mem::line(line.wrapping_add(number / LINE_WORDS))?;
    line.words.get((number % LINE_WORDS) as usize).copied()
}

/// Index of the backend that a row gives, or `NONE`.
#[inline(always)]
fn draw_from(row: &Row, hash: u32) -> u32 {
    if row.slots == 0 {
        return NONE;
    }
    row_index(
        row.slots_at,
        row.list_at,
        slot_of(hash, row.slots),
        row.wide,
    )
}

/// What the list of a [`Row`] has for the number in a slot, or `NONE`. Verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn row_index(slots_at: u32, list_at: u32, slot: u32, wide: u32) -> u32 {
    let wide = wide & 1;
    let (number, bit) = Row::place(slot, wide);
    let Some(slots) = word(slots_at, number) else {
        return NONE;
    };
    word(list_at, (slots >> bit) & Row::mask(wide)).unwrap_or(NONE)
}

/// The backend with an index, if it is there and the pool's.
#[inline(always)]
fn backend(pool: &Pool, index: u32) -> Option<Choice> {
    let backend = maps::BACKENDS.get(index)?;
    if backend.there == 0 || backend.pool != pool.id {
        return None;
    }
    Some(Choice {
        backend: backend.address,
        endpoint: &backend.endpoint,
        there: backend.there,
        index,
    })
}

/// Whether clients still go where the row before the last change sends them.
#[inline(always)]
fn is_held(pool: &Pool) -> bool {
    pool.affinity_s != 0
        && u64::from(mem::now_s()) < pool.changed_s.saturating_add(u64::from(pool.affinity_s))
}

/// The backend that a pool's row has for `hash`: the current one, or for clients that keep theirs the previous.
#[inline(always)]
pub fn draw(pool: &Pool, hash: u32) -> Option<Choice> {
    if is_held(pool)
        && let Some(choice) = backend(pool, draw_from(&pool.previous, hash))
        && choice.is_active()
    {
        return Some(choice);
    }
    backend(pool, draw_from(&pool.current, hash))
}

/// Chooses a backend.
///
/// A flow has an entry only where one is needed: of TCP while the current and the previous row disagree about it (then a
/// new connection follows the current row, and an open one the row it began under) or if affinity is so short that the
/// previous row may be forgotten early, of all else always.
/// `keep` asks for an entry in any case.
#[inline(always)]
pub fn choose<F: Family>(
    pool: &Pool,
    key: &FlowKey,
    tuple: &Tuple<F>,
    keep: bool,
) -> Option<Choice> {
    if tuple.protocol == wire::TCP {
        choose_connection(pool, key, tuple, keep)
    } else {
        choose_any(pool, key, tuple)
    }
}

/// [`choose`] for TCP.
#[inline(always)]
fn choose_connection<F: Family>(
    pool: &Pool,
    key: &FlowKey,
    tuple: &Tuple<F>,
    keep: bool,
) -> Option<Choice> {
    let keep = keep || (1..SETTLE_S).contains(&pool.affinity_s);
    // Without a previous row there are no entries but those kept in any case.
    let known = if keep || pool.previous.slots != 0 {
        mem::get_flow(&maps::CONNS, key)
    } else {
        None
    };
    // A SYN begins anew, even if an earlier connection had the same ports.
    if !tuple.is_first()
        && let Some(conn) = known
        && let Some(choice) = kept(pool, conn)
    {
        return Some(choice);
    }
    let hash = hash(pool, tuple);
    let current = draw_from(&pool.current, hash);
    let previous = draw_from(&pool.previous, hash);
    let disagree = previous != NONE && previous != current;
    if disagree
        && (!tuple.is_first() || is_held(pool))
        && let Some(choice) = backend(pool, previous)
        && (!tuple.is_first() || choice.is_active())
    {
        let new = known.is_none();
        // A refusal only costs this flow its memory; the row still answers.
        mem::keep(&maps::CONNS, TABLE_CONNS, key, &choice.conn(), new);
        return Some(choice);
    }
    let choice = backend(pool, current)?;
    // What an earlier connection left would lead the packets after the SYN astray.
    if keep || disagree || known.is_some() {
        let new = known.is_none();
        mem::keep(&maps::CONNS, TABLE_CONNS, key, &choice.conn(), new);
    }
    Some(choice)
}

/// [`choose`] for all but TCP, whose packets do not tell which one is a flow's first. It is counted where its entry is
/// made: the next program that gets the very packet finds the entry.
#[inline(always)]
fn choose_any<F: Family>(pool: &Pool, key: &FlowKey, tuple: &Tuple<F>) -> Option<Choice> {
    let known = mem::get_flow(&maps::CONNS_ANY, key);
    if let Some(conn) = known
        && let Some(choice) = kept(pool, conn)
    {
        return Some(choice);
    }
    let choice = draw(pool, hash(pool, tuple))?;
    let new = known.is_none();
    mem::keep(&maps::CONNS_ANY, TABLE_CONNS_ANY, key, &choice.conn(), new);
    count_flow(&choice);
    Some(choice)
}

/// The backend of an entry, if it is still there and the pool's.
#[inline(always)]
fn kept(pool: &Pool, conn: &Conn) -> Option<Choice> {
    backend(pool, conn.index).filter(|choice| choice.backend.same(&conn.address))
}

/// What a packet's slot is found by.
#[inline(always)]
fn hash<F: Family>(pool: &Pool, tuple: &Tuple<F>) -> u32 {
    if pool.affinity_s == 0 {
        tuple.hash()
    } else {
        tuple.client_hash()
    }
}

/// Counts a client's packet to a backend, and the connection that it begins.
#[inline(always)]
pub fn count<F: Family>(choice: &Choice, packet: &impl Packet, tuple: &Tuple<F>) {
    if let Some(counter) = mem::own(&maps::COUNTERS, choice.index) {
        counter.flows += u64::from(tuple.is_first());
        counter.packets += 1;
        counter.bytes += u64::from(packet.length());
    }
}

/// Counts a flow to a backend whose packets are not seen. A program of sockets may be preempted by one of packets,
/// which at worst costs one count.
#[inline(always)]
pub fn count_flow(choice: &Choice) {
    if let Some(counter) = mem::own(&maps::COUNTERS, choice.index) {
        counter.flows += 1;
    }
}
