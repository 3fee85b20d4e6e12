//! Following packets: the programs tell of those that a filter names, as long as they are asked to.

use std::net::{IpAddr, SocketAddr};

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, RingBuf};
use mesh_common::{Addr, COUNTS, Place, TRACE_PORTS, TraceEvent, Traced, Verdict, outcome_name};

use crate::{Datapath, Error, compile, tables::map_error};

const EVENTS: &str = "TRACE_EVENTS";
const FILTER: &str = "TRACE_FILTER";
const STATE: &str = "TRACED";

/// Which packets are told of: those that have all of it at one of their ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TraceFilter {
    /// Address of an end; `None`: any.
    pub client: Option<IpAddr>,
    /// Ports of which one is an end's, at most [`TraceFilter::MOST_PORTS`]; empty: any.
    pub ports: Vec<u16>,
    /// IP protocol number; `None`: any.
    pub protocol: Option<u8>,
}

impl TraceFilter {
    /// Ports that a filter takes.
    pub const MOST_PORTS: usize = TRACE_PORTS;
}

/// A packet at the moment when a program had come to a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TracedPacket {
    /// Nanoseconds of the boot-time clock.
    pub time_ns: u64,
    /// The program, as in counters.
    pub place: &'static str,
    /// The verdict or the reason for which the packet was dropped, as in counters.
    pub outcome: &'static str,
    /// The packet was dropped.
    pub dropped: bool,
    /// Interface that it came in by.
    pub ifindex: u32,
    /// Source as the packet was after the verdict, inside the tunnel.
    pub src: SocketAddr,
    /// Destination, likewise.
    pub dst: SocketAddr,
    /// The other node, if the packet is in a tunnel: its tunnel end point.
    pub peer: Option<IpAddr>,
    /// IP protocol number.
    pub protocol: u8,
    /// Flags of TCP, as they are in the header.
    pub flags: u8,
    /// Bytes, with Ethernet and tunnel headers.
    pub length: u32,
}

/// What the programs tell.
pub struct Trace {
    events: RingBuf<MapData>,
    state: PerCpuArray<MapData, Traced>,
    lost_before: u64,
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace").finish_non_exhaustive()
    }
}

impl Datapath {
    /// Has the programs tell of packets, until [`Datapath::end_trace`]. One trace at a time: another takes its filter's
    /// place.
    ///
    /// # Errors
    /// When a map cannot be opened or written.
    pub fn trace(&mut self, filter: &TraceFilter) -> Result<Trace, Error> {
        let map = |name| {
            let path = self.config.versioned_pin_dir().join("maps").join(name);
            MapData::from_pin(path).map_err(|e| map_error(name, e))
        };
        let mut ports_be = [0; TRACE_PORTS];
        for (to, port) in ports_be.iter_mut().zip(&filter.ports) {
            *to = port.to_be();
        }
        let mut filters: Array<MapData, mesh_common::TraceFilter> =
            Array::try_from(Map::Array(map(FILTER)?)).map_err(|e| map_error(FILTER, e))?;
        let wanted = mesh_common::TraceFilter {
            client: filter.client.map_or(Addr::NONE, compile::addr),
            ports_be,
            protocol: filter.protocol.unwrap_or(0),
            pad: [0; 7],
        };
        filters
            .set(0, wanted, 0)
            .map_err(|e| map_error(FILTER, e))?;
        let events = RingBuf::try_from(Map::RingBuf(map(EVENTS)?));
        let state = PerCpuArray::try_from(Map::PerCpuArray(map(STATE)?));
        let mut trace = Trace {
            events: events.map_err(|e| map_error(EVENTS, e))?,
            state: state.map_err(|e| map_error(STATE, e))?,
            lost_before: 0,
        };
        // Of an earlier trace.
        while trace.events.next().is_some() {}
        trace.lost_before = trace.lost_ever()?;
        self.tables.set_tracing(true)?;
        Ok(trace)
    }

    /// Has the programs tell of no packets any more.
    ///
    /// # Errors
    /// When the settings cannot be written.
    pub fn end_trace(&mut self) -> Result<(), Error> {
        self.tables.set_tracing(false)
    }
}

impl Trace {
    /// The next packet, if there is one.
    pub fn next_packet(&mut self) -> Option<TracedPacket> {
        loop {
            let item = self.events.next()?;
            let bytes: &[u8] = &item;
            if bytes.len() < size_of::<TraceEvent>() {
                continue;
            }
            // SAFETY: as long as the event, which is plain data that any bytes are valid for; read unaligned.
            let event = unsafe { bytes.as_ptr().cast::<TraceEvent>().read_unaligned() };
            return Some(packet(&event));
        }
    }

    /// Packets that there was no room to tell of, since the trace began.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn lost(&self) -> Result<u64, Error> {
        Ok(self.lost_ever()?.saturating_sub(self.lost_before))
    }

    fn lost_ever(&self) -> Result<u64, Error> {
        let values = self.state.get(&0, 0);
        let values = values.map_err(|e: MapError| map_error(STATE, e))?;
        Ok(values.iter().map(|value| value.lost).sum())
    }
}

fn packet(event: &TraceEvent) -> TracedPacket {
    let end = |address, port_be| SocketAddr::new(compile::ip(address), u16::from_be(port_be));
    let place = Place::ALL.get(usize::from(event.place));
    let outcome = u32::from(event.outcome);
    TracedPacket {
        time_ns: event.time_ns,
        place: place.map_or("?", |place| place.name()),
        outcome: outcome_name(outcome).unwrap_or("?"),
        dropped: (Verdict::ALL.len() as u32..COUNTS).contains(&outcome),
        ifindex: event.ifindex,
        src: end(event.src, event.sport_be),
        dst: end(event.dst, event.dport_be),
        peer: (event.peer_be != 0).then(|| compile::ip(Addr::v4_be(event.peer_be))),
        protocol: event.protocol,
        flags: event.flags,
        length: event.length,
    }
}
