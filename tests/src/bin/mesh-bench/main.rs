//! `cargo xtask bench`: our data plane beside host to host, routes alone and the kernel's own way, measured in one run.

mod awake;
mod direct;
mod figures;
mod kernel;
mod memory;
mod ours;
mod packet;
mod routed;
mod stolen;
mod table;

use std::{collections::BTreeMap, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use mesh_tests::{interrupt, lan::Cable};
use serde_json::json;

use crate::figures::{Kind, Load, Sample};

/// Whoami's port of HTTP, on all sides.
pub(crate) const HTTP: u16 = 80;
/// Whoami's port of the TCP echo.
pub(crate) const ECHO: u16 = 81;

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
    bin_name = "cargo xtask bench",
    about = "Measure beside host-to-host and the kernel's own way"
)]
struct Cli {
    /// What to measure; everything where none is named
    scenarios: Vec<Scenario>,
    /// Rounds: each measures every side once, in turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// What connects the nodes, on all sides: `veth` with all its offloads, where our uplinks run tc programs, or a
    /// `wire`, where segments and checksums are complete and our uplinks run XDP programs
    #[arg(long, default_value = "veth")]
    cable: CableKind,
    /// Where the JSON goes
    #[arg(long, value_name = "FILE", default_value = "target/bench.json")]
    json: PathBuf,
}

/// See [`Cable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CableKind {
    Veth,
    Wire,
}

impl From<CableKind> for Cable {
    fn from(kind: CableKind) -> Self {
        match kind {
            CableKind::Veth => Self::Veth,
            CableKind::Wire => Self::Wire,
        }
    }
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
    if cli.rounds == 0 || !cli.seconds.is_finite() || cli.seconds <= 0.0 {
        bail!("nothing to measure: --rounds and --seconds must be above zero");
    }
    interrupt::watch()?;
    let _awake = awake::Awake::ask();
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

/// Everything measured: by path and kind of load, for each side the rounds.
type Measured = BTreeMap<(Path, Kind), Vec<(&'static str, Vec<Sample>)>>;

fn sides(cli: &Cli, paths: &[Path]) -> Result<(Measured, memory::Memory)> {
    println!("making four worlds: host to host, routes alone, the kernel's own way, ours");
    let cable = cli.cable.into();
    let direct = direct::Direct::new(cable)?;
    interrupt::check()?;
    let routed = routed::Routed::new(cable)?;
    interrupt::check()?;
    let kernel = kernel::Kernel::new(cable)?;
    interrupt::check()?;
    let ours = ours::Ours::new(cable)?;
    let sides: [&dyn Side; 4] = [&direct, &routed, &kernel, &ours];
    let mut measured = Measured::new();
    for round in 0..cli.rounds {
        for &path in paths {
            for kind in Kind::ALL {
                let load = Load {
                    kind,
                    seconds: cli.seconds,
                };
                let rows = measured
                    .entry((path, kind))
                    .or_insert_with(|| sides.map(|side| (side.name(), Vec::new())).to_vec());
                // Every side comes first as often as the others.
                for turn in 0..sides.len() {
                    let at = (turn + round) % sides.len();
                    let name = sides[at].name();
                    let what = format!("{}, {}, {name}", path.name(), kind.name());
                    eprintln!("round {}: {what}", round + 1);
                    let measured = stolen::least(|| {
                        interrupt::check()?;
                        Sample::read(kind, &sides[at].load(path, load)?)
                    });
                    let (sample, stolen) = measured.with_context(|| what)?;
                    rows[at].1.push(Sample { stolen, ..sample });
                }
            }
        }
    }
    let memory = memory::Memory::of(&ours.rig)?;
    ours.rig.finish()?;
    Ok((measured, memory))
}
