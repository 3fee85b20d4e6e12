//! All maps. Pinned by name; user space writes them, except `CONNS`, `CONNS_ANY`, `FLOWS`, `FRAGMENTS`, `PATHS`, `SOCKETS`
//! and `DATAGRAMS`, which only programs write, and the counters.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, bpf_map_type::BPF_MAP_TYPE_ARRAY},
    btf_maps::{ArrayOfMaps, SkStorage},
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
};
use mesh_common::{
    Addr, AddrKey, Backend, CHUNK_LINES, CHUNKS, COUNTS, Conn, Connected, Counter, Datagram,
    DatagramKey, Endpoint, FlowKey, Fragment, Line, Link, MORE_PROGRAMS, Nat, PORT_WORDS,
    PORTS as ALL_PORTS, PathMtu, Peer, Place, Pool, Published, ScopedAddr, Settings,
    TABLES as ALL_TABLES, TableCount, TraceFilter, Traced, V6_PROGRAMS, VerdictCount,
};

use crate::tunnel::Inner;

/// The node's settings, one entry.
#[map]
pub static SETTINGS: Array<Settings> = Array::pinned(1, 0);

/// Bitmap of published ports: the first question, answered without hashing.
#[map]
pub static PORTS: Array<u64> = Array::pinned(PORT_WORDS, 0);

/// This node's own addresses, on which published ports answer.
#[map]
pub static OWN: HashMap<Addr, u32> = HashMap::pinned(256, 0);

/// The other nodes, by their tunnel end points.
#[map]
pub static PEERS: HashMap<Addr, Peer> = HashMap::pinned(4096, 0);

/// Addresses of other nodes under which this node may send by its uplink, as has been tried: the second of the boot-time
/// clock from which that is too long ago. User space renews it.
#[map]
pub static DIRECT: HashMap<Addr, u32> = HashMap::pinned(4096, BPF_F_NO_PREALLOC);

/// How large packets routers on the way to another node take, as they have said.
#[map]
pub static PATHS: LruHashMap<Addr, PathMtu> = LruHashMap::pinned(4096, 0);

/// By `port_index`: one more than the port's entry in `PUBLISHED`, zero where nothing is published.
#[map]
pub static ENTRY_OF: Array<u32> = Array::pinned(ALL_PORTS, 0);

/// Published ports of SCTP, as they stand in the packet: the entry in `PUBLISHED`.
#[map]
pub static SCTP_PORTS: HashMap<u16, u32> = HashMap::pinned(4096, 0);

/// Published ports. An entry that a port has is not written to.
#[map]
pub static PUBLISHED: Array<Published> = Array::pinned(16_384, 0);

/// Virtual addresses.
#[map]
pub static VIPS: HashMap<AddrKey, Pool> = HashMap::pinned(16_384, 0);

/// Every task address.
#[map]
pub static ENDPOINTS: HashMap<AddrKey, Endpoint> = HashMap::pinned(65_536, 0);

/// Host ends of this node's task links.
#[map]
pub static LINKS: HashMap<u32, Link> = HashMap::pinned(8192, 0);

/// Maglev rows of all pools, in lines that are numbered through. User space adds maps as it needs them, of a fixed size:
/// lookups in such ones are compiled in place. It also names the pin.
#[btf_map]
pub static ROWS: ArrayOfMaps<Lines, { CHUNKS as usize }> = ArrayOfMaps::new();

/// One of the maps of `ROWS`. Sizes in place of types: the kernel then makes the first one without BTF, as user space makes
/// those that it adds. Before Linux 6.2 maps with BTF and without differ too much to be in one.
#[repr(C)]
pub struct Lines {
    r#type: *const [i32; BPF_MAP_TYPE_ARRAY as usize],
    key_size: *const [i32; size_of::<u32>()],
    value_size: *const [i32; size_of::<Line>()],
    max_entries: *const [i32; CHUNK_LINES as usize],
}

/// The tasks behind the pools. Sized by user space.
#[map]
pub static BACKENDS: Array<Backend> = Array::pinned(32_768, 0);

/// Backends of TCP connections that need an entry. Sized by user space.
#[map]
pub static CONNS: LruHashMap<FlowKey, Conn> = LruHashMap::pinned(65_536, 0);

/// Backends of flows of all other protocols, which evict no connection. Sized by user space.
#[map]
pub static CONNS_ANY: LruHashMap<FlowKey, Conn> = LruHashMap::pinned(65_536, 0);

/// How replies are rewritten and where they go. Sized by user space.
#[map]
pub static FLOWS: LruHashMap<FlowKey, Nat> = LruHashMap::pinned(65_536, 0);

