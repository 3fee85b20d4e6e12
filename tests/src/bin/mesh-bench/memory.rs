//! Memory of the agents and of the shims, as the kernel counts it.

use anyhow::Result;
use mesh_tests::{
    Rig,
    memory::{Size, mib},
};
use serde_json::{Value, json};

/// The processes of all nodes.
pub(crate) struct Memory {
    agents: Vec<Size>,
    shims: Vec<Size>,
}

impl Memory {
    pub(crate) fn of(rig: &Rig) -> Result<Self> {
        let agents = rig.nodes.iter().filter_map(mesh_tests::Node::pid);
        let agents = agents.map(Size::of_process).collect::<Result<_>>()?;
        let shims = rig
            .shims()
            .into_iter()
            .map(Size::of_process)
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
        let rows = |all: &[Size]| -> Vec<Value> { all.iter().map(Size::json).collect() };
        json!({ "agents": rows(&self.agents), "shims": rows(&self.shims) })
    }
}
