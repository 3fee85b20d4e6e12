//! `cargo xtask bench`: our data plane beside host-to-host and the kernel's own way, measured in one run.

mod direct;
mod figures;
mod kernel;
mod memory;
mod ours;
mod packet;
mod table;

use std::{collections::BTreeMap, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use serde_json::json;

use crate::figures::{Figures, Kind, Load};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Scenario {
    /// Published port, asked node and one that runs a replica
    Ingress,
    /// Task to task on another node
    Overlay,
    /// Task to a service's virtual address
    Vip,
    /// Nanoseconds a packet costs in each program
    Packet,
}

#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    about = "Measure beside host-to-host and the kernel's own way"
)]
struct Cli {
    /// What to measure; everything where none is named
    scenarios: Vec<Scenario>,
    /// Rounds: each measures every side once, in turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Where the JSON goes
    #[arg(long, value_name = "FILE", default_value = "target/bench.json")]
    json: PathBuf,
}

/// One thing to measure on all sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Path {
    /// The client asks a node that runs no replica.
    IngressRemote,
    /// The client asks the node of the replica.
    IngressLocal,
    /// A task asks a task's own address.
    Overlay,
    /// A task asks the service's address.
    Vip,
}

impl Path {
    fn name(self) -> &'static str {
        match self {
            Self::IngressRemote => "ingress, asked node runs no replica",
            Self::IngressLocal => "ingress, asked node runs the replica",
            Self::Overlay => "overlay, task to task",
            Self::Vip => "vip, task to service",
        }
    }
}

/// One of the layouts that are compared.
trait Side {
    /// Column heading.
    fn name(&self) -> &'static str;
    /// Runs one load; gives whoami's JSON line.
    fn load(&self, path: Path, load: Load) -> Result<String>;
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
        bail!("network namespaces and eBPF need root: run `sudo cargo xtask bench`");
    }
    let wanted = |one: Scenario| cli.scenarios.is_empty() || cli.scenarios.contains(&one);
    let mut paths = Vec::new();
    if wanted(Scenario::Ingress) {
        paths.extend([Path::IngressRemote, Path::IngressLocal]);
    }
    if wanted(Scenario::Overlay) {
        paths.push(Path::Overlay);
    }
    if wanted(Scenario::Vip) {
        paths.push(Path::Vip);
    }
    let mut report = json!({});
    if !paths.is_empty() {
        let (figures, memory) = sides(cli, &paths)?;
        table::print(&figures);
        memory.print();
        report["paths"] = table::json(&figures);
        report["memory"] = memory.json();
    }
    if wanted(Scenario::Packet) {
        report["packet"] = packet::run()?;
    }
    let text = serde_json::to_string_pretty(&report)?;
    fs::write(&cli.json, text + "\n")
        .with_context(|| format!("cannot write {}", cli.json.display()))?;
    println!("\nwritten to {}", cli.json.display());
    Ok(())
}

/// Everything measured: by path, kind of load, side.
type Measured = BTreeMap<(Path, Kind), Vec<(&'static str, Figures)>>;

fn sides(cli: &Cli, paths: &[Path]) -> Result<(Measured, memory::Memory)> {
    println!("making three worlds: host to host, the kernel's own way, ours");
    let direct = direct::Direct::new()?;
    let kernel = kernel::Kernel::new()?;
    let ours = ours::Ours::new()?;
    let sides: [&dyn Side; 3] = [&direct, &kernel, &ours];
    let mut measured = Measured::new();
    for round in 1..=cli.rounds {
        for &path in paths {
            for kind in Kind::ALL {
                let load = Load {
                    kind,
                    seconds: cli.seconds,
                };
                for side in sides {
                    eprintln!(
                        "round {round}: {}, {}, {}",
                        path.name(),
                        kind.name(),
                        side.name()
                    );
                    let line = side
                        .load(path, load)
                        .with_context(|| format!("{}: {}", side.name(), path.name()))?;
                    let all = measured.entry((path, kind)).or_default();
                    let at = match all.iter().position(|(name, _)| *name == side.name()) {
                        Some(at) => at,
                        None => {
                            all.push((side.name(), Figures::default()));
                            all.len() - 1
                        }
                    };
                    all[at].1.add(&line)?;
                }
            }
        }
    }
    let memory = memory::Memory::of(&ours.rig)?;
    ours.rig.finish()?;
    Ok((measured, memory))
}
