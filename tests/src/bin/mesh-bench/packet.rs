//! Nanoseconds a packet costs in each program, by the kernel's test_run.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

/// Measures each program beside an empty one.
pub(crate) fn run() -> Result<Value> {
    let pins = PathBuf::from(format!("/sys/fs/bpf/mesh-bench-{}", std::process::id()));
    let costs = mesh_datapath::bench::packets(&pins).context("cannot measure single packets")?;
    println!(
        "{:<12} {:<34} {:>8} {:>8} {:>8} {:>12}",
        "PROGRAM", "PACKET", "MIN ns", "MEDIAN", "MAX", "ABOVE EMPTY"
    );
    for cost in &costs {
        println!(
            "{:<12} {:<34} {:>8} {:>8} {:>8} {:>12}",
            cost.program, cost.case, cost.min_ns, cost.median_ns, cost.max_ns, cost.above_empty_ns
        );
    }
    Ok(serde_json::to_value(costs)?)
}
