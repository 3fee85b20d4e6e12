//! The rows in use: found again, kept while packets go by them, shorter where there is little room.

use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

/// Room enough.
const LINES: u32 = 10_000;

fn list(last: &[u8]) -> Vec<Addr> {
    last.iter().map(|d| Addr::v4([10, 0, 0, *d])).collect()
}

fn many(count: u32) -> Vec<Addr> {
    let address = |number: u32| {
        let [_, b, c, d] = number.to_be_bytes();
        Addr::v4([10, b, c, d])
    };
    let mut all: Vec<Addr> = (0..count).map(address).collect();
    all.sort();
    all
}

fn pool(id: u32) -> Pool {
    Pool {
        id,
        ..Pool::default()
    }
}

fn set(rows: &mut Rows, pool: &mut Pool, backends: &[Addr], now: u64) -> Option<Write> {
    let update = rows.update(pool, backends, now);
    assert_ne!(update.pool, *pool, "no change");
    *pool = update.pool;
    update.write
}

/// Whether a pool stays as it is, its row being so long.
fn stays(rows: &mut Rows, pool: &Pool, backends: &[Addr], length: Length) -> bool {
    let same = Update {
        pool: *pool,
        write: None,
        length,
    };
    rows.update(pool, backends, 1_000_000) == same
}

#[test]
fn backends_that_come_back_find_their_row() {
    let mut rows = Rows::new(LINES);
    let mut pool = pool(0);
    assert!(set(&mut rows, &mut pool, &list(&[1, 2]), 0).is_some());
    assert!(stays(&mut rows, &pool, &list(&[1, 2]), Length::Full));
    assert!(set(&mut rows, &mut pool, &list(&[1, 2, 3]), 10).is_some());
    assert!(set(&mut rows, &mut pool, &list(&[1, 2]), 20).is_none());
    assert_eq!(pool.current, pool.previous);
    assert!(rows.keep([&pool].into_iter()));
    assert!(!rows.keep([&pool].into_iter()));
    assert!(rows.refer_to(pool.id, &list(&[2])[0]));
    assert!(!rows.refer_to(pool.id, &list(&[3])[0]));
    assert!(!rows.refer_to(pool.id + 1, &list(&[2])[0]));
    set(&mut rows, &mut pool, &[], 30);
    assert_eq!(pool.current, Row::default());
    rows.keep([].iter());
    assert_eq!(rows.fill(), (0, LINES));
}

#[test]
fn previous_row_stays_through_a_burst_of_changes() {
    let mut rows = Rows::new(LINES);
    let mut pool = pool(0);
    set(&mut rows, &mut pool, &list(&[1]), 10);
    let first = pool.current;
    assert_eq!(first.slots, 1);
    set(&mut rows, &mut pool, &list(&[1, 2]), 20);
    assert_eq!(pool.previous, first);
    set(&mut rows, &mut pool, &list(&[1, 2, 3]), 30);
    assert_eq!(pool.previous, first);
    let third = pool.current;
    set(
        &mut rows,
        &mut pool,
        &list(&[2, 3]),
        30 + u64::from(SETTLE_S),
    );
    assert_eq!(pool.previous, third);
    rows.keep([&pool].into_iter());
    assert_eq!(rows.regions.len(), 2);
}

/// The previous row is the one that clients were held to, or on, when the last change came.
#[test]
fn clients_with_affinity_are_held_to_the_row_that_they_were_on() {
    for (affinity_s, settle_s) in [(1, 1), (60, 60), (2 * SETTLE_S, SETTLE_S)] {
        let mut rows = Rows::new(LINES);
        let mut pool = Pool {
            affinity_s,
            ..pool(0)
        };
        let settle_s = u64::from(settle_s);
        set(&mut rows, &mut pool, &list(&[1, 2]), 10);
        let first = pool.current;
        set(&mut rows, &mut pool, &list(&[1, 2, 3]), 20);
        let second = pool.current;
        let mut early = pool;
        set(&mut rows, &mut early, &list(&[2, 3]), 19 + settle_s);
        assert_eq!(early.previous, first, "affinity of {affinity_s} s");
        set(&mut rows, &mut pool, &list(&[2, 3]), 20 + settle_s);
        assert_eq!(pool.previous, second, "affinity of {affinity_s} s");
    }
}

