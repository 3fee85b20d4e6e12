//! How full the tables are that only programs write, and what they have evicted.
//!
//! The least recently used entry of a full table makes room for a new one, and the kernel neither counts nor tells it.
//! Programs count what they insert and remove: what is not there any more has been evicted.

use aya::{
    Ebpf, Pod,
    maps::{HashMap, Map, MapData, PerCpuArray},
};
use mesh_common::{
    Conn, Datagram, DatagramKey, FlowKey, Fragment, Nat, TABLE_CONNS, TABLE_CONNS_ANY,
    TABLE_DATAGRAMS, TABLE_FLOWS, TABLE_FRAGMENTS, TableCount,
};

use crate::{
    Error, Fill,
    tables::{map_error, take},
};

const COUNTS: &str = "TABLES";

/// A table that only programs write.
pub(crate) struct Lru<K, V> {
    name: &'static str,
    pub(crate) map: HashMap<MapData, K, V>,
    capacity: u32,
}

/// All of them, and the counters of what happened to them.
pub(crate) struct Lrus {
    conns: Lru<FlowKey, Conn>,
    conns_any: Lru<FlowKey, Conn>,
    pub(crate) flows: Lru<FlowKey, Nat>,
    fragments: Lru<FlowKey, Fragment>,
    datagrams: Lru<DatagramKey, Datagram>,
    counts: PerCpuArray<MapData, TableCount>,
    /// Those of `conns`.
    evictions: Evictions,
}

/// When a table was last seen to have evicted an entry.
#[derive(Debug, Default)]
pub(crate) struct Evictions {
    /// How many there have been, at least.
    seen: u64,
    /// Seconds of the monotonic clock; `None`: not while this has looked.
    last_s: Option<u64>,
}

impl Evictions {
    /// Begins with what there has been so far, of which nobody knows when it was.
    fn after(seen: u64) -> Self {
        Self { seen, last_s: None }
    }

    /// Notes how many there have been so far. When the last one was.
    fn note(&mut self, seen: u64, now_s: u64) -> Option<u64> {
        if seen > self.seen {
            *self = Self {
                seen,
                last_s: Some(now_s),
            };
        }
        self.last_s
    }
}

impl Lrus {
    pub(crate) fn open(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let mut lrus = Self {
            conns: Lru::open(ebpf, "CONNS")?,
            conns_any: Lru::open(ebpf, "CONNS_ANY")?,
            flows: Lru::open(ebpf, "FLOWS")?,
            fragments: Lru::open(ebpf, "FRAGMENTS")?,
            datagrams: Lru::open(ebpf, "DATAGRAMS")?,
            counts: PerCpuArray::try_from(take(ebpf, COUNTS)?).map_err(|e| map_error(COUNTS, e))?,
            evictions: Evictions::default(),
        };
        lrus.evictions = Evictions::after(lrus.conns_evicted()?);
        Ok(lrus)
    }

    /// When TCP's connections were last seen to have been evicted: a look now, and those before.
    pub(crate) fn conns_evicted_s(&mut self, now_s: u64) -> Result<Option<u64>, Error> {
        let seen = self.conns_evicted()?;
        Ok(self.evictions.note(seen, now_s))
    }

    /// Connections that have been evicted, at least: what is more than there is room for. The first ones are missing, which
    /// the kernel evicts while each processor still has some free entries; to walk the table would be a system call per entry.
    fn conns_evicted(&self) -> Result<u64, Error> {
        let count = self.count(TABLE_CONNS)?;
        let kept = count.removed + u64::from(self.conns.capacity);
        Ok(count.inserted.saturating_sub(kept))
    }

    /// A system call per entry.
    pub(crate) fn fill(&self) -> Result<Vec<Fill>, Error> {
        Ok(vec![
            self.conns.fill("conns", self.count(TABLE_CONNS)?)?,
            self.conns_any
                .fill("conns_any", self.count(TABLE_CONNS_ANY)?)?,
            self.flows.fill("flows", self.count(TABLE_FLOWS)?)?,
            self.fragments
                .fill("fragments", self.count(TABLE_FRAGMENTS)?)?,
            self.datagrams
                .fill("datagrams", self.count(TABLE_DATAGRAMS)?)?,
        ])
    }

    /// What UDP sockets talk to. Programs write meanwhile: an entry may be missed.
    pub(crate) fn datagrams(&self) -> Result<Vec<(DatagramKey, Datagram)>, Error> {
        let datagrams = &self.datagrams;
        datagrams
            .map
            .iter()
            .collect::<Result<_, _>>()
            .map_err(|e| map_error(datagrams.name, e))
    }

    /// What happened to a table, all processors together.
    fn count(&self, table: u32) -> Result<TableCount, Error> {
        let values = self.counts.get(&table, 0);
        let values = values.map_err(|e| map_error(COUNTS, e))?;
        Ok(values
            .iter()
            .fold(TableCount::default(), |sum, c| TableCount {
                inserted: sum.inserted + c.inserted,
                removed: sum.removed + c.removed,
                refused: sum.refused + c.refused,
            }))
    }
}

impl<K: Pod, V: Pod> Lru<K, V> {
    fn open(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, Error> {
        let map = take(ebpf, name)?;
        let capacity = match &map {
            Map::LruHashMap(data) => data.info().map_err(|e| map_error(name, e))?.max_entries(),
            _ => 0,
        };
        Ok(Self {
            name,
            map: HashMap::try_from(map).map_err(|e| map_error(name, e))?,
            capacity,
        })
    }

    /// Entries to read at most: a key that is deleted while the table is walked makes the kernel begin again, and a table
    /// that is written all the time must not be walked for ever.
    pub(crate) fn patience(&self) -> usize {
        2 * self.capacity as usize
    }

    fn fill(&self, table: &'static str, count: TableCount) -> Result<Fill, Error> {
        let mut entries = 0;
        for key in self.map.keys().take(self.capacity as usize) {
            key.map_err(|e| map_error(self.name, e))?;
            entries += 1;
        }
        let gone = count.removed + u64::from(entries);
        Ok(Fill {
            table,
            entries,
            capacity: self.capacity,
            inserted: count.inserted,
            evicted: count.inserted.saturating_sub(gone),
            refused: count.refused,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evictions_are_seen_when_there_are_more() {
        let mut evictions = Evictions::after(3);
        assert_eq!(evictions.note(3, 10), None, "before anybody looked");
        assert_eq!(evictions.note(4, 20), Some(20));
        assert_eq!(evictions.note(4, 30), Some(20));
        assert_eq!(evictions.note(9, 40), Some(40));
    }
}
