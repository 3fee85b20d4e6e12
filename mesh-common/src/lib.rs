//! The contract between the eBPF programs and user space: map keys and values, verdicts, packet arithmetic.
//!
//! Everything here is plain data and pure functions; whoever changes a layout raises [`ABI_VERSION`].
#![no_std]

mod addr;
pub mod checksum;
pub mod crc;
mod hash;
mod layout;
mod verdict;
pub mod wire;

pub use addr::{Addr, Prefix, asked_mac, mac_of, node_mac};
pub use hash::{flow_hash, fold_v6, slot_of};
pub use layout::{
    AddrKey, BACKEND_ACTIVE, BACKEND_DRAINING, Backend, CHUNK_LINES, CHUNKS, Conn, Connected,
    Counter, DATAGRAMS_BACK, DATAGRAMS_OUT, Datagram, DatagramKey, Endpoint, FlowKey, Fragment,
    LINE_WORDS, LINK_GATEWAY, LINK_OVERLAY, Line, Link, MORE_GATEWAY_ERROR, MORE_OVERLAY_ERROR,
    MORE_PROGRAMS, MORE_REFUSED, MORE_TOO_BIG, MORE_TRACE, MORE_TUNNEL_ERROR, MORE_UPLINK_ERROR,
    MORE_V4, MORE_V6, NARROW_BACKENDS, NAT_DIRECT, NAT_LINK, NAT_LOOPBACK, NAT_PEER, NAT_UPLINK,
    Nat, PATH_KEPT_S, PATH_MTU_LEAST, PORT_WORDS, PORTS, PathMtu, Peer, Pool, PortKey, Published,
    ROW_BACKENDS, Row, SCOPE_PORT, SCOPE_PUBLISHED, SCOPE_RETURN, SCOPE_TASK, SETTLE_S, ScopedAddr,
    Settings, TABLE_CONNS, TABLE_CONNS_ANY, TABLE_DATAGRAMS, TABLE_FLOWS, TABLE_FRAGMENTS, TABLES,
    TRACE_PORTS, TableCount, TraceEvent, TraceFilter, Traced, V6_GATEWAY, V6_LOOPBACK, V6_OVERLAY,
    V6_PROGRAMS, V6_TUNNEL, V6_UPLINK, VerdictCount, XDP_TRACE, port_bit, port_index,
};
pub use verdict::{COUNTS, DropReason, Place, Verdict, outcome_name};

/// Version of the map layouts and of what the programs expect in them; part of the pin path.
pub const ABI_VERSION: u32 = 7;
