//! Project tasks: set-up, eBPF build, demo, tests, benches, verification.
//!
//! `cargo xtask help` lists them. Nothing of the mesh itself lives here: the rig,
//! the demo and the benches are programs of `tests/`, which this crate builds and starts.

mod build;
mod ebpf;
mod leftovers;
mod setup;
mod sh;
mod suite;
mod verify;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Project tasks",
    disable_version_flag = true
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install and mount what building and running need, and say what was done
    Setup,
    /// Build the eBPF programs into target/bpf/mesh-ebpf
    BuildEbpf,
    /// Build everything: the eBPF programs, then the workspace
    Build {
        /// Optimised, as a release is
        #[arg(long)]
        release: bool,
    },
    /// Show a mesh at work: nodes and a client as network namespaces (`demo --help`)
    Demo {
        /// Handed to the demo program
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Ask a service without pause while it is scaled, replaced, and loses agents and a node (`drill --help`)
    Drill {
        /// Handed to the drill program
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run every test: unit, packet, network, end to end
    Test {
        /// Only tests whose name contains this
        filter: Option<String>,
        /// Only the unit tests, which need no root
        #[arg(long)]
        unit: bool,
    },
    /// Run tests of the packet path on the Debian release's own kernel, in QEMU
    VmTest {
        /// Only these (`root_open`); all if none is named
        tests: Vec<String>,
    },
    /// Random packets through the eBPF programs
    Fuzz {
        /// Only the programs whose name contains this
        #[arg(default_value = "")]
        program: String,
        /// Packets for each program
        #[arg(long, default_value_t = 10_000_000)]
        packets: u64,
        /// Makes the same packets as the run that printed it; a new one if not given
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Simulate whole clusters from seeds, with all that can go wrong (`sim --help`)
    Sim {
        /// Handed to the simulator
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// What each program costs the kernel's verifier, beside its bound
    Verifier,
    /// Measure: ingress, overlay, vip, packet (`bench --help`); or the managers (`bench control --help`)
    Bench {
        /// Handed to the bench program
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Check format, lints, documentation and file headers; change nothing
    Verify,
    /// Mend what `verify` finds and a program can mend
    Fix,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    std::env::set_current_dir(sh::root())?;
    match cli.task {
        Task::Setup => setup::run(),
        Task::BuildEbpf => {
            setup::run()?;
            ebpf::build()
        }
        Task::Build { release } => {
            setup::run()?;
            build::all(release)
        }
        Task::Demo { args } => suite::demo(&args),
        Task::Drill { args } => suite::drill(&args),
        Task::Test { filter, unit } => suite::test(filter.as_deref(), unit),
        Task::VmTest { tests } => vm::run(&tests),
        Task::Fuzz {
            program,
            packets,
            seed,
        } => suite::fuzz(&program, packets, seed),
        Task::Sim { args } => suite::sim(&args),
        Task::Verifier => suite::verifier(),
        Task::Bench { args } => suite::bench(&args),
        Task::Verify => {
            setup::run()?;
            verify::run()
        }
        Task::Fix => verify::fix(),
    }
}
