//! One manager and many nodes: how fast tasks are assigned, how fast a change of backends is everywhere, what it costs.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mesh_tests::{interrupt, memory::Size};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, service},
    fleet::{Event, Fleet},
    spread::Spread,
};

/// The service whose backends change.
const FRONT: &str = "front";
/// Its tasks to begin with.
const BACKENDS: usize = 100;
/// Its port.
const PORT: u16 = 8000;
/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(600);
/// How long a change may take to be everywhere.
const CHANGE_LIMIT: Duration = Duration::from_secs(60);

/// Measures with so many nodes and tasks, and so many changes.
pub(crate) fn run(nodes: usize, tasks: usize, changes: usize) -> Result<Value> {
    println!("\n{nodes} nodes, {tasks} tasks, 1 manager");
    let cluster = Cluster::new("cs", 1)?;
    let manager = format!("{}:2377", cluster.rig.first().address);
    let token = cluster.worker_token()?;
    let pid = cluster.rig.first().pid().context("no manager runs")?;

    let begun = Instant::now();
    let fleet = Fleet::join(&cluster.rig.client, &manager, &token, nodes, FRONT)?;
    let joined = begun.elapsed();
    println!("  nodes joined               {:.1} s", joined.as_secs_f64());

    let begun = Instant::now();
    let id = cluster.create(&service("many", tasks, None)?)?;
    let all = fleet.wait("tasks to be assigned", LIMIT, tasks, |board| &board.given)?;
    let assigned = all - begun;
    let rate = tasks as f64 / assigned.as_secs_f64();
    println!(
        "  tasks assigned             {:.2} s, {rate:.0}/s",
        assigned.as_secs_f64()
    );
    cluster.wait_running(&id, tasks, LIMIT)?;
    let running = begun.elapsed();
    println!(
        "  all run, as managers know  {:.2} s",
        running.as_secs_f64()
    );

    let told = change(&cluster, &fleet, tasks, changes)?;
    println!("  a new backend at a node    {told}");
    let memory = Size::of_process(pid)?;
    println!("  manager                    {memory}");
    let all_there = fleet.board.open.load(std::sync::atomic::Ordering::Acquire);
    anyhow::ensure!(
        all_there == nodes,
        "{} sessions were lost meanwhile",
        nodes - all_there
    );
    drop(fleet);
    cluster.rig.finish()?;
    Ok(json!({
        "nodes": nodes,
        "tasks": tasks,
        "joined_s": joined.as_secs_f64(),
        "assigned_s": assigned.as_secs_f64(),
        "assigned_per_s": rate,
        "running_s": running.as_secs_f64(),
        "change": told.json(),
        "manager": memory.json(),
    }))
}

/// A published service gets one more task again and again: the times from the moment that it runs until each node knows.
fn change(cluster: &Cluster, fleet: &Fleet, before: usize, changes: usize) -> Result<Spread> {
    let id = cluster.create(&service(FRONT, BACKENDS, Some(PORT))?)?;
    let tasks = before + BACKENDS;
    fleet.wait("backends", LIMIT, tasks, |board| &board.given)?;
    cluster.wait_running(&id, BACKENDS, LIMIT)?;
    let mut told = Told::default();
    told.wait(fleet, BACKENDS * fleet.nodes)?;
    told = Told::default();
    for number in 1..=changes {
        interrupt::check()?;
        cluster.scale(&id, BACKENDS + number)?;
        told.wait(fleet, number * fleet.nodes)?;
    }
    Ok(Spread::of(told.latencies))
}

/// Who was told of what.
#[derive(Default)]
struct Told {
    running: HashMap<String, Instant>,
    /// Those whose report is not there yet: it is another thread's.
    early: Vec<(String, Instant)>,
    latencies: Vec<Duration>,
}

impl Told {
    fn wait(&mut self, fleet: &Fleet, wanted: usize) -> Result<()> {
        let deadline = Instant::now() + CHANGE_LIMIT;
        while self.latencies.len() < wanted {
            let left = deadline.saturating_duration_since(Instant::now());
            let seen = self.latencies.len();
            match fleet
                .events
                .recv_timeout(left)
                .with_context(|| format!("{seen} of {wanted} have been told"))?
            {
                Event::Running { task, at } => {
                    let (now, later) = std::mem::take(&mut self.early)
                        .into_iter()
                        .partition(|(early, _)| *early == task);
                    self.early = later;
                    let now: Vec<(String, Instant)> = now;
                    self.latencies.extend(
                        now.iter()
                            .map(|(_, told)| told.saturating_duration_since(at)),
                    );
                    self.running.insert(task, at);
                }
                Event::Told { task, at } => match self.running.get(&task) {
                    Some(ran) => self.latencies.push(at.saturating_duration_since(*ran)),
                    None => self.early.push((task, at)),
                },
            }
        }
        Ok(())
    }
}
