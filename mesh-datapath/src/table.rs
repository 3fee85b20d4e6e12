//! A map that only user space writes, with a copy of what it holds, so that only differences are written.

use std::{collections::BTreeMap, io};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, LpmTrie, Map, MapData, MapError, lpm_trie::Key},
};

use crate::{
    Error, Report,
    tables::{map_error, take},
};

/// By hash.
pub(crate) type Hash<K, V> = Table<HashMap<MapData, K, V>, K, V>;

/// By length of the prefix in bits and what it is a prefix of; the longest prefix counts.
pub(crate) type Trie<K, V> = Table<LpmTrie<MapData, K, V>, (u32, K), V>;

/// The kernel's side.
pub(crate) trait Store<K, V>: TryFrom<Map, Error = MapError> {
    fn insert(&mut self, key: &K, value: &V) -> Result<(), MapError>;
    fn remove(&mut self, key: &K) -> Result<(), MapError>;
    fn entries(&self) -> Result<BTreeMap<K, V>, MapError>;
}

/// The map and the copy.
pub(crate) struct Table<M, K, V> {
    name: &'static str,
    map: M,
    /// Entries there may be.
    capacity: usize,
    copy: BTreeMap<K, V>,
}

impl<M: Store<K, V>, K: Copy + Ord, V: Copy + PartialEq> Table<M, K, V> {
    pub(crate) fn open(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, Error> {
        let map = take(ebpf, name)?;
        let capacity = capacity(&map).map_err(|e| map_error(name, e))?;
        let map = M::try_from(map).map_err(|e| map_error(name, e))?;
        let copy = map.entries().map_err(|e| map_error(name, e))?;
        Ok(Self {
            name,
            map,
            capacity,
            copy,
        })
    }

    /// How many entries more there may be.
    pub(crate) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.copy.len())
    }

    /// What the map holds.
    pub(crate) fn copy(&self) -> &BTreeMap<K, V> {
        &self.copy
    }

    /// Writes what is new or different. What is new and finds no room is left out: its number.
    pub(crate) fn put(
        &mut self,
        wanted: &BTreeMap<K, V>,
        report: &mut Report,
    ) -> Result<usize, Error> {
        let mut left_out = 0;
        for (key, value) in wanted {
            let old = self.copy.get(key);
            if old == Some(value) {
                continue;
            }
            if old.is_none() && self.room() == 0 {
                left_out += 1;
                continue;
            }
            self.map
                .insert(key, value)
                .map_err(|e| map_error(self.name, e))?;
            self.copy.insert(*key, *value);
            report.written += 1;
        }
        Ok(left_out)
    }

    /// Removes what is not wanted.
    pub(crate) fn prune(
        &mut self,
        wanted: impl Fn(&K) -> bool,
        report: &mut Report,
    ) -> Result<(), Error> {
        let gone: Vec<K> = self
            .copy
            .keys()
            .filter(|key| !wanted(key))
            .copied()
            .collect();
        for key in gone {
            absent_is_fine(self.map.remove(&key)).map_err(|e| map_error(self.name, e))?;
            self.copy.remove(&key);
            report.removed += 1;
        }
        Ok(())
    }
}

impl<K: Pod + Ord, V: Pod> Store<K, V> for HashMap<MapData, K, V> {
    fn insert(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        self.insert(key, value, 0)
    }

    fn remove(&mut self, key: &K) -> Result<(), MapError> {
        self.remove(key)
    }

    fn entries(&self) -> Result<BTreeMap<K, V>, MapError> {
        self.iter().collect()
    }
}

impl<K: Pod + Ord, V: Pod> Store<(u32, K), V> for LpmTrie<MapData, K, V> {
    fn insert(&mut self, (prefix, key): &(u32, K), value: &V) -> Result<(), MapError> {
        self.insert(&Key::new(*prefix, *key), value, 0)
    }

    fn remove(&mut self, (prefix, key): &(u32, K)) -> Result<(), MapError> {
        self.remove(&Key::new(*prefix, *key))
    }

    fn entries(&self) -> Result<BTreeMap<(u32, K), V>, MapError> {
        self.iter()
            .map(|entry| entry.map(|(key, value)| ((key.prefix_len(), key.data()), value)))
            .collect()
    }
}

/// Entries that a map by hash or prefix may have.
pub(crate) fn capacity(map: &Map) -> Result<usize, MapError> {
    match map {
        Map::HashMap(data) | Map::LpmTrie(data) => Ok(data.info()?.max_entries() as usize),
        _ => Ok(0),
    }
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of two entries, and how often the kernel was asked to write.
    struct Small(BTreeMap<u32, u32>, usize);

    impl TryFrom<Map> for Small {
        type Error = MapError;

        fn try_from(_: Map) -> Result<Self, MapError> {
            Err(MapError::KeyNotFound)
        }
    }

    impl Store<u32, u32> for Small {
        fn insert(&mut self, key: &u32, value: &u32) -> Result<(), MapError> {
            self.0.insert(*key, *value);
            self.1 += 1;
            // As the kernel would.
            let is_full = self.0.len() > 2;
            assert!(!is_full, "more than there is room for");
            Ok(())
        }

        fn remove(&mut self, key: &u32) -> Result<(), MapError> {
            self.0.remove(key).map(drop).ok_or(MapError::KeyNotFound)
        }

        fn entries(&self) -> Result<BTreeMap<u32, u32>, MapError> {
            Ok(self.0.clone())
        }
    }

    #[test]
    fn what_finds_no_room_is_left_out_and_takes_nobodys_place() {
        let mut table = Table {
            name: "small",
            map: Small(BTreeMap::new(), 0),
            capacity: 2,
            copy: BTreeMap::new(),
        };
        let report = &mut Report::default();
        let mut put = |table: &mut Table<_, _, _>, wanted: &[(u32, u32)]| {
            let wanted = wanted.iter().copied().collect();
            let left_out = table.put(&wanted, report).expect("put");
            table
                .prune(|key| wanted.contains_key(key), report)
                .expect("pruned");
            left_out
        };
        assert_eq!(put(&mut table, &[(8, 1), (9, 1)]), 0);
        // Earlier in order, and later to come. What is there may change.
        assert_eq!(put(&mut table, &[(1, 1), (2, 1), (8, 2), (9, 1)]), 2);
        assert_eq!(table.map.0, BTreeMap::from([(8, 2), (9, 1)]));
        assert_eq!(put(&mut table, &[(1, 1), (2, 1), (8, 2), (9, 1)]), 2);
        assert_eq!(table.map.1, 3, "nothing is written in vain");
        // Room is made after it was asked for: the next time there is some.
        assert_eq!(put(&mut table, &[(1, 1), (8, 2)]), 1);
        assert_eq!(put(&mut table, &[(1, 1), (8, 2)]), 0);
        assert_eq!(table.map.0, BTreeMap::from([(1, 1), (8, 2)]));
    }
}
