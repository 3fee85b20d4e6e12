//! One run: a cluster is made, clients change things while all goes wrong that can, everything is healed, and has to
//! settle.

use crate::{
    cluster::Cluster,
    faults,
    load::Client,
    machine::Host,
    process,
    reader::{Ledger, Reader},
    settled::is_settled,
    sim::{Life, Sim, replay},
    violation::{Plant, Violation, word},
};
use anyhow::{Context, Result};
use mesh_manager::{RULES, Timings, UNTOLD};
use rand::{Rng, rngs::StdRng};
use std::{fs, io, panic, path::Path, sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// How long a healed cluster may take to settle.
const SETTLE: Duration = Duration::from_secs(120);
/// Part of the runs that are long.
const LONG: f64 = 0.1;
/// Part of the runs that begin with managers of an older program, which are upgraded one by one.
const OLD: f64 = 0.3;
/// Who changes things.
const CLIENTS: usize = 3;
/// Where the few files are that are not simulated.
const MEMORY: &str = "/dev/shm";

/// What a run is like that found nothing.
#[derive(Debug)]
pub(crate) struct Summary {
    seed: u64,
    digest: u64,
    messages: u64,
    managers: usize,
    leaders: usize,
    acknowledged: u64,
    reads: u64,
    simulated: Duration,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "seed {}: passed; {} managers, {} leaders, {} writes and {} reads answered, {} messages, {:.3} s, digest {:016x}",
            self.seed,
            self.managers,
            self.leaders,
            self.acknowledged,
            self.reads,
            self.messages,
            self.simulated.as_secs_f64(),
            self.digest
        )
    }
}

/// Runs a seed. This process, which has done nothing else before, has its clock and random numbers from then on.
pub(crate) fn run(seed: u64, plant: Option<Plant>, is_verbose: bool) -> Result<Summary> {
    process::at_fixed_addresses().context("addresses that are not random")?;
    process::simulate(seed);
    end_at_panics(seed, plant);
    // A thread of its own: what a thread keeps of random numbers is the seed's.
    let thread = std::thread::spawn(move || -> Result<Summary> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build()?;
        runtime.block_on(play(seed, plant, is_verbose))
    });
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("seed {seed}: a thread panicked"))?
}

/// How large a run is, and how long.
struct Extent {
    managers: usize,
    workers: usize,
    /// How long things go wrong.
    time: Duration,
    /// Longest time between two faults.
    pause: Duration,
    timings: Timings,
    /// The rules that the managers' programs know to begin with.
    program: u32,
    /// Whether a manager is cut off once more when all is well.
    keeps_leader: bool,
}

impl Extent {
    /// Most runs are short, with many starts and faults for their time; some are larger and longer.
    fn any(dice: &mut StdRng) -> Self {
        let is_long = dice.random_bool(LONG);
        let (entries, kept, time, pause) = match is_long {
            true => (20..200, 0..50, 10..40, 3000),
            false => (30..150, 0..50, 4..12, 1000),
        };
        let timings = Timings {
            snapshot_entries: dice.random_range(entries),
            kept_entries: dice.random_range(kept),
            entry_changes: dice.random_range(1..20),
            ..Timings::default()
        };
        Self {
            managers: match is_long {
                true => [3, 3, 3, 5][dice.random_range(0..4)],
                false => 3,
            },
            workers: dice.random_range(if is_long { 2..5 } else { 2..4 }),
            time: Duration::from_secs(dice.random_range(time)),
            pause: Duration::from_millis(pause),
            timings,
            program: match dice.random_bool(OLD) {
                true => dice.random_range(UNTOLD..RULES),
                false => RULES,
            },
            keeps_leader: is_long || dice.random_bool(0.25),
        }
    }
}

/// Nothing may panic, wherever it is caught.
fn end_at_panics(seed: u64, plant: Option<Plant>) {
    let told = panic::take_hook();
    panic::set_hook(Box::new(move |what| {
        told(what);
        let replay = replay(seed, plant);
        let panicked = Violation::Panicked;
        println!(
            "seed {seed}: VIOLATED ({}): {what}\n{replay}",
            word(panicked)
        );
        remove_own_directory();
        std::process::exit(panicked.status());
    }));
}

async fn play(seed: u64, plant: Option<Plant>, is_verbose: bool) -> Result<Summary> {
    let sim = Sim::new(seed, plant, is_verbose);
    let directory = own_directory().context("a directory in memory")?;
    let extent = Extent::any(&mut sim.dice());
    let cluster = Cluster::start(
        &sim,
        extent.program,
        extent.managers,
        extent.workers,
        directory.path(),
        extent.timings,
    )
    .await?;
    let (stop, ledger) = (Life::default(), Arc::<Ledger>::default());
    let clients: Vec<_> = (1..=CLIENTS)
        .map(|number| client(Client::new(number, &sim, &cluster, &ledger), stop.clone()))
        .collect();
    let reader = |host: &Arc<Host>| Reader {
        sim: sim.clone(),
        host: host.clone(),
        ledger: ledger.clone(),
    };
    let readers: Vec<_> = cluster
        .hosts
        .iter()
        .map(|host| tokio::spawn(reader(host).run(stop.clone())))
        .collect();
    let is_mixed = extent.program < RULES;
    faults::happen(&sim, &cluster, extent.time, extent.pause, is_mixed).await;
    faults::heal(&sim, &cluster).await;
    stop.end();
    let mut done = Vec::new();
    for client in clients {
        done.push(client.await?);
    }
    let mut reads = 0;
    for reader in readers {
        reads += reader.await?;
    }
    cluster.converge(SETTLE, is_settled).await;
    if extent.keeps_leader {
        cluster.keep_leader().await;
    }
    let mut acknowledged = 0;
    for client in &mut done {
        acknowledged += client.acknowledged;
        for host in &cluster.hosts {
            if let Some((manager, _)) = host.manager() {
                client.compare_all(&manager.view());
            }
        }
    }
    let leaders = sim.checks().leaders();
    let journal = sim.journal();
    Ok(Summary {
        seed,
        digest: journal.digest(),
        messages: journal.messages(),
        managers: extent.managers,
        leaders,
        acknowledged,
        reads,
        simulated: process::elapsed(),
    })
}

/// A directory of this process's. Not one by a random name: it would be the same for each run of a seed, and one that is
/// taken would cost further random numbers, and be another run.
fn own_directory() -> io::Result<TempDir> {
    // Of a process with the same id that was killed.
    remove_own_directory();
    tempfile::Builder::new()
        .prefix(&own_name())
        .rand_bytes(0)
        .tempdir_in(MEMORY)
}

fn own_name() -> String {
    format!("mesh-sim-{:010}", std::process::id())
}

/// For a process that ends at once.
pub(crate) fn remove_own_directory() {
    let _ = fs::remove_dir_all(Path::new(MEMORY).join(own_name()));
}

fn client(mut client: Client, stop: Life) -> JoinHandle<Client> {
    tokio::spawn(async move {
        while !stop.is_over() {
            client.step().await;
            let pause = client.pause();
            tokio::time::sleep(pause).await;
        }
        client
    })
}
