//! Many seeds, each in a process of its own.

use crate::{
    sim::replay,
    violation::{Plant, Violation, word},
};
use anyhow::{Context, Result};
use std::{
    process::{Command, Output},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How often it is told how far the run is.
const TOLD: Duration = Duration::from_secs(10);

/// Runs `count` seeds from `from` on; whether all passed. Those that did not are printed. What is planted is looked for until one
/// has found it as what it is; whether one has.
pub(crate) fn run(
    from: u64,
    count: u64,
    jobs: Option<usize>,
    plant: Option<Plant>,
) -> Result<bool> {
    let program = std::env::current_exe().context("this program's own path")?;
    let jobs = match jobs {
        Some(jobs) => jobs.max(1),
        None => thread::available_parallelism().map_or(1, usize::from),
    };
    let began = Instant::now();
    let (next, failed) = (AtomicU64::new(from), AtomicU64::new(0));
    let is_found = AtomicBool::new(false);
    let passed = AtomicU64::new(0);
    let told = Mutex::new(Instant::now());
    let end = from.saturating_add(count);
    let work = || -> Result<()> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end || is_found.load(Ordering::Relaxed) {
                return Ok(());
            }
            let mut command = Command::new(&program);
            command.args(["--seed", &seed.to_string()]);
            if let Some(plant) = plant {
                command.args(["--plant", &word(plant)]);
            }
            let output = command.output();
            let output = output.context("a seed was not started")?;
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if !output.status.success() {
                failed.fetch_add(1, Ordering::Relaxed);
                let found = output.status.code().and_then(Violation::of_status);
                match plant {
                    Some(plant) if found == Some(plant.shows_as()) => {
                        is_found.store(true, Ordering::Relaxed);
                    }
                    Some(_) => {
                        let found = found.map_or_else(|| output.status.to_string(), word);
                        println!("seed {seed}: found as {found}");
                        continue;
                    }
                    None => {}
                }
                print(seed, plant, found, &output);
                continue;
            }
            passed.fetch_add(1, Ordering::Relaxed);
            if told.elapsed() > TOLD {
                *told = Instant::now();
                println!("{} of {count} seeds", seed + 1 - from);
            }
        }
    };
    let results: Vec<Result<()>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        let ends = workers.into_iter().map(|worker| worker.join());
        ends.map(|end| end.unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked"))))
            .collect()
    });
    results.into_iter().collect::<Result<()>>()?;
    let (passed, failed) = (passed.into_inner(), failed.into_inner());
    println!(
        "{} seeds from {from}: {passed} passed, {failed} failed ({:.0} s)",
        passed + failed,
        began.elapsed().as_secs_f64()
    );
    match plant {
        Some(plant) => {
            let (is_found, shown) = (is_found.into_inner(), word(plant.shows_as()));
            let found = if is_found { "found" } else { "NOT found" };
            println!("{}: {found} as {shown}", word(plant));
            Ok(is_found)
        }
        None => Ok(failed == 0),
    }
}

fn print(seed: u64, plant: Option<Plant>, found: Option<Violation>, output: &Output) {
    print!("{}", String::from_utf8_lossy(&output.stdout));
    print!("{}", String::from_utf8_lossy(&output.stderr));
    if found.is_none() {
        println!("seed {seed}: {}\n{}", output.status, replay(seed, plant));
    }
}
