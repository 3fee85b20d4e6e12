//! Whether a recorded history of one object's reads and versioned writes is *linearizable*: whether each call can be
//! given one moment between its begin and its answer so that all answers are what one copy, called in that order, would
//! have said (Herlihy and Wing 1990). The search is Wing and Gong's of 1993, with Lowe's memory of what was tried (2017).

use std::{
    collections::{HashMap, HashSet},
    fmt,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

/// A write's own number; what the object holds. The first is 0.
pub type Value = u64;

/// A call, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// It was read.
    Read(Value),
    /// It was changed by who had read `from`.
    Write {
        /// What was read before.
        from: Value,
        /// What was written.
        to: Value,
    },
    /// As a write, but nobody knows whether it was made, or will be: its answer is lost.
    Lost {
        /// What was read before.
        from: Value,
        /// What was to be written.
        to: Value,
    },
    /// A write was refused, as the object was another than this.
    Refused {
        /// What was read before.
        from: Value,
    },
}

/// A call with its time.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// What was asked, and answered.
    pub call: Call,
    /// Before it was asked.
    pub begun: Instant,
    /// After it was answered.
    pub ended: Instant,
}

impl Event {
    /// Whether it has to have taken place before its end.
    fn is_answered(&self) -> bool {
        !matches!(self.call, Call::Lost { .. })
    }

    /// What the object holds after the call; `None` if it cannot be what was called at `value`.
    fn step(&self, value: Value) -> Option<Value> {
        match self.call {
            Call::Read(seen) => (seen == value).then_some(value),
            Call::Write { from, to } | Call::Lost { from, to } => (from == value).then_some(to),
            Call::Refused { from } => (from != value).then_some(value),
        }
    }
}

/// Calls by number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Done(Vec<u64>);

impl Done {
    fn has(&self, number: usize) -> bool {
        self.0[number / 64] >> (number % 64) & 1 == 1
    }

    fn flip(&mut self, number: usize) {
        self.0[number / 64] ^= 1 << (number % 64);
    }
}

/// What one object went through, as its clients saw it.
#[derive(Debug, Default)]
pub struct History {
    events: Vec<Event>,
    /// What was read with each version.
    versions: HashMap<u64, Value>,
}

impl History {
    /// Adds a call.
    pub fn add(&mut self, event: Event) {
        self.events.push(event);
    }

    /// A version and what was read with it. Writes name versions, calls name values: one has to stand for the other.
    ///
    /// # Errors
    /// Something else was read with it before.
    pub fn version(&mut self, version: u64, value: Value) -> Result<()> {
        let known = *self.versions.entry(version).or_insert(value);
        ensure!(
            known == value,
            "version {version} was {known} and is {value}"
        );
        Ok(())
    }

    /// Looks for an order that explains all answers.
    ///
    /// # Errors
    /// There is none; told is how far one gets.
    pub fn check(&mut self) -> Result<()> {
        self.events.sort_by_key(|event| event.begun);
        let events = &self.events;
        let answered = events.iter().filter(|e| e.is_answered()).count();
        let mut done = Done(vec![0; events.len().div_ceil(64)]);
        let mut tried = HashSet::new();
        // Each with the value before it, and the call that is to be tried next after it.
        let mut order: Vec<(usize, Value)> = Vec::new();
        let (mut value, mut left, mut next) = (0, answered, 0);
        let mut furthest = Vec::new();
        while left > 0 {
            match self.candidate(&done, next, value) {
                Some(number) => {
                    done.flip(number);
                    let after = events[number].step(value).context("no such step")?;
                    if tried.insert((done.clone(), after)) {
                        order.push((number, value));
                        left -= usize::from(events[number].is_answered());
                        (value, next) = (after, 0);
                        if order.len() > furthest.len() {
                            furthest.clone_from(&order);
                        }
                    } else {
                        done.flip(number);
                        next = number + 1;
                    }
                }
                None => {
                    let Some((number, before)) = order.pop() else {
                        bail!("{}", self.explain(&furthest));
                    };
                    done.flip(number);
                    left += usize::from(events[number].is_answered());
                    (value, next) = (before, number + 1);
                }
            }
        }
        Ok(())
    }

    /// The first call from `next` on that may be the one after those that are `done`, at this value.
    fn candidate(&self, done: &Done, next: usize, value: Value) -> Option<usize> {
        let mut soonest: Option<Instant> = None;
        for (number, event) in self.events.iter().enumerate() {
            if done.has(number) {
                continue;
            }
            // It began after another had ended that has to come before it, and so did all that follow.
            if soonest.is_some_and(|end| event.begun > end) {
                return None;
            }
            if number >= next && event.step(value).is_some() {
                return Some(number);
            }
            if event.is_answered() {
                soonest = Some(soonest.map_or(event.ended, |end| end.min(event.ended)));
            }
        }
        None
    }

