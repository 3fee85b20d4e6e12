//! `cargo xtask bench control`: how fast the managers are, and what they cost.
//!
//! The managers are real agents in network namespaces, asked on their sockets. Nodes are simulated, all in this process:
//! each joins by token, has a connection with a certificate of its own, and speaks the protocol of agents.

mod cluster;
mod failover;
mod fleet;
mod node;
mod real;
mod scale;
mod spread;
mod write;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use mesh_tests::interrupt;
use serde_json::json;

use crate::cluster::Cluster;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Tasks assigned, changes told, memory: one manager, many nodes
    Scale,
    /// Acknowledged writes, three managers
    Write,
    /// The leader of three is killed
    Failover,
    /// Real tasks until they answer
    Real,
}

#[derive(Parser)]
#[command(
    name = "cargo xtask bench control",
    bin_name = "cargo xtask bench control",
    about = "Measure the managers: real ones, with simulated nodes"
)]
struct Cli {
    /// What to measure; everything where none is named
    scenarios: Vec<Scenario>,
    /// Simulated nodes; several numbers show the growth
    #[arg(long, value_delimiter = ',', default_value = "100,1000")]
    nodes: Vec<usize>,
    /// Tasks for each simulated node
    #[arg(long, default_value_t = 30)]
    tasks: usize,
    /// Backends that are added, one after the other
    #[arg(long, default_value_t = 20)]
    changes: usize,
    /// Leaders that are killed
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// Real tasks
    #[arg(long, default_value_t = 20)]
    replicas: usize,
    /// Where the JSON goes
    #[arg(long, value_name = "FILE", default_value = "target/bench-control.json")]
    json: PathBuf,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("network namespaces need root: run `sudo cargo xtask bench control`");
    }
    let counts = [cli.tasks, cli.changes, cli.kills, cli.replicas];
    if counts.contains(&0) || cli.nodes.is_empty() || cli.nodes.contains(&0) {
        bail!("nothing to measure: all numbers must be above zero");
    }
    interrupt::watch()?;
    raise_file_limit()?;
    let wanted = |one: Scenario| cli.scenarios.is_empty() || cli.scenarios.contains(&one);
    let mut report = json!({});
    if wanted(Scenario::Scale) {
        let sizes = cli.nodes.iter();
        let all: Vec<_> = sizes
            .map(|&nodes| scale::run(nodes, nodes * cli.tasks, cli.changes))
            .collect::<Result<_>>()?;
        report["scale"] = all.into();
    }
    if wanted(Scenario::Write) || wanted(Scenario::Failover) {
        let mut cluster = Cluster::new("cw", 3)?;
        if wanted(Scenario::Write) {
            report["write"] = write::run(&cluster)?;
        }
        if wanted(Scenario::Failover) {
            report["failover"] = failover::run(&mut cluster, cli.kills)?;
        }
        cluster.rig.finish()?;
    }
    if wanted(Scenario::Real) {
        report["real"] = real::run(cli.replicas)?;
    }
    let text = serde_json::to_string_pretty(&report)?;
    fs::write(&cli.json, text + "\n")
        .with_context(|| format!("cannot write {}", cli.json.display()))?;
    println!("\nwritten to {}", cli.json.display());
    Ok(())
}

/// Every simulated node holds a connection.
fn raise_file_limit() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of open files")
}
