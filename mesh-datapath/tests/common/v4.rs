//! Pinned maps as version 4 had them, made out of those of this version.

use std::{collections::BTreeMap, fs, path::Path};

use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapError};
use mesh_common::{AddrKey, CHUNK_LINES, LINE_WORDS, Line, Pool, Published, Row};

type Chunks = ArrayOfMaps<MapData, Array<MapData, Line>>;

/// The current row's first slot and length, the previous one's, when it changed, number, affinity.
type OldPool = [u32; 8];

/// Slots that version 4 had room for.
const SLOTS: u32 = 1 << 21;

/// Rows in version 4's map.
struct Rows {
    from: Chunks,
    to: Array<MapData, u32>,
    next: u32,
    known: BTreeMap<u32, u32>,
}

impl Rows {
    fn word(&self, line: u32, number: u32) -> u32 {
        let line = line + number / LINE_WORDS;
        let chunk = self.from.get(&(line / CHUNK_LINES), 0).expect("a chunk");
        let line = chunk.get(&(line % CHUNK_LINES), 0).expect("a line");
        line.words[(number % LINE_WORDS) as usize]
    }

    /// First slot of a row.
    fn first(&mut self, row: &Row) -> u32 {
        if row.slots == 0 {
            return 0;
        }
        if let Some(first) = self.known.get(&row.slots_at) {
            return *first;
        }
        let first = self.next;
        for slot in 0..row.slots {
            let (word, bit) = Row::place(slot, row.wide);
            let number = (self.word(row.slots_at, word) >> bit) & Row::mask(row.wide);
            let index = self.word(row.list_at, number);
            self.to.set(first + slot, index, 0).expect("a slot");
        }
        self.next += row.slots;
        self.known.insert(row.slots_at, first);
        first
    }

    fn pool(&mut self, pool: &Pool) -> OldPool {
        let [a, b, c, d, e, f, g, h] = pool.changed_s.to_ne_bytes();
        [
            self.first(&pool.current),
            pool.current.slots,
            self.first(&pool.previous),
            pool.previous.slots,
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            pool.id,
            pool.affinity_s,
        ]
    }
}

/// Puts version 4's maps in the place of those that are pinned in a folder.
pub(crate) fn make(maps: &Path) {
    let mut rows = Rows {
        from: open(maps, "ROWS", ArrayOfMaps::try_from),
        to: Array::create(SLOTS, 0).expect("a map"),
        next: 0,
        known: BTreeMap::new(),
    };
    let published: Array<MapData, Published> = open(maps, "PUBLISHED", Array::try_from);
    let mut old: Array<MapData, [u32; 10]> = Array::create(published.len(), 0).expect("a map");
    for (at, entry) in (0..).zip(published.iter()) {
        let entry = entry.expect("an entry");
        if entry == Published::default() {
            continue;
        }
        let mut words = [0; 10];
        words[..8].copy_from_slice(&rows.pool(&entry.pool));
        let [a, b] = entry.target_be.to_ne_bytes();
        words[8] = u32::from_ne_bytes([a, b, 0, 0]);
        old.set(at, words, 0).expect("an entry");
    }
    replace(maps, "PUBLISHED", |pin| old.pin(pin));
    let vips: HashMap<MapData, AddrKey, Pool> = open(maps, "VIPS", HashMap::try_from);
    let mut old: HashMap<MapData, AddrKey, OldPool> = HashMap::create(16_384, 0).expect("a map");
    for entry in vips.iter() {
        let (key, pool) = entry.expect("an entry");
        old.insert(key, rows.pool(&pool), 0).expect("an entry");
    }
    replace(maps, "VIPS", |pin| old.pin(pin));
    replace(maps, "ROWS", |pin| rows.to.pin(pin));
}

/// Puts another map in the place of one that is pinned in a folder.
pub(crate) fn replace<E: std::fmt::Debug>(
    maps: &Path,
    name: &str,
    pin: impl FnOnce(&Path) -> Result<(), E>,
) {
    let path = maps.join(name);
    fs::remove_file(&path).expect("unpin");
    pin(&path).expect("pin");
}

fn open<M>(maps: &Path, name: &str, kind: impl FnOnce(Map) -> Result<M, MapError>) -> M {
    let data = MapData::from_pin(maps.join(name)).expect("a pinned map");
    let map = Map::from_map_data(data).expect("a kind that aya knows");
    kind(map).expect("a map of that kind")
}
