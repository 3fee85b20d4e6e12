//! `cargo xtask drill`: real requests through changes of a mesh of network namespaces, and how many of them failed.
//!
//! The tests in `tests/tests` are short forms of the same.

mod heavy;
mod phases;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Parser;
use mesh_tests::{Rig, image};

use crate::phases::Phase;

/// Name of the drill's rig: namespaces are `drill-n1`, `drill-client`, `drill-lan`.
const NAME: &str = "drill";

#[derive(Parser)]
#[command(
    name = "cargo xtask drill",
    bin_name = "cargo xtask drill",
    about = "Ask a service without pause while it is scaled, replaced, and loses agents and a node"
)]
struct Cli {
    /// How long the service is scaled up and down; replacing it and killing agents take half of that each
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("drill: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("network namespaces and eBPF need root: run `sudo cargo xtask drill`");
    }
    println!(
        "Three nodes; a service published on port 80, asked through every node and by its name."
    );
    let mut rig = Rig::builder(NAME).nodes(3).build()?;
    let archive = image::whoami_archive(&rig.dir())?;
    rig.load_image(&archive)
        .context("cannot load the test image")?;
    let failed = all(&mut rig, Duration::from_secs(cli.seconds))?;
    rig.finish()?;
    if failed > 0 {
        bail!("{failed} requests failed");
    }
    println!("No request failed that should not have.");
    Ok(())
}

/// Does all phases; gives how many requests failed.
fn all(rig: &mut Rig, time: Duration) -> Result<u64> {
    let shell = phases::services(rig)?;
    let mut failed = 0;
    let mut told = |name: &str, phase: Result<Phase>| -> Result<()> {
        let phase = phase.with_context(|| format!("the drill {name:?} was not done"))?;
        println!("\n{name}: {phase}");
        failed += phase.failed();
        Ok(())
    };
    told("scale", phases::scale(rig, &shell, time))?;
    told("replace", phases::replace(rig, &shell, time / 2))?;
    told("agents", phases::agents(rig, time / 2))?;
    told("node loss", phases::loss(rig))?;
    Ok(failed)
}
