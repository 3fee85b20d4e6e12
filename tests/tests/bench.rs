//! `mesh-bench` measures every side on every path. What it measures here in a moment says nothing, and is not looked at.

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::{Context, Result, ensure};
use mesh_tests::{Answer, node};
use serde_json::Value;

#[test]
fn the_bench_measures_all_sides_on_all_paths() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bench.json");
    let output = Command::new(node::program("mesh-bench").unwrap())
        .args(["--rounds", "1", "--seconds", "0.2", "--json"])
        .arg(&file)
        .args(["ingress", "overlay", "vip"])
        .output()
        .unwrap();
    let answer = Answer::of("mesh-bench".to_owned(), &output);
    let told = answer.ok().unwrap();
    assert!(told.contains("p99 us"), "{told}");
    measured(&fs::read_to_string(&file).unwrap()).unwrap();
}

fn measured(report: &str) -> Result<()> {
    let report: Value = serde_json::from_str(report)?;
    let rows = report["paths"].as_array().context("no paths")?;
    let mut seen = BTreeSet::new();
    for row in rows {
        let word = |key: &str| {
            row[key]
                .as_str()
                .with_context(|| format!("no {key}: {row}"))
        };
        seen.insert((word("path")?, word("figure")?, word("side")?));
        ensure!(row["failed"] == 0 && row["rounds"] == 1, "{row}");
        ensure!(
            row["rate"]["median"]
                .as_f64()
                .is_some_and(|rate| rate > 0.0),
            "{row}"
        );
    }
    let (paths, figures, sides) = (4, 3, 4);
    ensure!(
        seen.len() == paths * figures * sides && rows.len() == seen.len(),
        "{seen:?}"
    );
    for (kind, count) in [("agents", 2), ("shims", 2)] {
        let sizes = report["memory"][kind].as_array().context("no memory")?;
        ensure!(sizes.len() == count, "{kind}: {sizes:?}");
        ensure!(
            sizes.iter().all(|size| size["rss_kib"].as_u64() > Some(0)),
            "{sizes:?}"
        );
    }
    Ok(())
}
