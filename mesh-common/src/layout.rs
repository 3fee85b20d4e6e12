//! Keys and values of the maps. `repr(C)`, explicit padding, sizes asserted; `_be` is network byte order.

use crate::{Addr, Prefix};

/// [`Link::kind`]: on an overlay network.
pub const LINK_OVERLAY: u8 = 1;
/// [`Link::kind`]: to the outside and from published ports.
pub const LINK_GATEWAY: u8 = 2;

/// [`Nat::kind`]: the other side is beyond the uplink [`Nat::ifindex`].
pub const NAT_UPLINK: u8 = 1;
/// [`Nat::kind`]: the other side is reached through the node [`Nat::peer`].
pub const NAT_PEER: u8 = 2;
/// [`Nat::kind`]: the other side is the task behind link [`Nat::ifindex`].
pub const NAT_LINK: u8 = 3;
/// [`Nat::kind`]: the other side is a process of this node, on its loopback interface.
pub const NAT_LOOPBACK: u8 = 4;
/// [`Nat::kind`]: as [`NAT_PEER`], but the other side may be sent to without that node: see `DIRECT`.
pub const NAT_DIRECT: u8 = 5;

/// Index in the program arrays: what handles IPv6 on uplinks.
pub const V6_UPLINK: u32 = 0;
/// On the tunnel device.
pub const V6_TUNNEL: u32 = 1;
/// On overlay links.
pub const V6_OVERLAY: u32 = 2;
/// On gateway links.
pub const V6_GATEWAY: u32 = 3;
/// On the loopback interface.
pub const V6_LOOPBACK: u32 = 4;
/// Length of the program arrays.
pub const V6_PROGRAMS: u32 = 5;

/// First index in `TC_MORE` of the programs for IPv4; the others are added to it.
pub const MORE_V4: u32 = 0;
/// First index in `TC_MORE` of the programs for IPv6.
pub const MORE_V6: u32 = 6;
/// ICMP errors that come in by an uplink, in no tunnel.
pub const MORE_UPLINK_ERROR: u32 = 0;
/// ICMP errors that tasks send on their overlay links.
pub const MORE_OVERLAY_ERROR: u32 = 1;
/// ICMP errors that tasks send on their gateway links.
pub const MORE_GATEWAY_ERROR: u32 = 2;
/// Answers to packets that are too big for a tunnel.
pub const MORE_TOO_BIG: u32 = 3;
/// ICMP errors that come out of tunnels.
pub const MORE_TUNNEL_ERROR: u32 = 4;
/// Answers to packets that nobody is there for.
pub const MORE_REFUSED: u32 = 5;
/// What tells user space of a packet, of either family.
pub const MORE_TRACE: u32 = 12;
/// Programs in `TC_MORE`.
pub const MORE_PROGRAMS: u32 = 13;
/// The same as [`MORE_TRACE`] in the array of XDP programs, which has only [`V6_UPLINK`] beside it.
pub const XDP_TRACE: u32 = 1;

/// [`PathMtu::mtu`] is at least this, from the outer IP header on: what every link takes that may carry IPv6 (RFC 8200,
/// section 5).
pub const PATH_MTU_LEAST: u32 = 1280;
/// For so many seconds what a router has said is believed (RFC 1191, section 6.3; Linux's `mtu_expires`).
pub const PATH_KEPT_S: u32 = 600;

/// Ports in a [`TraceFilter`].
pub const TRACE_PORTS: usize = 8;

/// [`FlowKey::scope`] below 1 << 24 is a VNI. This one: packets that a task sends on its gateway link.
pub const SCOPE_TASK: u32 = 1 << 24;
/// Replies that come back to this node, the ingress node, for a client inside it.
pub const SCOPE_RETURN: u32 = 2 << 24;
/// Packets of clients to published ports.
pub const SCOPE_PUBLISHED: u32 = 3 << 24;
/// Packets of clients whose port is taken at their task by another flow; only [`Nat::sport_be`] counts.
pub const SCOPE_PORT: u32 = 4 << 24;

/// [`Backend::there`]: open flows go on, new ones go elsewhere.
pub const BACKEND_DRAINING: u32 = 1;
/// [`Backend::there`]: takes new flows.
pub const BACKEND_ACTIVE: u32 = 2;

