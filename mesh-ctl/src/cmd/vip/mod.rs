//! `vip`: virtual addresses and the tasks behind them.

mod inspect;
mod ls;

use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use mesh_api::{
    Client,
    mesh::{Load, Rates},
};

use crate::{
    flags::quantity,
    format::{Row, human},
};

/// Between the two readings that rates are of, unless told otherwise.
const USUAL: &str = "1s";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the virtual addresses of services, with every task behind them
    Inspect(inspect::Args),
    /// List virtual addresses
    #[command(visible_alias = "list")]
    Ls(ls::Args),
}

pub(crate) async fn run(client: &Client, command: Command) -> Result<()> {
    match command {
        Command::Inspect(args) => inspect::run(client, args).await,
        Command::Ls(args) => ls::run(client, args).await,
    }
}

#[derive(Debug, clap::Args)]
struct RateFlags {
    /// Tell what goes to the tasks by the second, replies left out: every node reads its counters twice, this time apart (1s
    /// where none is given), which the command waits for. Packets and bits of flows that were settled at the client's socket
    /// are not counted
    #[arg(
        long,
        value_name = "INTERVAL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = USUAL,
        value_parser = interval,
    )]
    rates: Option<Duration>,
}

fn interval(text: &str) -> Result<Duration, String> {
    let nanos = quantity::duration(text)?;
    Ok(Duration::from_nanos(nanos.unsigned_abs()))
}

/// The fields of what goes to tasks.
const OF_LOAD: [&str; 7] = [
    "Open",
    "Flows",
    "Packets",
    "Bytes",
    "FlowRate",
    "PacketRate",
    "BitRate",
];

/// With the fields of what goes to tasks. Those of rates are empty if they were not asked for.
fn with_load(row: Row, load: Load) -> Row {
    let rate = |of: fn(&Rates) -> f64| load.rates.as_ref().map(of).map(human::rate);
    let rate = |of| rate(of).unwrap_or_default();
    row.with("Open", load.open_flows)
        .with("Flows", load.flows)
        .with("Packets", load.packets)
        .with("Bytes", load.bytes)
        .with("FlowRate", rate(|rates| rates.flows_per_second))
        .with("PacketRate", rate(|rates| rates.packets_per_second))
        .with("BitRate", rate(|rates| rates.bits_per_second))
}

/// Says whose part is missing.
fn name_silent(nodes: &[String]) {
    if !nodes.is_empty() {
        let nodes = nodes.join(", ");
        note!("no answer from {nodes}: what they know is missing here");
    }
}
