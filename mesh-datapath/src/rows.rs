//! Where Maglev rows are in the `ROWS` map: a first-fit allocator of regions, which a pool's current and previous
//! row may share. Pure; the writes that it asks for are done by `tables.rs`.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::{Addr, Pool};

use crate::{Error, maglev};

/// How long the row before a change stays the "previous" one while further changes follow, in seconds. A flow
/// without an entry is found again if it sends a packet within this time of the first change; the price is an
/// entry per new flow on the slots that differ.
pub(crate) const SETTLE_S: u64 = 3600;

#[derive(Debug)]
struct Region {
    length: u32,
    /// [`Pool::id`] of the pool it belongs to.
    pool: u32,
    /// The backends in it, sorted.
    backends: Vec<Addr>,
    /// Whether these backends give this row; another version may have computed it otherwise.
    current: bool,
}

/// Slots to write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) start: u32,
    pub(crate) row: Vec<Addr>,
}

/// The regions in use.
#[derive(Debug)]
pub(crate) struct Rows {
    capacity: u32,
    regions: BTreeMap<u32, Region>,
}

impl Rows {
    pub(crate) fn new(capacity: u32) -> Self {
        Self {
            capacity,
            regions: BTreeMap::new(),
        }
    }

    /// Takes over what an earlier process wrote for a pool. `read` gives the slots of a region.
    pub(crate) fn adopt<E>(
        &mut self,
        pool: &Pool,
        mut read: impl FnMut(u32, u32) -> Result<Vec<Addr>, E>,
    ) -> Result<(), E> {
        for (start, length) in [
            (pool.current, pool.current_len),
            (pool.previous, pool.previous_len),
        ] {
            if length == 0 || self.regions.contains_key(&start) {
                continue;
            }
            let slots = read(start, length)?;
            let mut backends = slots.clone();
            backends.sort();
            backends.dedup();
            let current = maglev::row(&backends) == slots;
            self.regions.insert(
                start,
                Region {
                    length,
                    pool: pool.id,
                    backends,
                    current,
                },
            );
        }
        Ok(())
    }

    /// The pool that `backends` (sorted, unique) make out of `old`, and the slots to write first.
    /// `None`: `old` is it. The regions of `old` stay taken until [`Rows::keep`]: packets go by them until the maps
    /// have the new pool.
    pub(crate) fn update(
        &mut self,
        old: &Pool,
        backends: &[Addr],
        now_s: u64,
    ) -> Result<Option<(Pool, Option<Write>)>, Error> {
        if backends.is_empty() && old.current_len == 0 {
            return Ok(None);
        }
        if old.current_len != 0
            && self
                .regions
                .get(&old.current)
                .is_some_and(|region| region.current && region.backends == backends)
        {
            return Ok(None);
        }
        let (start, length, write) = self.acquire(old, backends)?;
        let mut pool = Pool {
            current: start,
            current_len: length,
            changed_s: now_s,
            ..*old
        };
        if old.previous_len == 0 || now_s.saturating_sub(old.changed_s) >= SETTLE_S {
            (pool.previous, pool.previous_len) = (old.current, old.current_len);
        }
        Ok(Some((pool, write)))
    }

