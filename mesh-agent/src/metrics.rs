//! What the node tells Prometheus. Everything is read when it is asked for; nothing is counted a second time.

use std::{sync::atomic::AtomicU64, time::Duration};

use mesh_datapath::{
    CounterLine, Fill, FullTable, ReturnPath, ReturnState, Room, RunTime, ServiceCounters, Snapshot,
};
use mesh_runtime::ContainerInfo;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{
    node::{Node, NodeError},
    protocol,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    place: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Drop {
    place: &'static str,
    reason: &'static str,
}

/// A backend of a published port (`80/tcp`) or of a virtual address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Backend {
    service: String,
    front: String,
    backend: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Front {
    service: String,
    front: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Table {
    table: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Program {
    program: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Return {
    address: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Tasks {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Peer {
    peer: String,
}

/// All of it in the OpenMetrics text format.
///
/// # Errors
/// When a map cannot be read.
pub(crate) fn text(node: &Node) -> Result<String, NodeError> {
    let packets = node.read_datapath(|path| {
        Ok((
            path.snapshot()?,
            path.fill()?,
            path.room(),
            path.run_times()?,
        ))
    })?;
    let mut registry = Registry::with_prefix("mesh");
    if let Some((snapshot, fill, room, times)) = packets {
        outcomes(&mut registry, &snapshot);
        services(&mut registry, &snapshot.services);
        tables(&mut registry, &fill);
        room_left(&mut registry, &room);
        full_tables(&mut registry, &room.full);
        run_times(&mut registry, &times);
    }
    returns(&mut registry, &node.returns());
    tasks(&mut registry, &node.runtime().list());
    if let Some(status) = node.encryption() {
        encryption(&mut registry, &status);
    }
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = encode(&mut text, &registry);
    Ok(text)
}

fn outcomes(registry: &mut Registry, snapshot: &Snapshot) {
    let (packets, bytes) = counters(&snapshot.verdicts, |line| Outcome {
        place: line.place,
        outcome: line.name,
    });
    registry.register("packets", "Packets that went on, by program", packets);
    registry.register("packet_bytes", "Bytes that went on, by program", bytes);
    let (packets, bytes) = counters(&snapshot.drops, |line| Drop {
        place: line.place,
        reason: line.name,
    });
    registry.register("dropped_packets", "Packets dropped, by program", packets);
    registry.register("dropped_bytes", "Bytes dropped, by program", bytes);
}

fn counters<L>(
    lines: &[CounterLine],
    label: impl Fn(&CounterLine) -> L,
) -> (Family<L, Counter>, Family<L, Counter>)
where
    L: Clone + Eq + std::hash::Hash,
{
    let (packets, bytes) = (Family::default(), Family::default());
    for line in lines {
        let packets: &Family<L, Counter> = &packets;
        let bytes: &Family<L, Counter> = &bytes;
        packets.get_or_create(&label(line)).inc_by(line.packets);
        bytes.get_or_create(&label(line)).inc_by(line.bytes);
    }
    (packets, bytes)
}

fn services(registry: &mut Registry, services: &[ServiceCounters]) {
    let flows = Family::<Backend, Counter>::default();
    let packets = Family::<Backend, Counter>::default();
    let bytes = Family::<Backend, Counter>::default();
    let backends = Family::<Front, Gauge>::default();
    for service in services {
        let front = front(service);
        for backend in &service.backends {
            let label = Backend {
                service: service.name.clone(),
                front: front.clone(),
                backend: backend.address.to_string(),
            };
            flows.get_or_create(&label).inc_by(backend.flows);
            packets.get_or_create(&label).inc_by(backend.packets);
            bytes.get_or_create(&label).inc_by(backend.bytes);
        }
        let draining = service.backends.iter().filter(|b| b.draining).count();
        for (state, number) in [
            ("active", service.backends.len() - draining),
            ("draining", draining),
        ] {
            let label = Front {
                service: service.name.clone(),
                front: front.clone(),
                state,
            };
            let number = i64::try_from(number).unwrap_or(i64::MAX);
            backends.get_or_create(&label).set(number);
        }
    }
    registry.register("backend_flows", "Flows this node sent to a task", flows);
    registry.register(
        "backend_packets",
        "Packets this node sent to a task",
        packets,
    );
    registry.register("backend_bytes", "Bytes this node sent to a task", bytes);
    registry.register("backends", "Tasks behind a port or an address", backends);
}

/// `80/tcp`, or the virtual address.
fn front(service: &ServiceCounters) -> String {
    match (service.address, service.published) {
        (Some(address), _) => address.to_string(),
        (None, published) => format!(
            "{}/{}",
            published.unwrap_or_default(),
            protocol::name(service.protocol.unwrap_or_default())
        ),
    }
}

fn tables(registry: &mut Registry, fill: &[Fill]) {
    let entries = Family::<Table, Gauge>::default();
    let capacity = Family::<Table, Gauge>::default();
    let inserted = Family::<Table, Counter>::default();
    let evicted = Family::<Table, Counter>::default();
    let refused = Family::<Table, Counter>::default();
    for table in fill {
        let label = Table { table: table.table };
        entries.get_or_create(&label).set(table.entries.into());
        capacity.get_or_create(&label).set(table.capacity.into());
        inserted.get_or_create(&label).inc_by(table.inserted);
        evicted.get_or_create(&label).inc_by(table.evicted);
        refused.get_or_create(&label).inc_by(table.refused);
    }
    registry.register("table_entries", "Entries of a flow table", entries);
    registry.register("table_capacity", "Room in a flow table", capacity);
    registry.register("table_inserted", "Entries made in a flow table", inserted);
    registry.register(
        "table_evicted",
        "Entries of a flow table that made room for others",
        evicted,
    );
    registry.register(
        "table_refused",
        "Entries that the kernel refused to make",
        refused,
    );
}

/// What the agent fills. Numbers that are not zero are in the log too, by service.
fn room_left(registry: &mut Registry, room: &Room) {
    let mut gauge = |name: &'static str, help: &'static str, value: u64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    gauge("row_bytes", "Bytes of Maglev rows", room.rows_bytes);
    gauge(
        "row_bytes_allocated",
        "Memory that Maglev rows have taken",
        room.rows_allocated_bytes,
    );
    gauge(
        "row_bytes_capacity",
        "Memory that Maglev rows may take",
        room.rows_capacity_bytes,
    );
    gauge(
        "rows_short",
        "Ports and virtual addresses whose flows are spread less evenly for want of room",
        room.short_rows as u64,
    );
    gauge(
        "rows_missing",
        "Ports and virtual addresses whose new backends get no flows for want of room",
        room.missing_rows as u64,
    );
    gauge(
        "rows_refused",
        "Ports and virtual addresses whose new backends get no flows as the kernel does not take them",
        room.refused_rows as u64,
    );
    gauge(
        "backend_entries",
        "Entries of the table of backends",
        room.backends.into(),
    );
    gauge(
        "backend_capacity",
        "Room in the table of backends",
        room.backends_capacity.into(),
    );
    gauge(
        "backends_left_out",
        "Backends that get no flows for want of room",
        room.backends_left_out as u64,
    );
}

/// Those of a fixed size that are full.
fn full_tables(registry: &mut Registry, full: &[FullTable]) {
    let left_out = Family::<Table, Gauge>::default();
    for table in full {
        let label = Table { table: table.table };
        let entries = i64::try_from(table.left_out).unwrap_or(i64::MAX);
        left_out.get_or_create(&label).set(entries);
    }
    registry.register(
        "table_left_out",
        "Entries that a table of a fixed size has no room for",
        left_out,
    );
}

/// Left out while the kernel does not count.
fn run_times(registry: &mut Registry, times: &[RunTime]) {
    let runs = Family::<Program, Counter>::default();
    let seconds = Family::<Program, Counter<f64, AtomicU64>>::default();
    for time in times {
        let program = time.program;
        runs.get_or_create(&Program { program }).inc_by(time.runs);
        let took = Duration::from_nanos(time.nanoseconds).as_secs_f64();
        seconds.get_or_create(&Program { program }).inc_by(took);
    }
    registry.register("program_runs", "Runs of a program of the packet path", runs);
    registry.register(
        "program_run_seconds",
        "Time in a program of the packet path, while the kernel counts it (kernel.bpf_stats_enabled)",
        seconds,
    );
}

fn returns(registry: &mut Registry, paths: &[ReturnPath]) {
    let direct = Family::<Return, Gauge>::default();
    for path in paths {
        let label = Return {
            address: path.address.to_string(),
        };
        let is_direct = path.state == ReturnState::Direct;
        direct.get_or_create(&label).set(is_direct.into());
    }
    registry.register(
        "return_direct",
        "Whether replies leave directly under another node's address (1), or go back through it (0)",
        direct,
    );
}

fn tasks(registry: &mut Registry, containers: &[ContainerInfo]) {
    let tasks = Family::<Tasks, Gauge>::default();
    for state in ["created", "running", "exited"] {
        tasks.get_or_create(&Tasks { state }).set(0);
    }
    for container in containers {
        let state = container.state.as_str();
        tasks.get_or_create(&Tasks { state }).inc();
    }
    registry.register("containers", "Containers of the node", tasks);
}

fn encryption(registry: &mut Registry, status: &mesh_wireguard::Status) {
    let sent = Family::<Peer, Counter>::default();
    let received = Family::<Peer, Counter>::default();
    let handshakes = Family::<Peer, Gauge>::default();
    for peer in &status.peers {
        let label = Peer {
            peer: peer.address.to_string(),
        };
        sent.get_or_create(&label).inc_by(peer.sent);
        received.get_or_create(&label).inc_by(peer.received);
        if let Some(age) = peer.handshake_s {
            let age = i64::try_from(age).unwrap_or(i64::MAX);
            handshakes.get_or_create(&label).set(age);
        }
    }
    let refused = Counter::<u64>::default();
    refused.inc_by(status.refused);
    let key = Gauge::<i64>::default();
    key.set(i64::try_from(status.key_age_s).unwrap_or(i64::MAX));
    registry.register("wireguard_sent_bytes", "Bytes encrypted for a node", sent);
    registry.register(
        "wireguard_received_bytes",
        "Bytes that a node had encrypted",
        received,
    );
    registry.register(
        "wireguard_handshake_age_seconds",
        "Time since the last handshake with a node, where there is a session",
        handshakes,
    );
    registry.register(
        "wireguard_refused",
        "Datagrams that were no node's, and packets from addresses that are not their sender's",
        refused,
    );
    registry.register("wireguard_key_age_seconds", "Age of the node's key", key);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_times_are_in_seconds() {
        let mut registry = Registry::with_prefix("mesh");
        let time = RunTime {
            program: "uplink_xdp",
            runs: 3,
            nanoseconds: 1_500_000_000,
        };
        run_times(&mut registry, &[time]);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(
            text.contains("mesh_program_runs_total{program=\"uplink_xdp\"} 3\n"),
            "{text}"
        );
        let seconds = "mesh_program_run_seconds_total{program=\"uplink_xdp\"} 1.5\n";
        assert!(text.contains(seconds), "{text}");
    }
}
