//! One run: a cluster is made, clients change things while all goes wrong that can, everything is healed, and has to
//! settle.

use crate::{
    checks,
    cluster::Cluster,
    faults,
    load::Client,
    process,
    sim::{Life, Sim},
};
use anyhow::{Context, Result};
use mesh_manager::Timings;
use rand::Rng;
use std::{fs, io, path::Path, time::Duration};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// How long a healed cluster may take to settle.
const SETTLE: Duration = Duration::from_secs(120);
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
    simulated: Duration,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "seed {}: passed; {} managers, {} leaders, {} acknowledged, {} messages, {:.3} s, digest {:016x}",
            self.seed,
            self.managers,
            self.leaders,
            self.acknowledged,
            self.messages,
            self.simulated.as_secs_f64(),
            self.digest
        )
    }
}

/// Runs a seed. This process, which has done nothing else before, has its clock and random numbers from then on.
pub(crate) fn run(seed: u64, is_verbose: bool) -> Result<Summary> {
    process::at_fixed_addresses().context("addresses that are not random")?;
    process::simulate(seed);
    // A thread of its own: what a thread keeps of random numbers is the seed's.
    let thread = std::thread::spawn(move || -> Result<Summary> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build()?;
        runtime.block_on(play(seed, is_verbose))
    });
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("seed {seed}: a thread panicked"))?
}

async fn play(seed: u64, is_verbose: bool) -> Result<Summary> {
    let sim = Sim::new(seed, is_verbose);
    let directory = own_directory().context("a directory in memory")?;
    let (managers, workers, timings, time) = {
        let mut dice = sim.dice();
        let timings = Timings {
            snapshot_entries: dice.random_range(20..200),
            kept_entries: dice.random_range(0..50),
            ..Timings::default()
        };
        let managers = [3, 3, 3, 5][dice.random_range(0..4)];
        let time = Duration::from_secs(dice.random_range(10..40));
        let workers = dice.random_range(2..5);
        (managers, workers, timings, time)
    };
    let cluster = Cluster::start(&sim, managers, workers, directory.path(), timings).await?;
    let stop = Life::default();
    let clients: Vec<_> = (1..=2)
        .map(|number| client(Client::new(number, &sim, &cluster), stop.clone()))
        .collect();
    faults::happen(&sim, &cluster, time).await;
    faults::heal(&sim, &cluster).await;
    stop.end();
    let mut done = Vec::new();
    for client in clients {
        done.push(client.await?);
    }
    cluster.converge(SETTLE, checks::is_settled).await;
    cluster.keep_leader().await;
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
        managers,
        leaders,
        acknowledged,
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
