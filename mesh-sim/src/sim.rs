//! What all parts of a simulation share: the dice, the journal, and what was found to be wrong.

use crate::{
    checks::Checks,
    journal::Journal,
    network::Network,
    process,
    violation::{Plant, Violation, word},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// The run of one machine, from its start to its crash.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life(CancellationToken);

impl Life {
    /// The machine is off from now on.
    pub(crate) fn end(&self) {
        self.0.cancel();
    }

    /// Whether it is off.
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until it is off.
    pub(crate) async fn over(&self) {
        self.0.cancelled().await;
    }

    /// Does something unless the machine ends before it is done.
    pub(crate) async fn during<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.0.run_until_cancelled(work).await
    }
}

/// One run.
#[derive(Debug)]
pub(crate) struct Sim {
    pub(crate) seed: u64,
    pub(crate) plant: Option<Plant>,
    pub(crate) network: Network,
    dice: Mutex<StdRng>,
    journal: Mutex<Journal>,
    checks: Mutex<Checks>,
}

impl Sim {
    pub(crate) fn new(seed: u64, plant: Option<Plant>, is_verbose: bool) -> Arc<Self> {
        Arc::new(Self {
            seed,
            plant,
            network: Network::default(),
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
            journal: Mutex::new(Journal::new(is_verbose)),
            checks: Mutex::default(),
        })
    }

    /// The dice. Hold them for one throw.
    pub(crate) fn dice(&self) -> MutexGuard<'_, StdRng> {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something of this probability happens.
    pub(crate) fn chance(&self, probability: f64) -> bool {
        self.dice().random_bool(probability)
    }

    /// Some time between two, in milliseconds.
    pub(crate) fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.dice().random_range(from..=to))
    }

    /// One of several.
    pub(crate) fn pick<'a, T>(&self, all: &'a [T]) -> Option<&'a T> {
        if all.is_empty() {
            return None;
        }
        let at = self.dice().random_range(0..all.len());
        all.get(at)
    }

    pub(crate) fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known to be true so far. Not while the journal is held.
    pub(crate) fn checks(&self) -> MutexGuard<'_, Checks> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what happened.
    pub(crate) fn note(&self, event: fmt::Arguments<'_>) {
        self.journal().note(event);
    }

    /// Something that must never be: says what, and how to see it again. Ends the process.
    pub(crate) fn violated(&self, violation: Violation, what: fmt::Arguments<'_>) -> ! {
        let journal = self.journal();
        for line in journal.tail() {
            println!("{line}");
        }
        println!(
            "seed {}: VIOLATED ({}) after {:.3} s: {what}\n{} (--verbose shows all events)",
            self.seed,
            word(violation),
            process::elapsed().as_secs_f64(),
            replay(self.seed, self.plant)
        );
        crate::scenario::remove_own_directory();
        std::process::exit(violation.status())
    }
}

/// How a run is had again.
pub(crate) fn replay(seed: u64, plant: Option<Plant>) -> String {
    let planted = plant.map(|plant| format!(" --plant {}", word(plant)));
    let planted = planted.unwrap_or_default();
    format!("replay: cargo xtask sim --seed {seed}{planted}")
}
