//! Memory of the agents and of the shims, as the kernel counts it.

use std::fs;

use anyhow::{Context, Result};
use mesh_tests::Rig;
use serde_json::{Value, json};

/// Kilobytes of one process.
struct Size {
    /// Resident.
    rss: u64,
    /// Proportional: shared pages divided among their users.
    pss: u64,
    /// In no other process.
    private: u64,
}

/// The processes of all nodes.
pub(crate) struct Memory {
    agents: Vec<Size>,
    shims: Vec<Size>,
}

impl Memory {
    pub(crate) fn of(rig: &Rig) -> Result<Self> {
        let agents = rig.nodes.iter().filter_map(mesh_tests::Node::pid);
        let agents = agents.map(of_process).collect::<Result<_>>()?;
        let shims = rig
            .shims()
            .into_iter()
            .map(of_process)
            .collect::<Result<_>>()?;
        Ok(Self { agents, shims })
    }

    pub(crate) fn print(&self) {
        println!("\nmemory                 RSS MiB    PSS MiB  private MiB");
        for (name, all) in [("agent", &self.agents), ("shim", &self.shims)] {
            for size in all {
                println!(
                    "  {name:<18} {:>9.1} {:>10.1} {:>12.1}",
                    mib(size.rss),
                    mib(size.pss),
                    mib(size.private)
                );
            }
        }
    }

    pub(crate) fn json(&self) -> Value {
        let rows = |all: &[Size]| -> Vec<Value> {
            all.iter()
                .map(|size| {
                    json!({
                        "rss_kib": size.rss,
                        "pss_kib": size.pss,
                        "private_kib": size.private,
                    })
                })
                .collect()
        };
        json!({ "agents": rows(&self.agents), "shims": rows(&self.shims) })
    }
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn of_process(pid: u32) -> Result<Size> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let value = |name: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .split_whitespace()
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
            .with_context(|| format!("no {name} in {path}"))
    };
    Ok(Size {
        rss: value("Rss:")?,
        pss: value("Pss:")?,
        private: value("Private_Clean:")? + value("Private_Dirty:")?,
    })
}
