//! Acknowledged writes with three managers, beside what the disk needs for one `fdatasync`.

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, service},
    spread::Spread,
};

/// Writes of one client, one after the other.
const WRITES: usize = 300;
/// Clients at the same time, and the writes of all of them.
const CLIENTS: usize = 64;
const WRITES_OF_ALL: usize = 3200;
/// Bytes that are written before each `fdatasync`.
const PAGE: usize = 4096;

/// Measures on a whole cluster of three.
pub(crate) fn run(cluster: &Cluster) -> Result<Value> {
    println!(
        "\nacknowledged writes, {} managers",
        cluster.rig.nodes.len()
    );
    let sync = sync(&cluster.rig.dir())?;
    println!("  fdatasync of {PAGE} bytes     {sync}");
    let leader = cluster.leader(0)?;
    let client = Cluster::client(&cluster.rig.nodes[leader]);
    let number = Arc::new(AtomicUsize::new(0));
    let spec = |number: usize| service(&format!("w{number}"), 0, None);

    let (one, rate) = cluster.runtime().block_on(async {
        let (mut took, begun) = (Vec::new(), Instant::now());
        for _ in 0..WRITES {
            let spec = spec(number.fetch_add(1, Ordering::Relaxed))?;
            let begun = Instant::now();
            client.service_create(&spec, None).await?;
            took.push(begun.elapsed());
        }
        anyhow::Ok((
            Spread::of(took),
            WRITES as f64 / begun.elapsed().as_secs_f64(),
        ))
    })?;
    let of_sync = rate * sync.quantile(0.5).as_secs_f64();
    println!("  one client                 {one}, {rate:.0}/s, {of_sync:.2} of one fdatasync each");

    let begun = Instant::now();
    let many = cluster.runtime().block_on(async {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let (client, number) = (client.clone(), Arc::clone(&number));
            clients.spawn(async move {
                let mut took = Vec::new();
                for _ in 0..WRITES_OF_ALL / CLIENTS {
                    let spec = spec(number.fetch_add(1, Ordering::Relaxed))?;
                    let begun = Instant::now();
                    client.service_create(&spec, None).await?;
                    took.push(begun.elapsed());
                }
                anyhow::Ok(took)
            });
        }
        let mut took = Vec::new();
        while let Some(done) = clients.join_next().await {
            took.extend(done??);
        }
        anyhow::Ok(Spread::of(took))
    })?;
    let rate_many = WRITES_OF_ALL as f64 / begun.elapsed().as_secs_f64();
    println!("  {CLIENTS} clients                 {many}, {rate_many:.0}/s");
    Ok(json!({
        "fdatasync": sync.json(),
        "one": one.json(),
        "one_per_s": rate,
        "one_of_fdatasync": of_sync,
        "clients": CLIENTS,
        "many": many.json(),
        "many_per_s": rate_many,
    }))
}

/// What the disk of `dir` takes to keep a page that was added to a file.
fn sync(dir: &Path) -> Result<Spread> {
    let path = dir.join("sync");
    let mut file =
        File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut took: Vec<Duration> = Vec::new();
    for _ in 0..WRITES {
        let begun = Instant::now();
        file.write_all(&[7; PAGE])?;
        file.sync_data()?;
        took.push(begun.elapsed());
    }
    std::fs::remove_file(&path)?;
    Ok(Spread::of(took))
}
