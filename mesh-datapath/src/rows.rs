//! Where Maglev rows are in the `ROWS` map, which of them are in use, and what becomes of them when it is full. Pure; the
//! writes that it asks for are done by `lines.rs`.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::{Addr, CHUNK_LINES, CHUNKS, NARROW_BACKENDS, Pool, ROW_BACKENDS, Row, SETTLE_S};

use crate::{maglev, space::Space};

/// For so many seconds after a change the row before it stays the previous one while further changes follow. After that,
/// clients with affinity are on the current one, and it is this that they keep over the next change.
fn settle_s(pool: &Pool) -> u64 {
    let settle_s = match pool.affinity_s {
        0 => SETTLE_S,
        affinity_s => SETTLE_S.min(affinity_s),
    };
    settle_s.into()
}

#[derive(Debug)]
struct Region {
    lines: u32,
    /// The backends in it, sorted.
    backends: Vec<Addr>,
    /// Whether these backends give this row; another version may have computed it otherwise.
    current: bool,
}

/// A row to write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) row: Row,
    /// The number of each slot's backend.
    pub(crate) slots: Vec<u16>,
    pub(crate) backends: Vec<Addr>,
}

/// What becomes of a pool.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) pool: Pool,
    /// To be written before the pool is.
    pub(crate) write: Option<Write>,
    pub(crate) length: Length,
}

/// How long the row is that a pool has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// As it should be.
    Full,
    /// Shorter, for want of room: shares differ by more than they should.
    Short,
    /// There is no room for a row of these backends: the pool keeps what it has.
    Missing,
    /// The kernel did not take it, and why: found out by who writes it. The pool keeps what it has.
    Refused(String),
}

/// The pool without the row before its last change, once that is older than [`SETTLE_S`] and connections have been evicted
/// since, as of `evicted_s`: those that began after the change would be led astray by the row before. It becomes the current
/// one, so that entries are still asked for. `None`: it stays as it is, and connections that have been silent since before the
/// change are found by the row that they began under.
pub(crate) fn settled(pool: &Pool, evicted_s: Option<u64>, now_s: u64) -> Option<Pool> {
    let has_two =
        pool.previous.slots != 0 && pool.current.slots != 0 && pool.previous != pool.current;
    let is_old = now_s.saturating_sub(pool.changed_s) >= SETTLE_S.into();
    let evicts = evicted_s.is_some_and(|evicted_s| evicted_s >= pool.changed_s);
    (has_two && is_old && evicts).then_some(Pool {
        previous: pool.current,
        ..*pool
    })
}

/// The rows in use.
#[derive(Debug)]
pub(crate) struct Rows {
    space: Space,
    /// By [`Pool::id`] and first line.
    regions: BTreeMap<(u32, u32), Region>,
}

impl Rows {
    /// In so many lines, or as many as `ROWS` can have.
    pub(crate) fn new(lines: u32) -> Self {
        Self {
            space: Space::new(lines.min(CHUNKS * CHUNK_LINES)),
            regions: BTreeMap::new(),
        }
    }

    /// Takes over what an earlier process wrote for a pool. `read` gives a row's slots, and the backends they are numbers of.
    pub(crate) fn adopt<E>(
        &mut self,
        pool: &Pool,
        mut read: impl FnMut(&Row) -> Result<(Vec<u16>, Vec<Addr>), E>,
    ) -> Result<(), E> {
        for row in [pool.current, pool.previous] {
            let key = (pool.id, row.slots_at);
            if row.slots == 0 || self.regions.contains_key(&key) {
                continue;
            }
            let (slots, backends) = read(&row)?;
            let sorted = backends.is_sorted_by(|a, b| a < b);
            let own = sorted && maglev::lengths(backends.len()).any(|length| length == row.slots);
            let current = own && maglev::row(&backends, row.slots) == slots;
            let (of_slots, of_list) = Row::lines(row.slots, backends.len() as u32);
            let lines = of_slots + of_list;
            self.space.claim(row.slots_at, lines);
            let region = Region {
                lines,
                backends,
                current,
            };
            self.regions.insert(key, region);
        }
        Ok(())
    }

