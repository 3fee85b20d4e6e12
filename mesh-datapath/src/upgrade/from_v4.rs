//! Rows as versions 3 and 4 had them: a slot was an index in `BACKENDS`, eight bytes in one large array, and a pool named its
//! rows by their first slots and lengths.

use std::{collections::BTreeMap, path::Path};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray},
};
use mesh_common::{Addr, AddrKey, Backend, Counter, NARROW_BACKENDS, Pool, Published, Row};

use crate::{
    Error,
    lines::{Lines, ROWS},
    pins::remove_file,
    tables::map_error,
};

/// The maps that were defined otherwise, and those that hold indices in them.
pub(super) const MAPS: [&str; 7] = [
    "ENTRY_OF",
    "SCTP_PORTS",
    "PUBLISHED",
    "VIPS",
    ROWS,
    "BACKENDS",
    "COUNTERS",
];

/// A pool in words: its current row's first slot and length, its previous row's, when it changed (two words), its number,
/// its affinity.
type OldPool = [u32; 8];

/// A pool, and the target port in the first two bytes behind it.
type OldPublished = [u32; 10];

/// Whether the maps pinned in a folder are such ones.
pub(super) fn is_in(maps: &Path) -> bool {
    let value_size = |name| MapInfo::from_pin(maps.join(name)).map(|info| info.value_size());
    value_size("PUBLISHED").is_ok_and(|size| size as usize == size_of::<OldPublished>())
        && value_size("VIPS").is_ok_and(|size| size as usize == size_of::<OldPool>())
        && value_size(ROWS).is_ok_and(|size| size as usize == size_of::<u32>())
}

/// Copies what the maps pinned in `old` hold to those in `new`, which are empty: first what others refer to.
///
/// # Errors
/// When a map cannot be read or written.
pub(super) fn convert(old: &Path, new: &Path) -> Result<(), Error> {
    let backends = copy_backends(old, new)?;
    let mut rows = Rows {
        old: array(old, ROWS)?,
        backends,
        lines: Lines::pinned(new)?,
        next: 0,
        known: BTreeMap::new(),
    };
    let from: Array<MapData, OldPublished> = array(old, "PUBLISHED")?;
    let mut to: Array<MapData, Published> = array(new, "PUBLISHED")?;
    for at in 0..from.len().min(to.len()) {
        let words = from.get(&at, 0).map_err(|e| map_error("PUBLISHED", e))?;
        let [pool @ .., target, _] = words;
        if words == OldPublished::default() {
            continue;
        }
        let [low, high, ..] = target.to_ne_bytes();
        let published = Published {
            pool: rows.convert(&pool)?,
            target_be: u16::from_ne_bytes([low, high]),
            direct: 0,
            pad: [0; 5],
        };
        to.set(at, published, 0)
            .map_err(|e| map_error("PUBLISHED", e))?;
    }
    let from: HashMap<MapData, AddrKey, OldPool> = hash(old, "VIPS")?;
    let mut to: HashMap<MapData, AddrKey, Pool> = hash(new, "VIPS")?;
    for entry in from.iter() {
        let (key, pool) = entry.map_err(|e| map_error("VIPS", e))?;
        to.insert(key, rows.convert(&pool)?, 0)
            .map_err(|e| map_error("VIPS", e))?;
    }
    copy::<u32>(old, new, "ENTRY_OF")?;
    let from: HashMap<MapData, u16, u32> = hash(old, "SCTP_PORTS")?;
    let mut to: HashMap<MapData, u16, u32> = hash(new, "SCTP_PORTS")?;
    from.iter()
        .try_for_each(|entry| entry.and_then(|(port, at)| to.insert(port, at, 0)))
        .map_err(|e| map_error("SCTP_PORTS", e))
}

/// `old` is no longer a folder of such maps. The old programs keep the map that is unpinned.
pub(super) fn be_done(old: &Path) -> Result<(), Error> {
    remove_file(&old.join("PUBLISHED"))
}

/// What has been converted so far.
struct Rows {
    old: Array<MapData, u32>,
    /// Addresses by index.
    backends: Vec<Addr>,
    lines: Lines,
    /// The first line that is free.
    next: u32,
    /// By pool and first slot.
    known: BTreeMap<(u32, u32), Row>,
}

