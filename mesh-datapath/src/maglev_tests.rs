//! Maglev against a naive reference, its spread and its disruption.

use std::collections::BTreeMap;

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

/// The paper's pseudo code, word for word: whole permutation tables, then the population loop.
fn reference(backends: &[Addr]) -> Vec<Addr> {
    let m = length(backends.len()) as usize;
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

#[test]
fn shares_are_even() {
    for n in [2, 5, 15, 40, 120] {
        let mut shares = BTreeMap::new();
        let row = row(&backends(n));
        for backend in &row {
            *shares.entry(*backend).or_insert(0_u32) += 1;
        }
        assert_eq!(shares.len(), n as usize);
        let (least, most) = (
            shares.values().min().copied().unwrap_or(0),
            shares.values().max().copied().unwrap_or(0),
        );
        assert!(most - least <= 2, "{n} backends: {least} to {most} slots");
    }
}

#[test]
fn removing_one_moves_few_slots_of_the_others() {
    let all = backends(10);
    let before = row(&all);
    let mut rest = all.clone();
    let gone = rest.remove(4);
    let after = row(&rest);
    let moved = before
        .iter()
        .zip(&after)
        .filter(|(old, new)| **old != gone && old != new)
        .count();
    assert!(
        moved * 100 <= before.len() * 20,
        "{moved} of {} slots moved",
        before.len()
    );
}

#[test]
fn none_and_one() {
    assert!(row(&[]).is_empty());
    assert_eq!(row(&backends(1)), backends(1));
}
