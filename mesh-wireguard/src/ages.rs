//! How long ago the last handshakes were.
//!
//! The kernel tells their times by the wall clock, which may be set meanwhile: by it, a session in use could look as old as
//! one that is over. So what counts is when the time of a handshake was first seen, by a clock that is not set. A
//! process that has just begun to look takes every handshake for new.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use crate::key::PublicKey;

/// For so long is kept what was seen of a device that is looked at no more.
const KEPT: Duration = Duration::from_secs(3600);

/// The handshakes of the devices of this process, by the devices' keys.
#[derive(Debug, Default)]
pub(crate) struct Ages(HashMap<PublicKey, Seen>);

/// Those of a device.
#[derive(Debug)]
struct Seen {
    looked: Instant,
    /// By the other end's key: its time by the wall clock, and when that was first seen.
    handshakes: HashMap<PublicKey, (Duration, Instant)>,
}

impl Ages {
    /// How long ago the handshakes of a device were, at least, by the other end's key. `times` are what the kernel tells, since
    /// the epoch.
    pub(crate) fn of(
        &mut self,
        now: Instant,
        device: PublicKey,
        times: &BTreeMap<PublicKey, Duration>,
    ) -> BTreeMap<PublicKey, Duration> {
        self.0
            .retain(|_, seen| now.saturating_duration_since(seen.looked) < KEPT);
        let seen = self.0.entry(device).or_insert_with(|| Seen {
            looked: now,
            handshakes: HashMap::new(),
        });
        seen.looked = now;
        seen.handshakes.retain(|key, _| times.contains_key(key));
        let ages = times.iter().map(|(key, time)| {
            let (known, since) = seen.handshakes.entry(*key).or_insert((*time, now));
            if known != time {
                (*known, *since) = (*time, now);
            }
            (*key, now.saturating_duration_since(*since))
        });
        ages.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> PublicKey {
        PublicKey([number; 32])
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// What is told of handshakes, and what comes of it: pairs of a key's number and seconds.
    fn look(ages: &mut Ages, now: Instant, device: u8, times: &[(u8, u64)]) -> Vec<(u8, u64)> {
        let times = times.iter().map(|(number, at)| (key(*number), secs(*at)));
        let ages = ages.of(now, key(device), &times.collect());
        let ages = ages.into_iter().map(|(key, age)| (key.0[0], age.as_secs()));
        ages.collect()
    }

    #[test]
    fn a_clock_that_is_set_makes_no_handshake_older_or_younger() {
        let (mut ages, start) = (Ages::default(), Instant::now());
        let at = |seconds| start + secs(seconds);
        assert_eq!(look(&mut ages, at(0), 9, &[(1, 1000)]), [(1, 0)]);
        // What the wall clock says by now is not asked.
        assert_eq!(look(&mut ages, at(7), 9, &[(1, 1000)]), [(1, 7)]);
        // Another one, before the clock was set back or after.
        assert_eq!(look(&mut ages, at(8), 9, &[(1, 500)]), [(1, 0)]);
        assert_eq!(
            look(&mut ages, at(9), 9, &[(1, 500), (2, 1)]),
            [(1, 1), (2, 0)]
        );
    }

    #[test]
    fn each_device_has_its_own_and_none_is_kept_for_ever() {
        let (mut ages, start) = (Ages::default(), Instant::now());
        let at = |seconds| start + secs(seconds);
        look(&mut ages, at(0), 8, &[(1, 1000)]);
        look(&mut ages, at(0), 9, &[(1, 1000), (2, 1000)]);
        assert_eq!(look(&mut ages, at(5), 8, &[(1, 1000)]), [(1, 5)]);
        // One whose key was taken from the device begins anew.
        assert_eq!(look(&mut ages, at(5), 9, &[(2, 1000)]), [(2, 5)]);
        assert_eq!(look(&mut ages, at(6), 9, &[(1, 1000)]), [(1, 0)]);
        look(&mut ages, at(5 + KEPT.as_secs()), 9, &[]);
        assert_eq!(ages.0.len(), 1);
    }
}