impl Rows {
    fn convert(&mut self, pool: &OldPool) -> Result<Pool, Error> {
        let [
            current,
            current_len,
            previous,
            previous_len,
            low,
            high,
            id,
            affinity_s,
        ] = *pool;
        let [a, b, c, d] = low.to_ne_bytes();
        let [e, f, g, h] = high.to_ne_bytes();
        Ok(Pool {
            current: self.row(id, current, current_len)?,
            previous: self.row(id, previous, previous_len)?,
            changed_s: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            id,
            affinity_s,
        })
    }

    fn row(&mut self, pool: u32, first: u32, slots: u32) -> Result<Row, Error> {
        if slots == 0 {
            return Ok(Row::default());
        }
        if let Some(row) = self.known.get(&(pool, first)) {
            return Ok(*row);
        }
        let indices = (first..first.saturating_add(slots)).map(|slot| self.old.get(&slot, 0));
        let indices: Vec<u32> = indices
            .collect::<Result<_, _>>()
            .map_err(|e| map_error(ROWS, e))?;
        let mut list = indices.clone();
        list.sort_unstable();
        list.dedup();
        // In the order of addresses, in which rows are computed.
        list.sort_by_key(|index| self.backends.get(*index as usize));
        let numbers: BTreeMap<u32, u16> = list.iter().copied().zip(0..).collect();
        let count = list.len() as u32;
        let (of_slots, of_list) = Row::lines(slots, count);
        let row = Row {
            slots_at: self.next,
            slots,
            list_at: self.next + of_slots,
            wide: u32::from(count > NARROW_BACKENDS),
        };
        self.next += of_slots + of_list;
        let slots: Vec<u16> = indices
            .iter()
            .filter_map(|index| numbers.get(index).copied())
            .collect();
        self.lines.write(&row, &slots, &list)?;
        self.known.insert((pool, first), row);
        Ok(row)
    }
}

/// Copies the backends with their counters. Their addresses by index.
fn copy_backends(old: &Path, new: &Path) -> Result<Vec<Addr>, Error> {
    let from: Array<MapData, Backend> = array(old, "BACKENDS")?;
    let counted: PerCpuArray<MapData, Counter> = open(old, "COUNTERS", PerCpuArray::try_from)?;
    let mut to: Array<MapData, Backend> = array(new, "BACKENDS")?;
    let mut counters: PerCpuArray<MapData, Counter> = open(new, "COUNTERS", PerCpuArray::try_from)?;
    let mut addresses = Vec::new();
    for at in 0..from.len().min(to.len()) {
        let backend = from.get(&at, 0).map_err(|e| map_error("BACKENDS", e))?;
        addresses.push(backend.address);
        if backend.address != Addr::NONE {
            to.set(at, backend, 0)
                .map_err(|e| map_error("BACKENDS", e))?;
            let counter = counted.get(&at, 0);
            counter
                .and_then(|counter| counters.set(at, counter, 0))
                .map_err(|e| map_error("COUNTERS", e))?;
        }
    }
    Ok(addresses)
}

/// Copies what is not zero.
fn copy<V: Pod + Default + PartialEq>(
    old: &Path,
    new: &Path,
    name: &'static str,
) -> Result<(), Error> {
    let from: Array<MapData, V> = array(old, name)?;
    let mut to: Array<MapData, V> = array(new, name)?;
    for at in 0..from.len().min(to.len()) {
        let value = from.get(&at, 0).map_err(|e| map_error(name, e))?;
        if value != V::default() {
            to.set(at, value, 0).map_err(|e| map_error(name, e))?;
        }
    }
    Ok(())
}

fn array<V: Pod>(maps: &Path, name: &'static str) -> Result<Array<MapData, V>, Error> {
    open(maps, name, Array::try_from)
}

pub(super) fn hash<K: Pod, V: Pod>(
    maps: &Path,
    name: &'static str,
) -> Result<HashMap<MapData, K, V>, Error> {
    open(maps, name, HashMap::try_from)
}

fn open<M>(
    maps: &Path,
    name: &'static str,
    kind: impl FnOnce(Map) -> Result<M, MapError>,
) -> Result<M, Error> {
    MapData::from_pin(maps.join(name))
        .and_then(Map::from_map_data)
        .and_then(kind)
        .map_err(|e| map_error(name, e))
}