/// A UDP or SCTP flow is over when the client has been silent for so long; Linux's own conntrack says 120 s for streams.
const UDP_IDLE_S: u32 = 120;
/// As for UDP, for a connection whose end nobody saw.
const TCP_IDLE_S: u32 = 86_400;
/// For so long a side that closed first remembers a connection (`TCP_TIMEWAIT_LEN`), and refuses another between the
/// same addresses and ports unless its numbers continue the old one's (RFC 9293, section 3.10.7.4; RFC 6191).
const TIME_WAIT_S: u32 = 60;

/// How long the row before a change stays [`Pool::previous`] while further changes follow, in seconds: with affinity as long
/// as clients are held to it, if that is shorter. A connection without an entry is found again if it sends a packet within
/// this time of the first change; the price is an entry per new connection on the slots that differ. Where affinity is
/// shorter, every connection has an entry instead.
pub const SETTLE_S: u32 = 3600;

/// [`DatagramKey::way`]: from the socket to a virtual address.
pub const DATAGRAMS_OUT: u8 = 1;
/// [`DatagramKey::way`]: from a task to the socket.
pub const DATAGRAMS_BACK: u8 = 2;

/// Index in `TABLES`: `CONNS`.
pub const TABLE_CONNS: u32 = 0;
/// Index in `TABLES`: `FLOWS`.
pub const TABLE_FLOWS: u32 = 1;
/// Index in `TABLES`: `FRAGMENTS`.
pub const TABLE_FRAGMENTS: u32 = 2;
/// Index in `TABLES`: `DATAGRAMS`.
pub const TABLE_DATAGRAMS: u32 = 3;
/// Index in `TABLES`: `CONNS_ANY`.
pub const TABLE_CONNS_ANY: u32 = 4;
/// Tables that only programs write, the least recently used entry making room for a new one.
pub const TABLES: u32 = 5;

/// Words of 64 bits in the bitmap of published ports: 1,024 for TCP, then as many for UDP.
pub const PORT_WORDS: u32 = 2 * 1024;

/// Ports there are: entries of `ENTRY_OF`.
pub const PORTS: u32 = PORT_WORDS * 64;

/// Index of a TCP or UDP port in `ENTRY_OF`. `port` in host byte order. SCTP has a table of its own.
#[inline(always)]
pub const fn port_index(protocol: u8, port: u16) -> u32 {
    let half = if protocol == crate::wire::TCP {
        0
    } else {
        PORTS / 2
    };
    half + port as u32
}

/// Word and bit of a port in the bitmap: see [`port_index`].
#[inline(always)]
pub const fn port_bit(protocol: u8, port: u16) -> (u32, u64) {
    let index = port_index(protocol, port);
    (index >> 6, 1 << (index & 63))
}

/// Words in a [`Line`]: 64 bytes, as the processor's cache has them.
pub const LINE_WORDS: u32 = 16;
/// Lines in each of the maps that `ROWS` is made of, which user space adds as it needs them: 1 MiB.
pub const CHUNK_LINES: u32 = 1 << 14;
/// Maps that `ROWS` may be made of: 1 GiB.
pub const CHUNKS: u32 = 1024;
/// Backends whose number fits a byte: a row with more has wide slots.
pub const NARROW_BACKENDS: u32 = 1 << 8;
/// Backends that a row has at most.
pub const ROW_BACKENDS: u32 = 1 << 16;

