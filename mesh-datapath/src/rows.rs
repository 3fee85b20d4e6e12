//! Where Maglev rows are in the `ROWS` map: a first-fit allocator with shared, counted regions. Pure; the writes
//! that it asks for are done by `tables.rs`.

use std::collections::{BTreeMap, HashMap};

use mesh_common::{Addr, Pool};

use crate::{Error, maglev};

/// How long the row before a change stays the "previous" one while further changes follow, in seconds. A flow
/// without an entry is found again if it sends a packet within this time of the first change; the price is an
/// entry per new flow on the slots that differ.
pub(crate) const SETTLE_S: u64 = 3600;

#[derive(Debug)]
struct Region {
    length: u32,
    users: u32,
    /// The backends it was computed from, when known.
    backends: Option<Vec<Addr>>,
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
    by_backends: HashMap<Vec<Addr>, u32>,
}

impl Rows {
    pub(crate) fn new(capacity: u32) -> Self {
        Self {
            capacity,
            regions: BTreeMap::new(),
            by_backends: HashMap::new(),
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
            if length == 0 {
                continue;
            }
            if let Some(region) = self.regions.get_mut(&start) {
                region.users += 1;
                continue;
            }
            let slots = read(start, length)?;
            let mut backends = slots.clone();
            backends.sort();
            backends.dedup();
            let known = (maglev::row(&backends) == slots).then_some(backends);
            if let Some(backends) = &known {
                self.by_backends.insert(backends.clone(), start);
            }
            self.regions.insert(
                start,
                Region {
                    length,
                    users: 1,
                    backends: known,
                },
            );
        }
        Ok(())
    }

    /// The pool that `backends` (sorted, unique) make out of `old`, and the slots to write first.
    /// `None`: `old` is it.
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
                .and_then(|r| r.backends.as_deref())
                == Some(backends)
        {
            return Ok(None);
        }
        let (start, length, write) = self.acquire(backends)?;
        let mut pool = Pool {
            current: start,
            current_len: length,
            changed_s: now_s,
            ..*old
        };
        if old.previous_len != 0 && now_s.saturating_sub(old.changed_s) < SETTLE_S {
            self.release(old.current, old.current_len);
        } else {
            self.release(old.previous, old.previous_len);
            (pool.previous, pool.previous_len) = (old.current, old.current_len);
        }
        Ok(Some((pool, write)))
    }

    /// Gives back the regions of a pool that is gone.
    pub(crate) fn forget(&mut self, pool: &Pool) {
        self.release(pool.current, pool.current_len);
        self.release(pool.previous, pool.previous_len);
    }

    fn acquire(&mut self, backends: &[Addr]) -> Result<(u32, u32, Option<Write>), Error> {
        if backends.is_empty() {
            return Ok((0, 0, None));
        }
        if let Some(start) = self.by_backends.get(backends)
            && let Some(region) = self.regions.get_mut(start)
        {
            region.users += 1;
            return Ok((*start, region.length, None));
        }
        let row = maglev::row(backends);
        let length = row.len() as u32;
        let start = self.gap(length)?;
        let backends = backends.to_vec();
        self.by_backends.insert(backends.clone(), start);
        self.regions.insert(
            start,
            Region {
                length,
                users: 1,
                backends: Some(backends),
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

    fn release(&mut self, start: u32, length: u32) {
        if length == 0 {
            return;
        }
        let Some(region) = self.regions.get_mut(&start) else {
            return;
        };
        region.users -= 1;
        if region.users == 0
            && let Some(region) = self.regions.remove(&start)
            && let Some(backends) = region.backends
            && self.by_backends.get(&backends) == Some(&start)
        {
            self.by_backends.remove(&backends);
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
    fn equal_sets_share_a_region() {
        let mut rows = Rows::new(10_000);
        let (mut a, mut b) = (Pool::default(), Pool::default());
        assert!(set(&mut rows, &mut a, &[1, 2], 0).is_some());
        assert!(set(&mut rows, &mut b, &[1, 2], 0).is_none());
        assert_eq!((a.current, a.current_len), (b.current, b.current_len));
        assert!(rows.update(&a, &list(&[1, 2]), 5).unwrap().is_none());
        rows.forget(&a);
        rows.forget(&b);
        assert!(rows.regions.is_empty() && rows.by_backends.is_empty());
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
        let mut rows = Rows::new(600);
        let mut pools = [Pool::default(); 3];
        set(&mut rows, &mut pools[0], &[1, 2], 0);
        set(&mut rows, &mut pools[1], &[1, 3], 0);
        assert!(matches!(
            rows.update(&pools[2], &list(&[4, 5]), 0),
            Err(Error::RowsFull { .. })
        ));
        rows.forget(&pools[0]);
        set(&mut rows, &mut pools[2], &[4, 5], 0);
        assert_eq!(pools[2].current, 0);
        assert_eq!(pools[1].current, 251);
    }
}
