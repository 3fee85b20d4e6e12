//! Which entry of `BACKENDS` stands for which task behind which pool, and what it has counted.

use std::collections::{BTreeMap, BTreeSet};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, MapError, PerCpuArray, PerCpuValues},
};
use mesh_common::{Addr, Backend, Counter, Endpoint};

use crate::{
    Error, Report,
    tables::{map_error, take},
};

const BACKENDS: &str = "BACKENDS";
const COUNTERS: &str = "COUNTERS";

/// The entries and their counters.
pub(crate) struct Backends {
    map: Array<MapData, Backend>,
    counters: PerCpuArray<MapData, Counter>,
    /// Entries that are used: those that both the map and the configuration have.
    capacity: u32,
    /// All entries that are not free.
    used: BTreeMap<u32, Backend>,
    /// The same by pool and address.
    index: BTreeMap<(u32, Addr), u32>,
    /// No entry below is free.
    full_below: u32,
}

impl Backends {
    pub(crate) fn open(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let map = take(ebpf, BACKENDS)?;
        let entries = entries(&map).map_err(|e| map_error(BACKENDS, e))?;
        let map: Array<MapData, Backend> =
            Array::try_from(map).map_err(|e| map_error(BACKENDS, e))?;
        let capacity = entries.min(map.len());
        let counters =
            PerCpuArray::try_from(take(ebpf, COUNTERS)?).map_err(|e| map_error(COUNTERS, e))?;
        let (mut used, mut index) = (BTreeMap::new(), BTreeMap::new());
        for at in 0..capacity {
            let backend = map.get(&at, 0).map_err(|e| map_error(BACKENDS, e))?;
            if backend.address != Addr::NONE {
                used.insert(at, backend);
                index.insert((backend.pool, backend.address), at);
            }
        }
        Ok(Self {
            map,
            counters,
            capacity,
            used,
            index,
            full_below: 0,
        })
    }

    /// Index of a task behind a pool.
    pub(crate) fn index(&self, pool: u32, address: Addr) -> Option<u32> {
        self.index.get(&(pool, address)).copied()
    }

    /// Address of the task with an index.
    pub(crate) fn address(&self, index: u32) -> Addr {
        self.used
            .get(&index)
            .map_or(Addr::NONE, |backend| backend.address)
    }

    /// The pools that have entries.
    pub(crate) fn pools(&self) -> BTreeSet<u32> {
        self.used.values().map(|backend| backend.pool).collect()
    }

    /// Entries that are not free.
    pub(crate) fn used(&self) -> u32 {
        self.used.len() as u32
    }

    /// Entries there are.
    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Writes a task behind a pool, to a free entry with counters at zero if it is new. `there` is one of the
    /// `BACKEND_` constants. Whether there was an entry for it.
    pub(crate) fn put(
        &mut self,
        pool: u32,
        address: Addr,
        endpoint: Endpoint,
        there: u32,
        report: &mut Report,
    ) -> Result<bool, Error> {
        let at = match self.index(pool, address) {
            Some(at) => at,
            None => {
                let Some(at) = self.free() else {
                    return Ok(false);
                };
                let cpus = aya::util::nr_cpus().unwrap_or(1);
                let zero =
                    PerCpuValues::try_from(vec![Counter::default(); cpus]).map_err(|source| {
                        Error::Netlink {
                            action: "count processors".into(),
                            source,
                        }
                    })?;
                self.counters
                    .set(at, zero, 0)
                    .map_err(|e| map_error(COUNTERS, e))?;
                at
            }
        };
        let backend = Backend {
            address,
            endpoint,
            pool,
            there,
        };
        if self.used.get(&at) != Some(&backend) {
            self.write(at, backend)?;
            self.used.insert(at, backend);
            self.index.insert((pool, address), at);
            report.written += 1;
        }
        Ok(true)
    }

    /// Takes out the tasks of some pools that are not wanted. Their entries become free when no row refers to them any more.
    /// Whether any did.
    pub(crate) fn prune(
        &mut self,
        pools: &BTreeSet<u32>,
        wanted: impl Fn(u32, &Addr) -> bool,
        in_rows: impl Fn(u32, &Addr) -> bool,
        report: &mut Report,
    ) -> Result<bool, Error> {
        let before = self.used.len();
        let of_pool = |pool| {
            let from = self.index.range((pool, Addr::NONE)..);
            from.take_while(move |((other, _), _)| *other == pool)
        };
        let gone: Vec<(u32, Backend)> = pools
            .iter()
            .flat_map(|pool| of_pool(*pool))
            .filter(|((pool, address), _)| !wanted(*pool, address))
            .filter_map(|(_, at)| Some((*at, *self.used.get(at)?)))
            .collect();
        for (at, backend) in gone {
            if !in_rows(backend.pool, &backend.address) {
                self.write(at, Backend::default())?;
                self.used.remove(&at);
                self.full_below = self.full_below.min(at);
                self.index.remove(&(backend.pool, backend.address));
                report.removed += 1;
            } else if backend.there != 0 {
                let backend = Backend {
                    there: 0,
                    ..backend
                };
                self.write(at, backend)?;
                self.used.insert(at, backend);
                report.removed += 1;
            }
        }
        Ok(self.used.len() < before)
    }

    /// A backend's counter, all processors together.
    pub(crate) fn counter(&self, pool: u32, address: Addr) -> Result<Counter, Error> {
        let Some(at) = self.index(pool, address) else {
            return Ok(Counter::default());
        };
        let values = self
            .counters
            .get(&at, 0)
            .map_err(|e| map_error(COUNTERS, e))?;
        Ok(values.iter().fold(Counter::default(), |sum, c| Counter {
            flows: sum.flows + c.flows,
            packets: sum.packets + c.packets,
            bytes: sum.bytes + c.bytes,
        }))
    }

    fn free(&mut self) -> Option<u32> {
        let capacity = self.capacity();
        let free = (self.full_below..capacity).find(|at| !self.used.contains_key(at));
        self.full_below = free.unwrap_or(capacity);
        free
    }

    fn write(&mut self, at: u32, backend: Backend) -> Result<(), Error> {
        self.map
            .set(at, backend, 0)
            .map_err(|e| map_error(BACKENDS, e))
    }
}

/// Entries that a map has: an earlier process may have made it.
fn entries(map: &Map) -> Result<u32, MapError> {
    match map {
        Map::Array(data) => Ok(data.info()?.max_entries()),
        _ => Ok(0),
    }
}
