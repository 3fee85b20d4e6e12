//! Real nodes and containers: from `service create` until every task has answered, and the memory of agents and shims.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{Node, Rig, eventually, http_get, image, memory::Size};
use serde_json::{Value, json};

/// How long the tasks may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Measures with so many tasks on three nodes.
pub(crate) fn run(replicas: usize) -> Result<Value> {
    println!("\n{replicas} real tasks on 3 nodes");
    let rig = Rig::builder(&format!("cr{}", std::process::id())).build()?;
    rig.load_image(&image::whoami_archive(&rig.dir())?)?;
    let agents = rig.nodes.iter().skip(1).filter_map(Node::pid);
    let idle: Vec<Size> = agents.map(Size::of_process).collect::<Result<_>>()?;
    let begun = Instant::now();
    let count = replicas.to_string();
    rig.create("web", &["-d", "--publish", "80:80", "--replicas", &count])?;
    let asked = rig.first().address;
    let mut seen = BTreeSet::new();
    eventually("every task to answer", LIMIT, || {
        let answers = rig.client.enter(|| {
            (0..replicas)
                .map(|_| http_get(asked, 80, "/")?.replica())
                .collect::<Result<Vec<_>>>()
        })?;
        seen.extend(answers);
        ensure!(seen.len() == replicas, "{} have answered", seen.len());
        Ok(())
    })?;
    let took = begun.elapsed();
    let each = took / u32::try_from(replicas).context("too many tasks")?;
    println!(
        "  all have answered after    {:.2} s, {} ms a task",
        took.as_secs_f64(),
        each.as_millis()
    );
    let shims: Vec<Size> = rig
        .shims()
        .into_iter()
        .map(Size::of_process)
        .collect::<Result<_>>()?;
    let largest = |all: &[Size]| all.iter().max_by_key(|size| size.rss).copied();
    let agent = largest(&idle).context("no agent runs")?;
    let shim = largest(&shims).context("no shim runs")?;
    println!("  agent of a worker, idle    {agent}");
    println!("  shim                       {shim}");
    rig.finish()?;
    Ok(json!({
        "replicas": replicas,
        "answering_s": took.as_secs_f64(),
        "agent_idle": agent.json(),
        "shim": shim.json(),
    }))
}
