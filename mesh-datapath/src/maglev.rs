//! Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4): from a set of backends to a row of slots. Pure: every
//! node computes the same row from the same addresses.

use mesh_common::Addr;

/// Row lengths, and up to how many backends each serves: a hundred slots per backend, so that shares differ by one per cent;
/// with more backends than the last but one serves three times, by more. Each is a multiple of the one before. A packet's slot
/// is its hash as a part of the row ([`mesh_common::slot_of`]), so that a slot is so many neighbouring ones of the next length.
const LENGTHS: [(usize, u32); 7] = [
    (1, 1),
    (28, 2851),
    (85, 3 * 2851),
    (256, 9 * 2851),
    (513, 18 * 2851),
    (1026, 36 * 2851),
    (usize::MAX, 108 * 2851),
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
///
/// Were each length filled for itself, nearly all slots would move where one backend more or less changes it. So the first
/// rounds are played on the next shorter length, where each slot stands for several: nearly all of them by just more backends
/// than that one serves, none by as many as this one does. Every backend has the same part of these rounds, and the rest of
/// its share by the others, so shares are as even as by one length.
pub(crate) fn row(backends: &[Addr], length: u32) -> Vec<u16> {
    if backends.len() <= 1 {
        return vec![0; length as usize];
    }
    let mut row = vec![None; length as usize];
    if let Some((shorter, rounds)) = shorter(backends.len(), length) {
        let mut coarse = vec![None; shorter as usize];
        claim(backends, &mut coarse, rounds);
        let each = (length / shorter) as usize;
        for (slots, backend) in row.chunks_mut(each).zip(coarse) {
            slots.fill(backend);
        }
    }
    claim(backends, &mut row, usize::MAX);
    row.into_iter().flatten().collect()
}

/// The length that the first rounds of a row are played on, and how many.
fn shorter(backends: usize, length: u32) -> Option<(u32, usize)> {
    let at = LENGTHS.iter().position(|(_, l)| *l == length)?;
    let (least, shorter) = *LENGTHS.get(at.checked_sub(1)?)?;
    let most = match LENGTHS[at].0 {
        usize::MAX => 3 * least,
        most => most,
    };
    if least == 1 || backends >= most {
        return None;
    }
    let rounds = shorter as usize / backends;
    // No length is asked for that is longer than the one for so many.
    let coarse = most - backends.max(least);
    Some((shorter, rounds * coarse / (most - least)))
}

/// Plays rounds in which every backend takes the free slot that it prefers, until there is none.
fn claim(backends: &[Addr], row: &mut [Option<u16>], rounds: usize) {
    let length = row.len() as u32;
    let mut permutations: Vec<Permutation> = backends
        .iter()
        .map(|backend| Permutation::new(backend, length))
        .collect();
    let mut free = row.iter().filter(|slot| slot.is_none()).count();
    for _ in 0..rounds {
        for (number, permutation) in (0..).zip(&mut permutations) {
            if free == 0 {
                return;
            }
            let slot = loop {
                let slot = permutation.next(length) as usize;
                if row[slot].is_none() {
                    break slot;
                }
            };
            row[slot] = Some(number);
            free -= 1;
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
        let mut skip = (hash(&octets, 0x726f_7773) % u64::from(length - 1)) as u32 + 1;
        // Else it would not come by all slots. 1 does.
        while common(skip, length) > 1 {
            skip = skip % (length - 1) + 1;
        }
        Self {
            at: (hash(&octets, 0x6d65_7368) % u64::from(length)) as u32,
            skip,
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

/// The greatest common divisor.
const fn common(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
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
