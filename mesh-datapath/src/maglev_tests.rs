//! Maglev against a naive reference, its spread and its disruption.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn backends(n: u32) -> Vec<Addr> {
    let mut all: Vec<Addr> = (0..n)
        .map(|i| {
            let [_, b, c, d] = (i + 2).to_be_bytes();
            Addr::v4([10, b, c, d])
        })
        .collect();
    all.sort();
    all
}

/// The length that a row should have.
fn full(backends: &[Addr]) -> u32 {
    lengths(backends.len()).next().expect("a length")
}

/// The row of a length, by address.
fn of_length(backends: &[Addr], length: u32) -> Vec<Addr> {
    let row = super::row(backends, length);
    row.into_iter()
        .map(|number| backends[usize::from(number)])
        .collect()
}

fn row(backends: &[Addr]) -> Vec<Addr> {
    of_length(backends, full(backends))
}

/// The paper's pseudo code, word for word: whole permutation tables, then the population loop.
fn reference(backends: &[Addr]) -> Vec<Addr> {
    let m = full(backends) as usize;
    let n = backends.len();
    let permutation: Vec<Vec<usize>> = backends
        .iter()
        .map(|b| {
            let offset = (hash(&b.octets(), 0x6d65_7368) % m as u64) as usize;
            let skip = (hash(&b.octets(), 0x726f_7773) % (m as u64 - 1)) as usize + 1;
            (0..m).map(|j| (offset + j * skip) % m).collect()
        })
        .collect();
    let mut next = vec![0; n];
    let mut entry = vec![usize::MAX; m];
    let mut filled = 0;
    while filled < m {
        for i in 0..n {
            let mut c = permutation[i][next[i]];
            while entry[c] != usize::MAX {
                next[i] += 1;
                c = permutation[i][next[i]];
            }
            entry[c] = i;
            next[i] += 1;
            filled += 1;
            if filled == m {
                break;
            }
        }
    }
    entry.into_iter().map(|i| backends[i]).collect()
}

#[test]
fn same_as_the_reference() {
    for n in [2, 3, 5, 15, 16, 50] {
        let b = backends(n);
        assert_eq!(row(&b), reference(&b), "{n} backends");
    }
}

#[test]
fn lengths_are_prime() {
    for (_, length) in LENGTHS.iter().skip(1) {
        assert!(
            (2..*length)
                .take_while(|d| d * d <= *length)
                .all(|d| length % d != 0),
            "{length}"
        );
    }
}

/// Slots per backend.
fn shares(row: &[Addr]) -> BTreeMap<Addr, usize> {
    let mut shares = BTreeMap::new();
    for backend in row {
        *shares.entry(*backend).or_insert(0) += 1;
    }
    shares
}

/// Slots whose backend is another one afterwards, and need not be: theirs has not left.
fn moved(before: &[Addr], after: &[Addr], gone: Addr) -> usize {
    let pairs = before.iter().zip(after);
    pairs
        .filter(|(old, new)| **old != gone && old != new)
        .count()
}

#[test]
fn shares_are_within_one_per_cent() {
    for n in [
        2, 3, 5, 9, 10, 11, 30, 31, 40, 100, 101, 250, 256, 257, 400, 401, 650, 651, 2600,
    ] {
        let row = row(&backends(n));
        let shares = shares(&row);
        assert_eq!(shares.len(), n as usize);
        let even = row.len() as f64 / f64::from(n);
        for (backend, share) in shares {
            // The population loop goes round: no backend is more than one turn ahead.
            let off = (share as f64 - even).abs();
            assert!(
                off < 1.0 && off <= even / 100.0,
                "{backend:?} of {n}: {share} of {even}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_set_gives_the_reference_row(low in prop::collection::btree_set(any::<u32>(), 1..40)) {
        let mut backends: Vec<Addr> = low.into_iter().map(Addr::v4_be).collect();
        backends.sort();
        let row = row(&backends);
        if backends.len() > 1 {
            prop_assert_eq!(&row, &reference(&backends));
        }
        let shares = shares(&row);
        let (least, most) = (shares.values().min(), shares.values().max());
        prop_assert!(most.unwrap_or(&0) - least.unwrap_or(&0) <= 1, "{:?}", shares);
    }

    /// One of N leaves: its share must move, and of the others' slots less than two shares do (of 3,000 sets: 0.4 on average, 1.33 at most).
    #[test]
    fn one_that_leaves_disturbs_few(
        low in prop::collection::btree_set(any::<u32>(), 3..60), who: prop::sample::Index,
    ) {
        let mut backends: Vec<Addr> = low.into_iter().map(Addr::v4_be).collect();
        backends.sort();
        let before = row(&backends);
        let count = backends.len();
        let gone = backends.remove(who.index(count));
        let after = row(&backends);
        prop_assume!(before.len() == after.len());
        let moved = moved(&before, &after, gone);
        prop_assert!(moved * count <= before.len() * 2, "{moved} of {} slots", before.len());
    }
}

#[test]
fn none_and_one() {
    assert_eq!(lengths(0).count(), 0);
    assert_eq!(lengths(1).collect::<Vec<_>>(), [1]);
    assert_eq!(row(&backends(1)), backends(1));
}

#[test]
fn shorter_rows_still_have_every_backend() {
    assert_eq!(
        lengths(250).collect::<Vec<_>>(),
        [25_601, 10_007, 3001, 1009]
    );
    assert_eq!(lengths(1010).collect::<Vec<_>>().last(), Some(&3001));
    for count in [11, 250, 1009, 1010] {
        let backends = backends(count);
        for length in lengths(backends.len()) {
            let shares = shares(&of_length(&backends, length));
            assert_eq!(shares.len(), backends.len(), "{length} slots");
            let (least, most) = (shares.values().min(), shares.values().max());
            assert!(most.unwrap_or(&0) - least.unwrap_or(&0) <= 1);
        }
    }
}