#[test]
fn the_row_before_is_dropped_where_it_would_lead_astray() {
    let mut rows = Rows::new(LINES);
    let mut pool = pool(0);
    set(&mut rows, &mut pool, &list(&[1]), 10);
    let late = 20 + u64::from(SETTLE_S);
    assert_eq!(
        settled(&pool, Some(late), late),
        None,
        "it has no row before"
    );
    set(&mut rows, &mut pool, &list(&[1, 2]), 20);
    assert_eq!(settled(&pool, Some(late), late - 1), None, "too early");
    assert_eq!(settled(&pool, None, late), None, "nothing is evicted");
    assert_eq!(settled(&pool, Some(19), late), None, "evicted before");
    let after = settled(&pool, Some(20), late).expect("evicted since");
    assert_eq!(
        (after.current, after.previous),
        (pool.current, pool.current)
    );
    assert_eq!(after.changed_s, pool.changed_s);
    assert_eq!(settled(&after, Some(late), late), None, "done");
    // The row before is free, and what comes next finds one again.
    assert!(rows.keep([&after].into_iter()));
    let mut next = after;
    set(&mut rows, &mut next, &list(&[2]), late);
    assert_eq!(next.previous, pool.current);
    // Nobody takes new flows: open ones have nothing but the row before and their entries.
    set(&mut rows, &mut pool, &[], late);
    assert_eq!(settled(&pool, Some(2 * late), 2 * late), None);
}

#[test]
fn adopted_rows_are_recognised() {
    let mut rows = Rows::new(LINES);
    let mut pool = pool(3);
    for backends in [list(&[1, 2, 3]), many(300)] {
        let write = set(&mut rows, &mut pool, &backends, 0).expect("a row");
        let read = |_: &Row| Ok::<_, Infallible>((write.slots.clone(), write.backends.clone()));
        let only = Pool {
            previous: Row::default(),
            ..pool
        };
        let mut again = Rows::new(LINES);
        let Ok(()) = again.adopt(&only, read);
        assert!(stays(&mut again, &only, &backends, Length::Full));
        let (of_slots, of_list) = Row::lines(write.row.slots, backends.len() as u32);
        assert_eq!(again.fill().0, of_slots + of_list);
    }
}

#[test]
fn a_row_that_another_version_computed_becomes_the_previous_one() {
    let backends = list(&[1, 2]);
    let old = Pool {
        current: Row {
            slots: 1009,
            ..Row::default()
        },
        ..pool(3)
    };
    let mut rows = Rows::new(LINES);
    let Ok(()) = rows.adopt(&old, |_| {
        Ok::<_, Infallible>((vec![1; 1009], backends.clone()))
    });
    let update = rows.update(&old, &backends, 1);
    assert_eq!(update.pool.previous, old.current);
    assert_ne!(update.pool.current.slots_at, 0);
}

/// Also where its row of a length that is none any more is as this version would have computed it.
#[test]
fn rows_of_former_lengths_are_exchanged() {
    let backends = many(20);
    let old = Pool {
        current: Row {
            slots: 3001,
            ..Row::default()
        },
        ..pool(3)
    };
    let mut rows = Rows::new(LINES);
    let Ok(()) = rows.adopt(&old, |_| {
        Ok::<_, Infallible>((maglev::row(&backends, 3001), backends.clone()))
    });
    let update = rows.update(&old, &backends, 1);
    assert_eq!(update.pool.previous, old.current);
    assert_eq!(update.pool.current.slots, 2851);
}

