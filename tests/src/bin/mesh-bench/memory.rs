//! Memory of the agents and of the shims, as the kernel counts it.

use std::fs;

use anyhow::{Context, Result};
use mesh_tests::Rig;
use serde_json::{Value, json};

/// Resident and proportional (shared pages divided among their users) kilobytes of some processes.
pub(crate) struct Memory {
    agents: Vec<(u64, u64)>,
    shims: Vec<(u64, u64)>,
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
        println!("\nmemory                 RSS MiB    PSS MiB");
        for (name, all) in [("agent", &self.agents), ("shim", &self.shims)] {
            for (rss, pss) in all {
                println!("  {name:<18} {:>9.1} {:>10.1}", mib(*rss), mib(*pss));
            }
        }
    }

    pub(crate) fn json(&self) -> Value {
        let rows = |all: &[(u64, u64)]| -> Vec<Value> {
            all.iter()
                .map(|(rss, pss)| json!({ "rss_kib": rss, "pss_kib": pss }))
                .collect()
        };
        json!({ "agents": rows(&self.agents), "shims": rows(&self.shims) })
    }
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn of_process(pid: u32) -> Result<(u64, u64)> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let value = |name: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .with_context(|| format!("no {name} in {path}"))
    };
    Ok((value("Rss:")?, value("Pss:")?))
}
