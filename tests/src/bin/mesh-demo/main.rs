//! `cargo xtask demo`: a mesh of network namespaces doing its job, every step shown with its real output.

mod show;
mod steps;

use std::{fs::File, io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::Parser;
use mesh_tests::{Rig, leftovers::Traces};

use crate::show::Show;

/// Most nodes that `--nodes` takes: their addresses are .11 and up on one /24.
const MOST_NODES: usize = 100;

#[derive(Parser)]
#[command(
    name = "cargo xtask demo",
    bin_name = "cargo xtask demo",
    about = "Show a mesh at work, on this machine"
)]
struct Cli {
    /// Leave everything up and say how to enter it
    #[arg(long)]
    keep: bool,
    /// Number of nodes
    #[arg(long, default_value_t = 3, value_parser = count)]
    nodes: usize,
    /// Write what was made (namespaces, addresses, sockets, pids) to this file, for other programs
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Remove every trace of an earlier demo
    #[arg(long, conflicts_with_all = ["keep", "json"])]
    down: bool,
    /// What the demo is called: its namespaces are `demo-n1`, `demo-client`, `demo-lan`
    #[arg(long, hide = true, default_value = "demo")]
    name: String,
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=MOST_NODES).contains(&count) => Ok(count),
        _ => Err(format!("a number from 1 to {MOST_NODES}")),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("network namespaces and eBPF need root: run `sudo cargo xtask demo`");
    }
    if cli.down {
        return down(&cli.name);
    }
    let earlier = earlier(&cli.name);
    if !earlier.find().is_empty() {
        println!("An earlier demo is still there: removing it.");
        remove(&earlier)?;
    }
    // Before anything is made: a file that cannot be written is to be told at once.
    let description = cli.json.as_ref().map(File::create).transpose();
    let description = description.context("cannot write the file of --json")?;
    let mut show = Show::default();
    let mut rig = steps::world(&mut show, &cli.name, cli.nodes).context(
        "the nodes did not come up; `cargo xtask setup` installs what is missing, and `dmesg` may tell more",
    )?;
    let done = steps::all(&mut show, &mut rig);
    let described = description.map(|file| describe(&rig, file)).transpose();
    if done.is_err() {
        explain(&rig, cli.keep);
    }
    if cli.keep {
        how_to_enter(&rig);
        rig.keep();
    }
    let done = done.and(described);
    if cli.keep {
        return done.map(drop);
    }
    if done.is_ok() {
        show.step("every node leaves, every agent stops");
        rig.finish().context(
            "the mesh worked, but something is left; to look at one that is up: cargo xtask demo --keep",
        )?;
        println!("Nothing is left: no namespace, link, pin, cgroup, mount or process.");
    }
    done.map(drop)
}

/// Writes what was made, for other programs.
fn describe(rig: &Rig, mut file: File) -> Result<()> {
    serde_json::to_writer_pretty(&file, &rig.describe())
        .context("cannot write the file of --json")?;
    writeln!(file).context("cannot write the file of --json")
}

/// What a failed step leaves to look at. The cause is told at the very end, by [`main`].
fn explain(rig: &Rig, kept: bool) {
    println!("\nA step failed. What the agents said last:");
    for node in &rig.nodes {
        if kept {
            println!("--- {}: end of {}", node.name, node.log().display());
        } else {
            println!("--- {}", node.name);
        }
        println!("{}", node.log_tail(40));
    }
    if !kept {
        println!("\nTo look around in it: cargo xtask demo --keep");
    }
}

fn how_to_enter(rig: &Rig) {
    println!("\nThe mesh stays up. To use it:");
    if let Some(paths) = programs() {
        println!("  export PATH={paths}:$PATH    # mesh-ctl, and docker if it was unpacked");
    }
    for node in &rig.nodes {
        println!(
            "  {}: DOCKER_HOST=unix://{} ip netns exec {} bash    # {}, agent {}, log {}",
            node.name,
            node.socket().display(),
            node.ns.name(),
            node.address,
            node.pid()
                .map_or_else(|| "not running".to_owned(), |pid| pid.to_string()),
            node.log().display(),
        );
    }
    println!("  client: ip netns exec {} bash", rig.client.name());
    println!("There, mesh-ctl and the stock docker command ask that node: mesh-ctl node ls");
    println!("To remove every trace: cargo xtask demo --down");
}

/// Where `mesh-ctl` is, and where xtask unpacks `docker`, as words of a `PATH`.
fn programs() -> Option<String> {
    let built = std::env::current_exe().ok()?.parent()?.to_owned();
    let tools = built.parent()?.join("tools");
    Some(format!("{}:{}", built.display(), tools.display()))
}

/// The traces of whatever demo ran last, however many nodes it had.
fn earlier(name: &str) -> Traces {
    let nodes = (1..=MOST_NODES)
        .rev()
        .find(|number| PathBuf::from(format!("/run/netns/{name}-n{number}")).exists());
    Rig::traces(name, nodes.unwrap_or(3))
}

fn down(name: &str) -> Result<()> {
    let traces = earlier(name);
    let found = traces.find();
    if found.is_empty() {
        println!("No demo is up.");
        return Ok(());
    }
    println!("Removing {} things of the demo.", found.len());
    remove(&traces)?;
    println!("Nothing is left.");
    Ok(())
}

fn remove(traces: &Traces) -> Result<()> {
    traces.remove();
    let left = traces.find();
    if !left.is_empty() {
        bail!("cannot remove all of it; left:\n{}", left.join("\n"));
    }
    Ok(())
}
