//! A longest-prefix map as user space sees it: with a copy of what it holds, so that only differences are written.

use std::collections::BTreeMap;

use aya::{
    Ebpf, Pod,
    maps::{LpmTrie, MapData, lpm_trie::Key},
};

use crate::{
    Error, Report,
    tables::{absent_is_fine, map_error, take},
};

/// A map by length of the prefix in bits and what it is a prefix of, that only user space writes.
pub(crate) struct Trie<K, V> {
    name: &'static str,
    map: LpmTrie<MapData, K, V>,
    copy: BTreeMap<(u32, K), V>,
}

impl<K: Pod + Ord, V: Pod + PartialEq> Trie<K, V> {
    pub(crate) fn open(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, Error> {
        let map = LpmTrie::try_from(take(ebpf, name)?).map_err(|e| map_error(name, e))?;
        let copy = map
            .iter()
            .map(|entry| entry.map(|(key, value)| ((key.prefix_len(), key.data()), value)))
            .collect::<Result<_, _>>()
            .map_err(|e| map_error(name, e))?;
        Ok(Self { name, map, copy })
    }

    /// Writes what is new or different.
    pub(crate) fn put(
        &mut self,
        wanted: &BTreeMap<(u32, K), V>,
        report: &mut Report,
    ) -> Result<(), Error> {
        for ((prefix, key), value) in wanted {
            if self.copy.get(&(*prefix, *key)) != Some(value) {
                self.map
                    .insert(&Key::new(*prefix, *key), value, 0)
                    .map_err(|e| map_error(self.name, e))?;
                self.copy.insert((*prefix, *key), *value);
                report.written += 1;
            }
        }
        Ok(())
    }

    /// Removes what is not wanted.
    pub(crate) fn prune(
        &mut self,
        wanted: &BTreeMap<(u32, K), V>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let gone: Vec<(u32, K)> = self
            .copy
            .keys()
            .filter(|key| !wanted.contains_key(key))
            .copied()
            .collect();
        for (prefix, key) in gone {
            absent_is_fine(self.map.remove(&Key::new(prefix, key)))
                .map_err(|e| map_error(self.name, e))?;
            self.copy.remove(&(prefix, key));
            report.removed += 1;
        }
        Ok(())
    }
}
