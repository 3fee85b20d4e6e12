//! Which tables of a fixed size are full, and how much has found no room in them. Everything else goes on being programmed,
//! and what is there already stays; the rest is tried again as soon as something is removed.

use std::collections::BTreeMap;

use crate::FullTable;

/// Entries without room, by table; none for tables that are not there.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    now: BTreeMap<&'static str, usize>,
    told: BTreeMap<&'static str, usize>,
}

impl LeftOut {
    pub(crate) fn note(&mut self, table: &'static str, entries: usize) {
        if entries == 0 {
            self.now.remove(table);
        } else {
            self.now.insert(table, entries);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.now.is_empty()
    }

    /// Logs what is news since it was told last.
    pub(crate) fn tell(&mut self) {
        for (table, left_out) in &self.now {
            if self.told.get(table) != Some(left_out) {
                tracing::error!(table, left_out, "table full: the rest has to wait for room");
            }
        }
        for table in self.told.keys() {
            if !self.now.contains_key(table) {
                tracing::info!(table, "table has room for all again");
            }
        }
        self.told.clone_from(&self.now);
    }

    pub(crate) fn tables(&self) -> Vec<FullTable> {
        let tables = self.now.iter();
        let tables = tables.map(|(table, left_out)| FullTable {
            table,
            left_out: *left_out,
        });
        tables.collect()
    }
}