macro_rules! layouts {
    ($($(#[$doc:meta])* struct $name:ident($size:literal) { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
            pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
            const _: () = assert!(core::mem::size_of::<$name>() == $size);
            // No implicit padding: the fields fill the structure.
            const _: () = assert!(0 $(+ core::mem::size_of::<$type>())* == $size);
            // SAFETY: `repr(C)`, `Copy`, no references, and no padding (asserted above).
            #[cfg(feature = "user")]
            unsafe impl aya::Pod for $name {}
        )*
        // SAFETY: `repr(C)`, `Copy`, no references, sixteen bytes of plain words.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for Addr {}

        #[cfg(test)]
        mod tests {
            use super::*;

            #[test]
            fn layouts_have_no_holes() {
                $(assert_eq!(core::mem::size_of::<$name>(), $size, stringify!($name));)*
            }

            #[test]
            fn slots_do_not_overlap() {
                for wide in [0, 1] {
                    let mut next = 0;
                    for slot in 0..100 {
                        let (word, bit) = Row::place(slot, wide);
                        assert_eq!(word * 32 + bit, next);
                        next += Row::mask(wide).count_ones();
                        assert!(bit + Row::mask(wide).count_ones() <= 32);
                    }
                }
                assert_eq!(Row::lines(1, 1), (1, 1));
                assert_eq!(Row::lines(1009, 16), (16, 1));
                assert_eq!(Row::lines(65_521, 257), (2048, 17));
            }

            #[test]
            fn port_bits_are_unique_per_protocol() {
                assert_eq!(port_bit(6, 0), (0, 1));
                assert_eq!(port_bit(6, 65_535), (1023, 1 << 63));
                assert_eq!(port_bit(17, 64), (1025, 1));
            }
        }
    };
}

layouts! {
    /// The one entry of `SETTINGS`.
    struct Settings(48) {
        /// This node's tunnel end point.
        vtep: Addr,
        /// IPv6 of the ingress network and of all gateway links.
        prefix: Prefix,
        /// VNI of the ingress network.
        ingress_vni: u32,
        /// Interface index of the uplink that carries tunnels.
        uplink: u32,
        /// Interface index of the device that encrypts with this node's newest key; zero if there is none.
        cipher: u32,
        /// Likewise with the key before, while it is good; zero if there is none, or it is the same device.
        former_cipher: u32,
        /// UDP port of the tunnels.
        vxlan_port_be: u16,
        /// One: XDP answers by `XDP_REDIRECT` to the interface, not by `XDP_TX`. On a veth only the former wakes
        /// up a peer that has GRO on but no XDP program.
        redirect: u8,
        /// One: packets are traced.
        trace: u8,
    }

    /// Value of `PEERS`: another node, by its tunnel end point.
    struct Peer(8) {
        /// Largest packet that its wire takes, from the IP header on; zero if it does not say.
        mtu: u32,
        /// Interface index of the device that encrypts for it; zero if there is none.
        cipher: u32,
    }

    /// The one entry of `TRACE_FILTER`: which packets are traced. Either end may be the one that is meant.
    struct TraceFilter(40) {
        /// An end's address; none: any.
        client: Addr,
        /// An end's port is one of these, the zeros at the end aside; without any: all packets.
        ports_be: [u16; TRACE_PORTS],
        /// IP protocol number; zero: any.
        protocol: u8,
        /// Zero.
        pad: [u8; 7],
    }

    /// Value of `TRACED`, one per CPU: from a program that has come to a verdict to the one that tells of it.
    struct Traced(80) {
        /// Packets that there was no room to tell of.
        lost: u64,
        /// What the program answers in its hook's own numbers.
        action: u32,
        /// Zero.
        pad: [u8; 4],
        /// What is known so far.
        event: TraceEvent,
    }

    /// In `TRACE_EVENTS`: a packet and what became of it, as it stood after the verdict.
    struct TraceEvent(64) {
        /// Nanoseconds of the monotonic clock.
        time_ns: u64,
        /// Source address, inside the tunnel.
        src: Addr,
        /// Destination address, inside the tunnel.
        dst: Addr,
        /// Source port; zero if it has none.
        sport_be: u16,
        /// Destination port; zero if it has none.
        dport_be: u16,
        /// Interface that it came in by.
        ifindex: u32,
        /// The other node, if the packet is in a tunnel: its tunnel end point's IPv4 address.
        peer_be: u32,
        /// Bytes, with Ethernet and tunnel headers.
        length: u32,
        /// IP protocol number.
        protocol: u8,
        /// A [`Place`](crate::Place).
        place: u8,
        /// A [`Verdict`](crate::Verdict) or [`DropReason`](crate::DropReason).
        outcome: u8,
        /// Flags of TCP.
        flags: u8,
        /// Zero.
        pad: [u8; 4],
    }

    /// A port that may be published.
    struct PortKey(4) {
        /// Published port.
        port_be: u16,
        /// IP protocol number.
        protocol: u8,
        /// Zero.
        pad: u8,
    }

    /// A line of `ROWS`.
    struct Line(64) {
        /// Slots or indices, see [`Row`]: the lowest bits come first.
        words: [u32; LINE_WORDS as usize],
    }

    /// Where a Maglev row is in `ROWS`: slots, and the list of the backends that they name.
    struct Row(16) {
        /// First line of the slots. A slot is the number of a backend in the list, in a byte or in two.
        slots_at: u32,
        /// Slots; zero without backends.
        slots: u32,
        /// First line of the list: a word for each backend, its index in `BACKENDS`.
        list_at: u32,
        /// One: a slot has two bytes.
        wide: u32,
    }

    /// A set of backends.
    struct Pool(48) {
        /// The row by which new flows go.
        current: Row,
        /// The row that flows without an entry began under, if there was one; the current one, once that has been dropped.
        previous: Row,
        /// When the current row was written: seconds of the monotonic clock.
        changed_s: u64,
        /// Names the set in `BACKENDS`.
        id: u32,
        /// A client's flows go to one backend, the previous row's for so many seconds after a change; zero: each for
        /// itself.
        affinity_s: u32,
    }

    /// Entry of `PUBLISHED`.
    struct Published(56) {
        /// The service's tasks on the ingress network.
        pool: Pool,
        /// Port in the task.
        target_be: u16,
        /// One: replies may go straight to clients: see [`asked_mac`](crate::asked_mac).
        direct: u8,
        /// Zero.
        pad: [u8; 5],
    }

    /// Value of `PATHS`: what routers on the way to another node take.
    struct PathMtu(8) {
        /// Largest packet in bytes, from its IP header on.
        mtu: u32,
        /// Not known from then on: seconds of the monotonic clock, modulo 2^32.
        until_s: u32,
    }

    /// Key of `ENDPOINTS` and `VIPS`. IPv4 throughout: see [`Prefix`].
    struct AddrKey(20) {
        /// VXLAN network identifier, host byte order.
        vni: u32,
        /// Address on that network.
        address: Addr,
    }

    /// Value of `ENDPOINTS`: where a task address is.
    struct Endpoint(28) {
        /// Tunnel end point of its node; none if it is on this one.
        peer: Addr,
        /// Interface index of its link's host end; zero if it is on another node.
        ifindex: u32,
        /// Its MAC.
        mac: [u8; 6],
        /// One: its network is encrypted between nodes.
        encrypted: u8,
        /// Zero.
        pad: u8,
    }

    /// Value of `LINKS`, by interface index of the host end.
    struct Link(40) {
        /// The task's address on the link.
        address: Addr,
        /// IPv6 on the link.
        prefix: Prefix,
        /// VNI; zero on a gateway link.
        vni: u32,
        /// The task's MAC.
        mac: [u8; 6],
        /// One of the `LINK_` constants.
        kind: u8,
        /// One: the network is encrypted between nodes.
        encrypted: u8,
    }

    /// Key of `CONNS`, `CONNS_ANY` and `FLOWS`.
    struct FlowKey(44) {
        /// A VNI or one of the `SCOPE_` constants.
        scope: u32,
        /// Source address.
        src: Addr,
        /// Destination address.
        dst: Addr,
        /// Source port.
        sport_be: u16,
        /// Destination port.
        dport_be: u16,
        /// IP protocol number.
        protocol: u8,
        /// Zero.
        pad: [u8; 3],
    }

    /// Value of `BACKENDS`: a task behind a pool. Rows, flows and counters know it by its index.
    struct Backend(52) {
        /// Address on the pool's network; none if the entry is free.
        address: Addr,
        /// Where it is.
        endpoint: Endpoint,
        /// [`Pool::id`].
        pool: u32,
        /// One of the `BACKEND_` constants; zero once the task is gone, while a row still refers to the entry.
        there: u32,
    }

    /// Value of `CONNS` and `CONNS_ANY`: the backend of a flow that has an entry.
    struct Conn(20) {
        /// Address on the pool's network.
        address: Addr,
        /// Index in `BACKENDS`, where another task may have followed meanwhile.
        index: u32,
    }

    /// Value of `FLOWS`: what a packet with that key is rewritten to, and where it goes.
    struct Nat(68) {
        /// Source address afterwards.
        src: Addr,
        /// Destination address afterwards.
        dst: Addr,
        /// Node to go through, with `NAT_PEER` and `NAT_DIRECT`.
        peer: Addr,
        /// Source port afterwards.
        sport_be: u16,
        /// Destination port afterwards.
        dport_be: u16,
        /// Interface, with `NAT_UPLINK` and `NAT_LINK`.
        ifindex: u32,
        /// MAC of the task, with `NAT_LINK`.
        mac: [u8; 6],
        /// One of the `NAT_` constants.
        kind: u8,
        /// One after a FIN from the other side or an RST: see [`Nat::is_over`] and [`Nat::is_forgotten`].
        closed: u8,
        /// When the other side last sent a packet: seconds of the monotonic clock, modulo 2^32.
        seen_s: u32,
    }

    /// Value of `FRAGMENTS`: what the first fragment of a packet said. The key is a `FlowKey` with the halves of the
    /// packet's identification in place of ports.
    struct Fragment(8) {
        /// Source port.
        sport_be: u16,
        /// Destination port.
        dport_be: u16,
        /// When it came: seconds of the monotonic clock, modulo 2^32.
        seen_s: u32,
    }

    /// Key of `NAMESPACES`, behind a prefix length in bits: an address as seen from a network namespace.
    struct ScopedAddr(24) {
        /// The namespace's cookie, its two halves as they lie in memory; matched as a whole.
        cookie: [u32; 2],
        /// First address of a subnet, or an address to look up.
        address: Addr,
    }

    /// Value of `SOCKETS`: what a socket that was connected to a virtual address is really connected to.
    struct Connected(44) {
        /// The virtual address; none if the socket is connected to none.
        vip: Addr,
        /// The chosen task's address.
        backend: Addr,
        /// VNI of both.
        vni: u32,
        /// [`Pool::id`] of the virtual address.
        pool: u32,
        /// Port of both.
        port_be: u16,
        /// Zero.
        pad: [u8; 2],
    }

    /// Key of `DATAGRAMS`: an address that an unconnected UDP socket talks to.
    struct DatagramKey(28) {
        /// The socket's cookie, its two halves as they lie in memory.
        cookie: [u32; 2],
        /// The virtual address on the way out, the task's on the way back.
        address: Addr,
        /// Port of both.
        port_be: u16,
        /// One of the `DATAGRAMS_` constants.
        way: u8,
        /// Zero.
        pad: u8,
    }

    /// Value of `DATAGRAMS`.
    struct Datagram(24) {
        /// What the key's address is replaced by.
        address: Addr,
        /// VNI of both.
        vni: u32,
        /// [`Pool::id`] of the virtual address.
        pool: u32,
    }

    /// Value of `COUNTERS`, one per CPU, by index in `BACKENDS`.
    struct Counter(24) {
        /// Flows begun: SYNs of TCP; of all else entries made, again after an eviction.
        flows: u64,
        /// Packets from clients.
        packets: u64,
        /// Bytes from clients, with Ethernet headers.
        bytes: u64,
    }

    /// Value of `TABLES`, one per CPU, by the `TABLE_` constants. The kernel does not tell what it evicts: that is what was
    /// inserted, and neither removed nor is still there.
    struct TableCount(24) {
        /// Entries with a new key.
        inserted: u64,
        /// Entries that a program has removed.
        removed: u64,
        /// Entries that the kernel refused to insert.
        refused: u64,
    }

    /// Value of `VERDICTS`, one per CPU, by [`Place::counter`](crate::Place::counter).
    struct VerdictCount(16) {
        /// Packets.
        packets: u64,
        /// Bytes, with Ethernet headers.
        bytes: u64,
    }
}

impl Row {
    /// Where a slot is: a word, counted from the row's first, and the bit that it begins at.
    #[inline(always)]
    pub const fn place(slot: u32, wide: u32) -> (u32, u32) {
        let byte = slot << wide;
        (byte >> 2, (byte & 3) << 3)
    }

    /// The bits of a slot.
    #[inline(always)]
    pub const fn mask(wide: u32) -> u32 {
        0xff | (wide * 0xff00)
    }

    /// Lines that a row takes: those of its slots and those of its list.
    pub const fn lines(slots: u32, backends: u32) -> (u32, u32) {
        let wide = (backends > NARROW_BACKENDS) as u32;
        let words = (slots << wide).div_ceil(4);
        (words.div_ceil(LINE_WORDS), backends.div_ceil(LINE_WORDS))
    }
}

impl Nat {
    /// Whether the flow has ended. `now_s` as in [`Nat::seen_s`].
    #[inline(always)]
    pub const fn is_over(&self, protocol: u8, now_s: u32) -> bool {
        let limit = if protocol == crate::wire::TCP {
            TCP_IDLE_S
        } else {
            UDP_IDLE_S
        };
        self.closed != 0 || now_s.wrapping_sub(self.seen_s) > limit
    }

    /// Whether the flow has ended and the task has forgotten it, so that another client's SYN may take its place.
    /// `now_s` as in [`Nat::seen_s`].
    #[inline(always)]
    pub const fn is_forgotten(&self, protocol: u8, now_s: u32) -> bool {
        self.is_over(protocol, now_s) && now_s.wrapping_sub(self.seen_s) > TIME_WAIT_S
    }
}