    /// What `backends` (sorted, unique) make out of the pool `old`: the same, if it has their row already and there is no
    /// room for a longer one. The lines of `old` stay taken until [`Rows::keep`]: packets go by them until the maps have the
    /// new pool.
    pub(crate) fn update(&mut self, old: &Pool, backends: &[Addr], now_s: u64) -> Update {
        let backends = &backends[..backends.len().min(ROW_BACKENDS as usize)];
        let full = maglev::lengths(backends.len()).next();
        let (row, write) = match full {
            None => (Row::default(), None),
            Some(full) => match self.acquire(old, backends, full) {
                Some(found) => found,
                None => {
                    return Update {
                        pool: *old,
                        write: None,
                        length: Length::Missing,
                    };
                }
            },
        };
        let mut pool = *old;
        if row != old.current {
            pool.current = row;
            pool.changed_s = now_s;
            if old.previous.slots == 0 || now_s.saturating_sub(old.changed_s) >= settle_s(old) {
                pool.previous = old.current;
            }
        }
        let length = if full.is_some_and(|full| row.slots < full) {
            Length::Short
        } else {
            Length::Full
        };
        Update {
            pool,
            write,
            length,
        }
    }

    /// Gives back the lines that none of `pools`, which are all that the maps have, refers to. Whether there were any.
    pub(crate) fn keep<'a>(&mut self, pools: impl Iterator<Item = &'a Pool>) -> bool {
        let used: BTreeSet<(u32, u32)> = pools
            .flat_map(|pool| [(pool.id, pool.current), (pool.id, pool.previous)])
            .filter(|(_, row)| row.slots != 0)
            .map(|(pool, row)| (pool, row.slots_at))
            .collect();
        let before = self.space.free();
        let space = &mut self.space;
        self.regions.retain(|key, region| {
            let kept = used.contains(key);
            if !kept {
                space.give_back(key.1, region.lines);
            }
            kept
        });
        self.space.free() != before
    }

    /// Whether a row of a pool has a backend in it.
    pub(crate) fn refer_to(&self, pool: u32, backend: &Addr) -> bool {
        self.regions
            .range((pool, 0)..=(pool, u32::MAX))
            .any(|(_, region)| region.backends.binary_search(backend).is_ok())
    }

    /// Lines that rows have, and may have.
    pub(crate) fn fill(&self) -> (u32, u32) {
        let capacity = self.space.capacity();
        (capacity - self.space.free(), capacity)
    }

    fn region(&self, pool: &Pool, row: &Row) -> Option<&Region> {
        self.regions
            .get(&(pool.id, row.slots_at))
            .filter(|_| row.slots != 0)
    }

    /// A row for `backends`: one that the pool has, if it has `full` slots, else the longest there is room for. `None`: it
    /// has none, and there is no room for one.
    fn acquire(
        &mut self,
        pool: &Pool,
        backends: &[Addr],
        full: u32,
    ) -> Option<(Row, Option<Write>)> {
        let own = [pool.current, pool.previous].into_iter();
        let own = own.filter(|row| self.region(pool, row).is_some_and(|r| r.is_of(backends)));
        // The current one of two that are as long.
        let has = own.reduce(|current, other| {
            if other.slots > current.slots {
                other
            } else {
                current
            }
        });
        if let Some(row) = has.filter(|row| row.slots >= full) {
            return Some((row, None));
        }
        let count = backends.len() as u32;
        let lengths: Vec<u32> = maglev::lengths(backends.len()).collect();
        for (step, slots) in lengths.iter().copied().enumerate() {
            if let Some(row) = has.filter(|row| row.slots >= slots) {
                return Some((row, None));
            }
            let (of_slots, of_list) = Row::lines(slots, count);
            let lines = of_slots + of_list;
            let kept_free = self.kept_free(step, lengths.len());
            if self.space.free() < lines.saturating_add(kept_free) {
                continue;
            }
            let Some(start) = self.space.take(lines) else {
                continue;
            };
            let row = Row {
                slots_at: start,
                slots,
                list_at: start + of_slots,
                wide: u32::from(count > NARROW_BACKENDS),
            };
            let region = Region {
                lines,
                backends: backends.to_vec(),
                current: true,
            };
            self.regions.insert((pool.id, start), region);
            let write = Write {
                row,
                slots: maglev::row(backends, slots),
                backends: backends.to_vec(),
            };
            return Some((row, Some(write)));
        }
        None
    }

    /// Lines that a row has to leave free if it is the `step`th of `steps` lengths, the longest first: a quarter of all if it
    /// is the longest, half of that for each step, none for the last. So rows get shorter before any service goes without.
    fn kept_free(&self, step: usize, steps: usize) -> u32 {
        if step + 1 == steps {
            0
        } else {
            self.space.capacity() >> (2 + step)
        }
    }
}

impl Region {
    fn is_of(&self, backends: &[Addr]) -> bool {
        self.current && self.backends == backends
    }
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
