//! Counters, with the names of what they count.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_common::{Addr, AddrKey, DropReason, Place, PortKey, Verdict};

use crate::{
    BackendCounters, BackendLoad, CounterLine, Error, ServiceCounters, Snapshot,
    compile::{self, Contents, Front},
    flows::Flows,
    tables::Tables,
};

/// A published port or a virtual address.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Port(PortKey),
    Vip(AddrKey),
}

/// What counters belong to.
#[derive(Debug, Default)]
pub(crate) struct Fronts {
    /// With the number of its pool.
    fronts: BTreeMap<Key, (u32, Arc<Front>)>,
    /// Addresses of tasks on this node, with their network.
    local: BTreeSet<AddrKey>,
    ingress_vni: u32,
}

impl Fronts {
    /// Takes over what was applied.
    pub(crate) fn set(&mut self, contents: &Contents, tables: &Tables) {
        self.fronts.clear();
        for (key, front) in &contents.published {
            if let Some(published) = tables.published.copy().get(key) {
                self.fronts
                    .insert(Key::Port(*key), (published.pool.id, front.clone()));
            }
        }
        for (key, front) in &contents.vips {
            if let Some(pool) = tables.vips.copy().get(key) {
                self.fronts.insert(Key::Vip(*key), (pool.id, front.clone()));
            }
        }
        let local = contents
            .endpoints
            .iter()
            .filter(|(_, endpoint)| endpoint.ifindex != 0);
        self.local = local.map(|(key, _)| *key).collect();
        self.ingress_vni = contents.settings.ingress_vni;
    }

    /// The service behind a published port.
    pub(crate) fn port(&self, port_be: u16, protocol: u8) -> Option<&Front> {
        self.find(Key::Port(PortKey {
            port_be,
            protocol,
            pad: 0,
        }))
    }

    /// The service behind a virtual address.
    pub(crate) fn vip(&self, vni: u32, address: Addr) -> Option<&Front> {
        self.find(Key::Vip(AddrKey { vni, address }))
    }

    /// The ports and addresses of a service, or of all: network, number of the pool, and what it is.
    fn of(&self, service: Option<&str>) -> impl Iterator<Item = (u32, u32, &Front)> {
        let own = self.fronts.iter();
        let own = own.filter(move |(_, (_, front))| service.is_none_or(|id| front.service == id));
        own.map(|(key, (pool, front))| (self.vni(key), *pool, &**front))
    }

    fn vni(&self, key: &Key) -> u32 {
        match key {
            Key::Port(_) => self.ingress_vni,
            Key::Vip(vip) => vip.vni,
        }
    }

    fn find(&self, key: Key) -> Option<&Front> {
        self.fronts.get(&key).map(|(_, front)| &**front)
    }
}

/// Reads all counters.
pub(crate) fn read(fronts: &Fronts, tables: &Tables) -> Result<Snapshot, Error> {
    let mut snapshot = Snapshot::default();
    for (key, (pool, front)) in &fronts.fronts {
        let vni = fronts.vni(key);
        let mut all: BTreeSet<Addr> = front.draining.clone();
        all.extend(&front.active);
        let mut backends = Vec::with_capacity(all.len());
        for address in all {
            let counter = tables.backends.counter(*pool, address)?;
            backends.push(BackendCounters {
                address: compile::ip(address),
                draining: front.draining.contains(&address),
                local: fronts.local.contains(&AddrKey { vni, address }),
                flows: counter.flows,
                packets: counter.packets,
                bytes: counter.bytes,
            });
        }
        snapshot.services.push(line(key, front, backends));
    }
    for place in Place::ALL {
        for verdict in Verdict::ALL {
            let line = outcome(tables, place, verdict as u32, verdict.name())?;
            snapshot.verdicts.push(line);
        }
        for reason in DropReason::ALL {
            let line = outcome(tables, place, reason as u32, reason.name())?;
            snapshot.drops.push(line);
        }
    }
    Ok(snapshot)
}

/// Reads what this node knows of the load of the backends of a service, or of all. Without `flows`, none is told as open.
pub(crate) fn loads(
    service: Option<&str>,
    fronts: &Fronts,
    tables: &Tables,
    flows: Option<&Flows<'_>>,
) -> Result<Vec<BackendLoad>, Error> {
    let mut loads = BTreeMap::<(u32, Addr), BackendLoad>::new();
    for (vni, pool, front) in fronts.of(service) {
        let service: Arc<str> = front.service.as_str().into();
        for address in front.active.iter().chain(&front.draining) {
            let counter = tables.backends.counter(pool, *address)?;
            let load = loads.entry((vni, *address)).or_insert_with(|| BackendLoad {
                service: service.clone(),
                vni,
                address: compile::ip(*address),
                open: 0,
                flows: 0,
                packets: 0,
                bytes: 0,
            });
            load.flows += counter.flows;
            load.packets += counter.packets;
            load.bytes += counter.bytes;
        }
    }
    if let Some(flows) = flows.filter(|_| !loads.is_empty()) {
        for ((vni, address), open) in flows.count_open()? {
            let vni = vni.unwrap_or(fronts.ingress_vni);
            if let Some(load) = loads.get_mut(&(vni, address)) {
                load.open += open;
            }
        }
    }
    Ok(loads.into_values().collect())
}

fn line(key: &Key, front: &Front, backends: Vec<BackendCounters>) -> ServiceCounters {
    let (port, vip) = match key {
        Key::Port(port) => (Some(port), None),
        Key::Vip(vip) => (None, Some(vip)),
    };
    ServiceCounters {
        service: front.service.clone(),
        name: front.name.clone(),
        vni: vip.map(|vip| vip.vni),
        address: vip.map(|vip| compile::ip(vip.address)),
        protocol: port.map(|port| port.protocol),
        published: port.map(|port| u16::from_be(port.port_be)),
        target: port.map(|_| u16::from_be(front.target_be)),
        backends,
    }
}

fn outcome(
    tables: &Tables,
    place: Place,
    outcome: u32,
    name: &'static str,
) -> Result<CounterLine, Error> {
    let count = tables.verdict(place.counter(outcome))?;
    Ok(CounterLine {
        name,
        place: place.name(),
        packets: count.packets,
        bytes: count.bytes,
    })
}
