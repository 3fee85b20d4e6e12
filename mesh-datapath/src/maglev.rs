//! Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4): from a set of backends to a row of slots. Pure: every
//! node computes the same row from the same addresses.

use mesh_common::Addr;

/// Row lengths, primes, and up to how many backends each serves: a hundred slots per backend, so that shares differ
/// by one per cent; with more backends than the last but one serves, by more. Few steps, as a change of length moves
/// nearly all slots.
const LENGTHS: [(usize, u32); 8] = [
    (1, 1),
    (10, 1009),
    (30, 3001),
    (100, 10_007),
    (256, 25_601),
    (400, 40_009),
    (650, 65_521),
    (usize::MAX, 262_139),
];

/// Lengths of a row for this many backends: the one that it should have, then shorter ones, down to the last that still
/// has a slot for each. None without any backend.
pub(crate) fn lengths(backends: usize) -> impl Iterator<Item = u32> {
    let serves = |most: usize| backends != 0 && backends <= most;
    let full = LENGTHS.iter().position(|(most, _)| serves(*most));
    let shorter = LENGTHS.iter().take(full.map_or(0, |at| at + 1)).rev();
    let lengths = shorter.map(|(_, length)| *length);
    lengths.take_while(move |length| *length as usize >= backends)
}

/// The row of a length for `backends`, which are sorted, without duplicates, and no more than it has slots: for each slot
/// the number of its backend.
pub(crate) fn row(backends: &[Addr], length: u32) -> Vec<u16> {
    if length <= 1 {
        return vec![0; length as usize];
    }
    let mut permutations: Vec<Permutation> = backends
        .iter()
        .map(|backend| Permutation::new(backend, length))
        .collect();
    let mut row: Vec<Option<u16>> = vec![None; length as usize];
    let mut free = length;
    loop {
        for (number, permutation) in (0..).zip(&mut permutations) {
            let slot = loop {
                let slot = permutation.next(length) as usize;
                if row[slot].is_none() {
                    break slot;
                }
            };
            row[slot] = Some(number);
            free -= 1;
            if free == 0 {
                return row.into_iter().flatten().collect();
            }
        }
    }
}

/// A backend's order of preference: slots `offset + i * skip`.
struct Permutation {
    at: u32,
    skip: u32,
}

impl Permutation {
    fn new(backend: &Addr, length: u32) -> Self {
        let octets = backend.octets();
        Self {
            at: (hash(&octets, 0x6d65_7368) % u64::from(length)) as u32,
            skip: (hash(&octets, 0x726f_7773) % u64::from(length - 1)) as u32 + 1,
        }
    }

    fn next(&mut self, length: u32) -> u32 {
        let slot = self.at;
        // Neither is `length` or more.
        self.at += self.skip;
        if self.at >= length {
            self.at -= length;
        }
        slot
    }
}

/// FNV-1a with a final mix. The seeds are constants, because all nodes must agree.
fn hash(bytes: &[u8], seed: u64) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325 ^ seed;
    for byte in bytes {
        h = (h ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^ (h >> 33)
}

#[cfg(test)]
#[path = "maglev_tests.rs"]
mod tests;
