//! A map that only user space writes, with a copy of what it holds, so that only differences are written.

use std::{collections::BTreeMap, io};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, lpm_trie::Key},
};
use mesh_common::{PortKey, Published, port_index};

use crate::{
    Error, Report,
    tables::{map_error, take},
};

/// By hash.
pub(crate) type Hash<K, V> = Table<HashMap<MapData, K, V>, K, V>;

/// By length of the prefix in bits and what it is a prefix of; the longest prefix counts.
pub(crate) type Trie<K, V> = Table<LpmTrie<MapData, K, V>, (u32, K), V>;

/// An entry for each port there is: nothing to hash on the way of a packet.
pub(crate) type Ports = Table<Array<MapData, Published>, PortKey, Published>;

/// The kernel's side.
pub(crate) trait Store<K, V>: TryFrom<Map, Error = MapError> {
    fn insert(&mut self, key: &K, value: &V) -> Result<(), MapError>;
    fn remove(&mut self, key: &K) -> Result<(), MapError>;
}

/// A [`Store`] that tells what it holds.
pub(crate) trait Entries<K, V>: Store<K, V> {
    fn entries(&self) -> Result<BTreeMap<K, V>, MapError>;
}

/// The map and the copy.
pub(crate) struct Table<M, K, V> {
    name: &'static str,
    map: M,
    copy: BTreeMap<K, V>,
}

impl<M: Entries<K, V>, K: Copy + Ord, V: Copy + PartialEq> Table<M, K, V> {
    pub(crate) fn open(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, Error> {
        let map = M::try_from(take(ebpf, name)?).map_err(|e| map_error(name, e))?;
        let copy = map.entries().map_err(|e| map_error(name, e))?;
        Ok(Self { name, map, copy })
    }
}

impl Ports {
    /// Reads the entries of the ports that are in use.
    pub(crate) fn open_at(
        ebpf: &mut Ebpf,
        name: &'static str,
        ports: impl Iterator<Item = PortKey>,
    ) -> Result<Self, Error> {
        let map = Array::try_from(take(ebpf, name)?).map_err(|e| map_error(name, e))?;
        let mut copy = BTreeMap::new();
        for port in ports {
            let entry = map.get(&index(&port), 0).map_err(|e| map_error(name, e))?;
            if entry != Published::default() {
                copy.insert(port, entry);
            }
        }
        Ok(Self { name, map, copy })
    }
}

impl<M: Store<K, V>, K: Copy + Ord, V: Copy + PartialEq> Table<M, K, V> {
    /// What the map holds.
    pub(crate) fn copy(&self) -> &BTreeMap<K, V> {
        &self.copy
    }

    /// Writes what is new or different.
    pub(crate) fn put(
        &mut self,
        wanted: &BTreeMap<K, V>,
        report: &mut Report,
    ) -> Result<(), Error> {
        for (key, value) in wanted {
            if self.copy.get(key) != Some(value) {
                self.map
                    .insert(key, value)
                    .map_err(|e| map_error(self.name, e))?;
                self.copy.insert(*key, *value);
                report.written += 1;
            }
        }
        Ok(())
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
}

impl<K: Pod + Ord, V: Pod> Entries<K, V> for HashMap<MapData, K, V> {
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
}

impl<K: Pod + Ord, V: Pod> Entries<(u32, K), V> for LpmTrie<MapData, K, V> {
    fn entries(&self) -> Result<BTreeMap<(u32, K), V>, MapError> {
        self.iter()
            .map(|entry| entry.map(|(key, value)| ((key.prefix_len(), key.data()), value)))
            .collect()
    }
}

impl Store<PortKey, Published> for Array<MapData, Published> {
    fn insert(&mut self, port: &PortKey, value: &Published) -> Result<(), MapError> {
        self.set(index(port), value, 0)
    }

    fn remove(&mut self, port: &PortKey) -> Result<(), MapError> {
        self.set(index(port), Published::default(), 0)
    }
}

fn index(port: &PortKey) -> u32 {
    port_index(port.protocol, u16::from_be(port.port_be))
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
