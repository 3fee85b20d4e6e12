//! The tunnel to one peer: which probes to send next, and what is known by their answers. Pure: time is an argument.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::frame::SMALLEST;

/// How long an answer may take: probes of the next round say what is still in doubt.
pub(super) const ROUND: Duration = Duration::from_millis(120);
/// Sizes tried at once between the largest answered and the smallest that was not.
const STEPS: u32 = 16;
/// Rounds in which the largest size must stay without an answer before smaller ones are tried.
const DOUBTS: u32 = 3;

/// What is known of the tunnel to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PathState {
    /// The fastest answer to a probe; `None`: nothing was answered.
    pub round_trip: Option<Duration>,
    /// Bytes of the largest IP packet that was answered.
    pub largest: u32,
    /// The peer's probes that arrived here whole.
    pub heard: u32,
    /// Those that arrived with other contents than they were sent with.
    pub changed: u32,
    /// Those that arrived with a wrong checksum.
    pub bad_checksums: u32,
}

/// The search for the largest packet.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) state: PathState,
    /// Largest packet that tasks send.
    wanted: u32,
    /// Smallest size that is taken as lost.
    lost: u32,
    /// Rounds in which the path answered, but not to `wanted`.
    doubts: u32,
    /// Size and time of each probe that was sent.
    sent: HashMap<u32, (u32, Instant)>,
}

impl Path {
    pub(super) fn new(wanted: u32) -> Self {
        Self {
            state: PathState::default(),
            wanted,
            lost: u32::MAX,
            doubts: 0,
            sent: HashMap::new(),
        }
    }

    /// Whether all is known.
    fn is_done(&self) -> bool {
        self.state.largest >= self.wanted || self.lost.saturating_sub(self.state.largest) <= 1
    }

    /// A round is over: the sizes to send in the next one.
    pub(super) fn sizes(&mut self) -> Vec<u32> {
        let answered = self.state.round_trip.is_some();
        if self.is_done() {
            return Vec::new();
        }
        if !answered {
            return vec![SMALLEST, self.wanted];
        }
        self.doubts += 1;
        if self.doubts < DOUBTS {
            return vec![self.wanted];
        }
        if self.doubts > DOUBTS {
            // Those of the last round that were not answered are lost.
            let unanswered = self.sent.values().map(|(size, _)| *size);
            let above = unanswered.filter(|size| *size > self.state.largest);
            self.lost = above.min().unwrap_or(self.lost);
        } else {
            self.lost = self.wanted;
        }
        self.sent.clear();
        let (low, high) = (self.state.largest, self.lost);
        if high - low <= 1 {
            return Vec::new();
        }
        let step = (high - low).div_ceil(STEPS + 1);
        (1..=STEPS)
            .map(|n| low + n * step)
            .take_while(|size| *size < high)
            .collect()
    }

    /// A probe is sent.
    pub(super) fn sent(&mut self, number: u32, size: u32, now: Instant) {
        self.sent.insert(number, (size, now));
    }

    /// A probe is answered.
    pub(super) fn answered(&mut self, number: u32, now: Instant) {
        let Some((size, at)) = self.sent.remove(&number) else {
            return;
        };
        let took = now - at;
        let best = self.state.round_trip.map_or(took, |best| best.min(took));
        self.state.round_trip = Some(best);
        self.state.largest = self.state.largest.max(size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds until all is known of a path that takes packets of up to `limit` bytes and loses the first `deaf` rounds.
    fn search(wanted: u32, limit: u32, deaf: u32) -> (Path, u32) {
        let now = Instant::now();
        let mut path = Path::new(wanted);
        let mut number = 0;
        for round in 0..100 {
            let sizes = path.sizes();
            if sizes.is_empty() {
                return (path, round);
            }
            for size in sizes {
                number += 1;
                path.sent(number, size, now);
                if size <= limit && round >= deaf {
                    path.answered(number, now + Duration::from_micros(50));
                }
            }
        }
        (path, 100)
    }

    #[test]
    fn the_largest_packet_is_found_to_the_byte() {
        for limit in (SMALLEST..1450).step_by(13).chain([1449]) {
            let (path, rounds) = search(1450, limit, 0);
            assert_eq!(path.state.largest, limit);
            assert!(rounds <= 7, "{rounds} rounds for {limit}");
        }
        let (path, rounds) = search(8951, 1450, 4);
        assert_eq!(path.state.largest, 1450);
        assert!(rounds <= 12, "{rounds}");
    }

    #[test]
    fn a_good_path_takes_one_round() {
        let (path, rounds) = search(1450, 1500, 0);
        assert_eq!((path.state.largest, rounds), (1450, 1));
        assert_eq!(path.state.round_trip, Some(Duration::from_micros(50)));
    }

    #[test]
    fn a_deaf_peer_is_asked_again_and_again() {
        let (path, rounds) = search(1450, 0, 0);
        assert_eq!((path.state, rounds), (PathState::default(), 100));
    }
}
