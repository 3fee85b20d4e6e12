//! Whole clusters simulated from a seed. Managers are real: Raft, log, state, reconcilers, dispatcher, and the gRPC
//! services between them. Network, disks, clocks and random numbers are simulated, and follow the seed: a run can be had
//! again at any time.
//!
//! Each seed is run in a process of its own, because a process has state of its own, too.

mod checks;
mod cluster;
mod disk;
mod faults;
mod journal;
mod lies;
mod load;
mod machine;
mod membership;
mod network;
mod planted;
mod process;
mod reader;
mod rules;
mod scenario;
mod seeds;
mod settled;
mod sim;
mod specs;
mod tokens;
mod violation;
mod worker;

use clap::Parser;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(
    name = "mesh-sim",
    about = "Simulates whole clusters in which everything goes wrong, and checks that nothing is lost",
    disable_version_flag = true
)]
struct Cli {
    /// Run this seed alone
    #[arg(long, conflicts_with_all = ["seeds", "from", "jobs"])]
    seed: Option<u64>,
    /// Print all events of the seed
    #[arg(long, requires = "seed")]
    verbose: bool,
    /// Print what the managers log, by a filter as of RUST_LOG
    #[arg(long, requires = "seed")]
    log: Option<String>,
    /// How many seeds to run
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Seeds run at a time; as many as there are processors if not given
    #[arg(long)]
    jobs: Option<usize>,
    /// Plant something wrong, and run seeds until one finds it, as what it is
    #[arg(long)]
    plant: Option<violation::Plant>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.seed {
        Some(seed) => {
            if let Some(filter) = &cli.log {
                tracing_subscriber::fmt().with_env_filter(filter).init();
            }
            scenario::run(seed, cli.plant, cli.verbose).map(|summary| {
                println!("{summary}");
                true
            })
        }
        None => seeds::run(cli.from, cli.seeds, cli.jobs, cli.plant),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mesh-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}