/// Ports of packets that come in fragments, by what the fragments have in common.
#[map]
pub static FRAGMENTS: LruHashMap<FlowKey, Fragment> = LruHashMap::pinned(16_384, 0);

/// The overlay networks that a task's network namespace reaches: VNI by namespace and subnet.
#[map]
pub static NAMESPACES: LpmTrie<ScopedAddr, u32> = LpmTrie::pinned(16_384, 0);

/// Sockets connected to virtual addresses. Kept with the socket, and gone with it. User space names the pin.
#[btf_map]
pub static SOCKETS: SkStorage<Connected> = SkStorage::new();

/// Virtual addresses that unconnected UDP sockets talk to, both ways.
#[map]
pub static DATAGRAMS: LruHashMap<DatagramKey, Datagram> = LruHashMap::pinned(65_536, 0);

/// Traffic of each entry of `BACKENDS`. Sized by user space.
#[map]
pub static COUNTERS: PerCpuArray<Counter> = PerCpuArray::pinned(32_768, 0);

/// What happened to the tables that only programs write, by the `TABLE_` constants.
#[map]
pub static TABLES: PerCpuArray<TableCount> = PerCpuArray::pinned(ALL_TABLES, 0);

/// The XDP programs for IPv6, by the `V6_` constants. Programs of their own, because neither family leaves the
/// other enough of the 512 bytes of stack; pinned, because the kernel empties an array that user space has let go.
#[map]
pub static XDP_V6: ProgramArray = ProgramArray::pinned(V6_PROGRAMS, 0);

/// The tc programs for IPv6, by the `V6_` constants.
#[map]
pub static TC_V6: ProgramArray = ProgramArray::pinned(V6_PROGRAMS, 0);

/// The tc programs for what is rare, by the `MORE_` constants.
#[map]
pub static TC_MORE: ProgramArray = ProgramArray::pinned(MORE_PROGRAMS, 0);

/// What is too large for the stack.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// What is too large for the stack, or for the arguments of a function that is verified by itself.
#[repr(C)]
pub struct Scratch {
    /// The flow of the packet at hand.
    pub flow: FlowKey,
    /// How replies to it are treated.
    pub undo: Nat,
    /// Where `undo` is kept.
    pub reply: FlowKey,
    /// What an IPv4 packet is rewritten from and to.
    pub v4: [Ends<u32>; 2],
    /// The Ethernet header in a tunnel.
    pub inner: Inner,
    /// Largest packet that a tunnel takes, for the program that says so.
    pub largest: u32,
    /// What an IPv6 packet is rewritten from and to.
    pub v6: [Ends<Addr>; 2],
    /// The substitute of a client's port.
    pub substitute: Nat,
    /// Where `substitute` is kept.
    pub memory: FlowKey,
}

/// Where a packet is from and to, as it stands there.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ends<A> {
    pub src: A,
    pub dst: A,
    pub sport: u16,
    pub dport: u16,
}

/// Next hops that the kernel has told of, by a hash of the destination: each CPU keeps its own.
#[map]
pub static HOPS: PerCpuArray<Hop> = PerCpuArray::with_max_entries(HOP_SLOTS, 0);

/// Two destinations on one slot ask the kernel again and again, at some 150 ns a packet. A power of two.
pub const HOP_SLOTS: u32 = 1024;

/// How packets between two addresses leave by the interface they came in by.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Hop {
    pub src: Addr,
    pub dst: Addr,
    /// Interface.
    pub ifindex: u32,
    /// Largest packet, without its Ethernet header.
    pub mtu: u32,
    /// Clock ticks: not used from then on.
    pub until: u32,
    /// Clock ticks: when the kernel last sent a packet there itself, and so verified the neighbour.
    pub verified: u32,
    /// The neighbour's MAC, then the interface's own, as in a frame.
    pub macs: [u32; 3],
}

/// Packets by program and outcome.
#[map]
pub static VERDICTS: PerCpuArray<VerdictCount> =
    PerCpuArray::pinned(Place::ALL.len() as u32 * COUNTS, 0);

/// Which packets are traced, one entry.
#[map]
pub static TRACE_FILTER: Array<TraceFilter> = Array::pinned(1, 0);

/// What a program leaves to the one that tells of the packet.
#[map]
pub static TRACED: PerCpuArray<Traced> = PerCpuArray::pinned(1, 0);

/// Packets that were traced, as `TraceEvent`s: room for 4,096.
#[map]
pub static TRACE_EVENTS: RingBuf = RingBuf::pinned(4096 * 64, 0);