    fn explain(&self, order: &[(usize, Value)]) -> impl fmt::Display {
        let mut done = Done(vec![0; self.events.len().div_ceil(64)]);
        let mut value = 0;
        for &(number, before) in order {
            done.flip(number);
            value = self.events[number].step(before).unwrap_or(before);
        }
        let begin = self.events.first().map(|event| event.begun);
        let shown = |number: &usize| {
            let event = &self.events[*number];
            let at = |time: Instant| begin.map_or(0, |b| (time - b).as_millis());
            let (from, to) = (at(event.begun), at(event.ended));
            format!("  {from} to {to} ms: {:?}", event.call)
        };
        let open: Vec<String> = (0..self.events.len())
            .filter(|number| !done.has(*number))
            .map(|number| shown(&number))
            .take(12)
            .collect();
        let last: Vec<String> = order.iter().rev().take(6).map(|(n, _)| shown(n)).collect();
        format!(
            "no order explains the answers; after {} of {} calls it holds {value}\nlast, newest first:\n{}\nopen:\n{}",
            order.len(),
            self.events.len(),
            last.join("\n"),
            open.join("\n")
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Calls with their begins and ends, in milliseconds.
    fn history(calls: &[(u64, u64, Call)]) -> History {
        let zero = Instant::now();
        let mut history = History::default();
        for &(begun, ended, call) in calls {
            history.add(Event {
                call,
                begun: zero + Duration::from_millis(begun),
                ended: zero + Duration::from_millis(ended),
            });
        }
        history
    }

    fn write(from: Value, to: Value) -> Call {
        Call::Write { from, to }
    }

    fn lost(from: Value, to: Value) -> Call {
        Call::Lost { from, to }
    }

    #[test]
    fn histories_that_one_copy_could_give() {
        let good: [&[(u64, u64, Call)]; 6] = [
            &[],
            &[
                (0, 1, Call::Read(0)),
                (2, 3, write(0, 1)),
                (4, 5, Call::Read(1)),
            ],
            // At the same time as a write, both may be read, the new one first by who asks first.
            &[
                (0, 9, write(0, 1)),
                (1, 4, Call::Read(0)),
                (2, 8, Call::Read(1)),
            ],
            // One of two wins.
            &[
                (0, 5, write(0, 1)),
                (1, 6, Call::Refused { from: 0 }),
                (7, 8, Call::Read(1)),
            ],
            // Without an answer: made long after, or never.
            &[
                (0, 1, lost(0, 1)),
                (2, 3, Call::Read(0)),
                (4, 5, Call::Read(1)),
            ],
            &[(0, 1, lost(0, 1)), (2, 3, write(0, 2)), (4, 5, write(2, 3))],
        ];
        for calls in good {
            history(calls).check().unwrap();
        }
    }

    #[test]
    fn histories_that_it_could_not() {
        let bad: [&[(u64, u64, Call)]; 6] = [
            // An acknowledged write is forgotten.
            &[(0, 1, write(0, 1)), (2, 3, Call::Read(0))],
            // Read, and then not any more.
            &[
                (0, 9, write(0, 1)),
                (1, 2, Call::Read(1)),
                (3, 4, Call::Read(0)),
            ],
            // Both win.
            &[(0, 5, write(0, 1)), (1, 6, write(0, 2))],
            // Nobody wins.
            &[
                (0, 5, Call::Refused { from: 0 }),
                (6, 7, Call::Refused { from: 0 }),
            ],
            // Without an answer, made twice.
            &[
                (0, 1, lost(0, 1)),
                (2, 3, Call::Read(1)),
                (4, 5, write(1, 2)),
                (6, 7, Call::Read(1)),
            ],
            // Read before it was asked for.
            &[(0, 1, Call::Read(1)), (2, 3, write(0, 1))],
        ];
        for calls in bad {
            let told = history(calls).check().unwrap_err().to_string();
            assert!(told.starts_with("no order explains"), "{told}");
        }
    }

    #[test]
    fn many_lost_writes_are_no_trouble() {
        let mut calls = Vec::new();
        for n in 0..400 {
            let at = n * 10;
            calls.push((at, at + 30, write(n, n + 1)));
            calls.push((at, at + 1, lost(n, 1000 + n)));
            calls.push((at, at + 1, Call::Refused { from: 5000 }));
        }
        history(&calls).check().unwrap();
    }

    #[test]
    fn a_version_stands_for_one_value() {
        let mut history = History::default();
        history.version(7, 1).unwrap();
        history.version(7, 1).unwrap();
        assert!(history.version(7, 2).is_err());
    }
}
