//! An allocator of the lines of `ROWS`: the smallest gap that is large enough, so that what is in use stays together and
//! the table grows as little as it can. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// Which of `0..capacity` are free.
#[derive(Debug)]
pub(crate) struct Space {
    capacity: u32,
    free: u32,
    /// Length of each gap by its first line. No two touch.
    gaps: BTreeMap<u32, u32>,
    /// The same by length.
    by_length: BTreeSet<(u32, u32)>,
}

impl Space {
    pub(crate) fn new(capacity: u32) -> Self {
        let mut space = Self {
            capacity,
            free: 0,
            gaps: BTreeMap::new(),
            by_length: BTreeSet::new(),
        };
        space.give_back(0, capacity);
        space
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    pub(crate) fn free(&self) -> u32 {
        self.free
    }

    /// Takes `length` lines, at least one. `None`: no gap has as many.
    pub(crate) fn take(&mut self, length: u32) -> Option<u32> {
        let (_, start) = *self.by_length.range((length, 0)..).next()?;
        self.claim(start, length);
        Some(start)
    }

    /// Takes the lines from `start` on, all of which are free or past the end.
    pub(crate) fn claim(&mut self, start: u32, length: u32) {
        let end = start.saturating_add(length).min(self.capacity);
        let gap = self.gaps.range(..=start).next_back();
        let Some((first, gap_length)) = gap.map(|(first, length)| (*first, *length)) else {
            return;
        };
        if end <= start || end > first + gap_length {
            return;
        }
        self.remove(first, gap_length);
        self.insert(first, start - first);
        self.insert(end, first + gap_length - end);
    }

    /// Frees lines that were taken.
    pub(crate) fn give_back(&mut self, start: u32, length: u32) {
        let (mut first, mut end) = (start, start.saturating_add(length).min(self.capacity));
        if end <= first {
            return;
        }
        if let Some((before, length)) = self.gaps.range(..first).next_back()
            && before + length == first
        {
            let (before, length) = (*before, *length);
            self.remove(before, length);
            first = before;
        }
        if let Some(length) = self.gaps.get(&end).copied() {
            self.remove(end, length);
            end += length;
        }
        self.insert(first, end - first);
    }

    fn insert(&mut self, start: u32, length: u32) {
        if length != 0 {
            self.gaps.insert(start, length);
            self.by_length.insert((length, start));
            self.free += length;
        }
    }

    fn remove(&mut self, start: u32, length: u32) {
        self.gaps.remove(&start);
        self.by_length.remove(&(length, start));
        self.free -= length;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_smallest_gap_that_is_large_enough() {
        let mut space = Space::new(100);
        for (length, start) in [(10, 0), (5, 10), (20, 15), (5, 35)] {
            assert_eq!(space.take(length), Some(start));
        }
        space.give_back(15, 20);
        space.give_back(0, 10);
        assert_eq!(space.take(6), Some(0));
        assert_eq!(space.take(15), Some(15));
        assert_eq!(space.take(60), Some(40));
        assert_eq!(space.take(6), None);
        assert_eq!(space.free(), 9);
    }

    #[test]
    fn what_is_past_the_end_is_nobodys() {
        let mut space = Space::new(10);
        space.claim(8, 5);
        space.claim(20, 5);
        assert_eq!(space.free(), 8);
        space.give_back(20, 5);
        space.give_back(8, 5);
        assert_eq!(space.free(), 10);
        assert_eq!(space.take(10), Some(0));
    }

    proptest! {
        /// Against a plain map of lines: nothing is given twice, nothing is lost, and a refusal is justified.
        #[test]
        fn like_a_map_of_lines(steps in prop::collection::vec((1_u32..40, any::<prop::sample::Index>(), any::<bool>()), 1..200)) {
            let mut space = Space::new(256);
            let mut lines = [false; 256];
            let mut taken: Vec<(u32, u32)> = Vec::new();
            for (length, which, give_back) in steps {
                if give_back && !taken.is_empty() {
                    let (start, length) = taken.swap_remove(which.index(taken.len()));
                    space.give_back(start, length);
                    lines[start as usize..(start + length) as usize].fill(false);
                } else if let Some(start) = space.take(length) {
                    let range = start as usize..(start + length) as usize;
                    prop_assert!(lines[range.clone()].iter().all(|line| !line));
                    lines[range].fill(true);
                    taken.push((start, length));
                } else {
                    let longest = lines.split(|line| *line).map(<[bool]>::len).max();
                    prop_assert!(longest.unwrap_or(0) < length as usize);
                }
                prop_assert_eq!(space.free() as usize, lines.iter().filter(|line| !**line).count());
            }
            for (start, length) in taken {
                space.give_back(start, length);
            }
            prop_assert_eq!(space.take(256), Some(0));
        }
    }
}
