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
    /// Pause after each request of the load beside those that are counted one by one, milliseconds
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1000))]
    pause: u64,
    /// Name of the rig: namespaces are `drill-n1`, `drill-client`, `drill-lan`
    #[arg(long, hide = true, default_value = "drill")]
    name: String,
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
    let mut rig = Rig::builder(&cli.name).nodes(3).build()?;
    let archive = image::whoami_archive(&rig.dir())?;
    rig.load_image(&archive)
        .context("cannot load the test image")?;
    let time = Duration::from_secs(cli.seconds);
    let failed = all(&mut rig, time, Duration::from_millis(cli.pause))?;
    rig.finish()?;
    if failed > 0 {
        bail!("{failed} requests failed");
    }
    println!("No request failed that should not have.");
    Ok(())
}

/// Does all phases; gives how many requests failed.
fn all(rig: &mut Rig, time: Duration, pause: Duration) -> Result<u64> {
    let shell = phases::services(rig)?;
    let mut failed = 0;
    let mut told = |name: &str, phase: Result<Phase>| -> Result<()> {
        let phase = phase.with_context(|| format!("the drill {name:?} was not done"))?;
        println!("\n{name}: {phase}");
        failed += phase.failed();
        Ok(())
    };
    told("scale", phases::scale(rig, &shell, time, pause))?;
    told("replace", phases::replace(rig, &shell, time / 2, pause))?;
    told("agents", phases::agents(rig, time / 2, pause))?;
    told("node loss", phases::loss(rig))?;
    Ok(failed)
}