    /// Gives back the regions that none of `pools`, which are all that the maps have, refers to.
    pub(crate) fn keep<'a>(&mut self, pools: impl Iterator<Item = &'a Pool>) {
        let used: BTreeSet<u32> = pools
            .flat_map(|p| [(p.current, p.current_len), (p.previous, p.previous_len)])
            .filter(|(_, length)| *length != 0)
            .map(|(start, _)| start)
            .collect();
        self.regions.retain(|start, _| used.contains(start));
    }

    /// Whether a row of a pool has a backend in it.
    pub(crate) fn refer_to(&self, pool: u32, backend: &Addr) -> bool {
        self.regions
            .values()
            .any(|region| region.pool == pool && region.backends.binary_search(backend).is_ok())
    }

    fn acquire(
        &mut self,
        pool: &Pool,
        backends: &[Addr],
    ) -> Result<(u32, u32, Option<Write>), Error> {
        if backends.is_empty() {
            return Ok((0, 0, None));
        }
        if pool.previous_len != 0
            && let Some(region) = self.regions.get(&pool.previous)
            && region.current
            && region.backends == backends
        {
            return Ok((pool.previous, region.length, None));
        }
        let row = maglev::row(backends);
        let length = row.len() as u32;
        let start = self.gap(length)?;
        self.regions.insert(
            start,
            Region {
                length,
                pool: pool.id,
                backends: backends.to_vec(),
                current: true,
            },
        );
        Ok((start, length, Some(Write { start, row })))
    }

    fn gap(&self, length: u32) -> Result<u32, Error> {
        let mut start = 0;
        for (at, region) in &self.regions {
            if at - start >= length {
                return Ok(start);
            }
            start = at + region.length;
        }
        if self.capacity.saturating_sub(start) >= length {
            Ok(start)
        } else {
            Err(Error::RowsFull {
                needed: length,
                capacity: self.capacity,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(last: &[u8]) -> Vec<Addr> {
        last.iter().map(|d| Addr::v4([10, 0, 0, *d])).collect()
    }

    fn set(rows: &mut Rows, pool: &mut Pool, last: &[u8], now: u64) -> Option<Write> {
        let (new, write) = rows
            .update(pool, &list(last), now)
            .unwrap()
            .expect("a change");
        *pool = new;
        write
    }

    #[test]
    fn backends_that_come_back_find_their_row() {
        let mut rows = Rows::new(10_000);
        let mut pool = Pool::default();
        assert!(set(&mut rows, &mut pool, &[1, 2], 0).is_some());
        assert!(rows.update(&pool, &list(&[1, 2]), 5).unwrap().is_none());
        assert!(set(&mut rows, &mut pool, &[1, 2, 3], 10).is_some());
        assert!(set(&mut rows, &mut pool, &[1, 2], 20).is_none());
        assert_eq!(
            (pool.current, pool.current_len),
            (pool.previous, pool.previous_len)
        );
        rows.keep([&pool].into_iter());
        assert!(rows.refer_to(pool.id, &list(&[2])[0]));
        assert!(!rows.refer_to(pool.id, &list(&[3])[0]));
        assert!(!rows.refer_to(pool.id + 1, &list(&[2])[0]));
        rows.keep([].iter());
        assert!(rows.regions.is_empty());
    }

    #[test]
    fn previous_row_stays_through_a_burst_of_changes() {
        let mut rows = Rows::new(10_000);
        let mut pool = Pool::default();
        set(&mut rows, &mut pool, &[1], 10);
        let first = pool.current;
        set(&mut rows, &mut pool, &[1, 2], 20);
        assert_eq!((pool.previous, pool.previous_len), (first, 1));
        set(&mut rows, &mut pool, &[1, 2, 3], 30);
        assert_eq!((pool.previous, pool.previous_len), (first, 1));
        let third = (pool.current, pool.current_len);
        set(&mut rows, &mut pool, &[2, 3], 30 + SETTLE_S);
        assert_eq!((pool.previous, pool.previous_len), third);
        rows.keep([&pool].into_iter());
        assert_eq!(rows.regions.len(), 2);
    }

    #[test]
    fn adopted_rows_are_recognised() {
        let mut rows = Rows::new(10_000);
        let mut pool = Pool::default();
        let write = set(&mut rows, &mut pool, &[1, 2, 3], 0).unwrap();
        let mut again = Rows::new(10_000);
        again
            .adopt(&pool, |_, _| Ok::<_, Error>(write.row.clone()))
            .unwrap();
        assert!(again.update(&pool, &list(&[1, 2, 3]), 1).unwrap().is_none());
    }

    #[test]
    fn regions_never_overlap_and_a_full_map_says_so() {
        let mut rows = Rows::new(2100);
        let mut pools = [Pool::default(); 3];
        set(&mut rows, &mut pools[0], &[1, 2], 0);
        set(&mut rows, &mut pools[1], &[1, 3], 0);
        assert!(matches!(
            rows.update(&pools[2], &list(&[4, 5]), 0),
            Err(Error::RowsFull { .. })
        ));
        rows.keep(pools[1..].iter());
        set(&mut rows, &mut pools[2], &[4, 5], 0);
        assert_eq!(pools[2].current, 0);
        assert_eq!(pools[1].current, 1009);
    }

    #[test]
    fn no_row_is_overwritten_while_the_maps_may_refer_to_it() {
        let mut rows = Rows::new(10_000);
        let mut pools = [
            Pool::default(),
            Pool {
                id: 1,
                ..Pool::default()
            },
        ];
        for backends in [&[1, 2][..], &[1, 2, 3]] {
            for pool in &mut pools {
                set(&mut rows, pool, backends, 0);
            }
        }
        rows.keep(pools.iter());
        let in_maps = pools;
        for pool in &mut pools {
            let write = set(&mut rows, pool, &[3, 4], 1).expect("a new row");
            let written = write.start..write.start + write.row.len() as u32;
            for old in &in_maps {
                assert!(!written.contains(&old.current), "{written:?}: {old:?}");
                assert!(!written.contains(&old.previous), "{written:?}: {old:?}");
            }
        }
    }
}