#[test]
fn no_row_is_overwritten_while_the_maps_may_refer_to_it() {
    let mut rows = Rows::new(LINES);
    let mut pools = [pool(0), pool(1)];
    for backends in [&[1, 2][..], &[1, 2, 3]] {
        for pool in &mut pools {
            set(&mut rows, pool, &list(backends), 0);
        }
    }
    rows.keep(pools.iter());
    let in_maps = pools;
    for pool in &mut pools {
        let write = set(&mut rows, pool, &list(&[3, 4]), 1).expect("a new row");
        let written = write.row.slots_at..=write.row.list_at;
        for old in &in_maps {
            assert!(!written.contains(&old.current.slots_at), "{old:?}");
            assert!(!written.contains(&old.previous.slots_at), "{old:?}");
        }
    }
}

#[test]
fn where_there_is_little_room_rows_are_shorter() {
    let backends = many(250);
    let (of_slots, of_list) = Row::lines(25_659, 250);
    let full = of_slots + of_list;
    let mut rows = Rows::new(4 * full);
    let mut pools: Vec<Pool> = (0..200).map(pool).collect();
    let mut lengths = Vec::new();
    for pool in &mut pools {
        let update = rows.update(pool, &backends, 0);
        if update.length == Length::Missing {
            break;
        }
        *pool = update.pool;
        lengths.push(pool.current.slots);
        assert_eq!(
            update.length == Length::Short,
            pool.current.slots < 25_659,
            "{pool:?}"
        );
    }
    assert!(lengths.is_sorted_by(|a, b| a >= b), "{lengths:?}");
    let mut each = lengths.clone();
    each.dedup();
    assert_eq!(each, [25_659, 8553, 2851]);
    // One that has no row has none, and the others keep theirs.
    let without = pools[lengths.len()];
    assert!(stays(&mut rows, &without, &backends, Length::Missing));
    // Room that comes back goes to who asks again.
    assert!(rows.keep(pools[2..].iter()));
    let last = &pools[lengths.len() - 1];
    let longer = rows.update(last, &backends, 1);
    assert!(longer.pool.current.slots > 2851);
    assert_eq!(longer.pool.previous, last.current);
    assert_ne!(rows.update(&without, &backends, 1).length, Length::Missing);
    assert!(stays(&mut rows, &pools[2], &backends, Length::Full));
}

#[test]
fn a_pool_keeps_its_row_where_there_is_no_room_for_another() {
    let mut rows = Rows::new(50);
    let mut pool = pool(0);
    set(&mut rows, &mut pool, &list(&[1, 2]), 0);
    let more = list(&[1, 2, 3]);
    assert!(stays(&mut rows, &pool, &more, Length::Missing));
    rows.keep([&pool].into_iter());
    assert!(rows.refer_to(0, &list(&[2])[0]));
}

proptest! {
    /// Whatever comes and goes: the rows that pools have do not overlap, are within the table, and name every backend.
    #[test]
    fn rows_of_pools_never_overlap(
        steps in prop::collection::vec((0_usize..12, prop::sample::select(vec![0_u32, 1, 2, 9, 12, 60, 270])), 1..60),
        lines in 100_u32..2000,
    ) {
        let mut rows = Rows::new(lines);
        let mut pools: Vec<Pool> = (0..12).map(pool).collect();
        for (now, (which, count)) in steps.into_iter().enumerate() {
            let now_s = now as u64 * 1000;
            let update = rows.update(&pools[which], &many(count), now_s);
            if let Some(write) = &update.write {
                let mut seen = write.slots.clone();
                seen.sort_unstable();
                seen.dedup();
                prop_assert_eq!(seen.len(), count as usize);
            }
            pools[which] = update.pool;
            rows.keep(pools.iter());
            let mut taken = BTreeSet::new();
            let mut used = 0;
            for ((_, start), region) in &rows.regions {
                prop_assert!(start + region.lines <= lines);
                for line in *start..start + region.lines {
                    prop_assert!(taken.insert(line), "line {} twice", line);
                }
                used += region.lines;
            }
            prop_assert_eq!(rows.fill(), (used, lines));
        }
    }
}
