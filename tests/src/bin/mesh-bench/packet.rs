//! Nanoseconds a packet costs in each program, by the kernel's test_run, beside an empty program.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use mesh_datapath::bench;
use serde_json::{Value, json};

use crate::{interrupt, stolen};

/// Measures, prints the table, gives its rows.
pub(crate) fn run() -> Result<Value> {
    let pins = PathBuf::from(format!("/sys/fs/bpf/mesh/bench-{}", std::process::id()));
    let measured = stolen::least(|| {
        interrupt::check()?;
        Ok(bench::packets(&pins)?)
    });
    // The bench may have stopped half way: its pins must not outlive it.
    let _ = fs::remove_dir_all(&pins);
    if let Some(parent) = pins.parent() {
        let _ = fs::remove_dir(parent);
    }
    let (costs, stolen) = measured.context("cannot measure the programs")?;
    println!(
        "\n{:.1} % of the processors' time was stolen meanwhile\n{:<12} {:<37} {:>7} {:>7} {:>7} {:>7} {:>12}",
        stolen * 100.0,
        "program",
        "packet",
        "in row",
        "min ns",
        "median",
        "max",
        "above empty"
    );
    let mut rows = Vec::new();
    for cost in &costs {
        println!(
            "{:<12} {:<37} {:>7} {:>7} {:>7} {:>7} {:>12}",
            cost.program,
            cost.case,
            cost.packets,
            cost.min_ns,
            cost.median_ns,
            cost.max_ns,
            cost.above_empty_ns
        );
        rows.push(json!({
            "program": cost.program,
            "packet": cost.case,
            "in_row": cost.packets,
            "min_ns": cost.min_ns,
            "median_ns": cost.median_ns,
            "max_ns": cost.max_ns,
            "above_empty_ns": cost.above_empty_ns,
        }));
    }
    Ok(json!({ "stolen": stolen, "costs": rows }))
}
