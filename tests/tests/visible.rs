//! What the mesh tells of its packets: flows, drops, metrics.

use anyhow::{Context, Result, ensure};
use mesh_tests::{Rig, http_get, rig::test_name, scenario_on};

/// Requests on new connections to each node.
const REQUESTS: usize = 10;

#[test]
fn flows_drops_and_metrics_say_what_went_on() {
    let builder = Rig::builder(&test_name("vis"))
        .nodes(2)
        .agent_arg("--metrics-addr=0.0.0.0:9323");
    scenario_on(builder, |rig| {
        rig.create("web", &["--replicas", "2", "--publish", "80:80"])?;
        rig.client.enter(|| {
            for node in &rig.nodes {
                for _ in 0..REQUESTS {
                    ensure!(http_get(node.address, 80, "/")?.status == 200);
                }
            }
            Ok(())
        })?;
        let client = rig.client_address().to_string();
        let mut listed = 0;
        for node in &rig.nodes {
            let of = |args: &[&str]| node.ok(&[&["flow", "ls", "-q"], args].concat());
            let flows = of(&["--service", "web", "--client", &client])?;
            ensure!(
                flows.lines().all(|flow| flow.starts_with(&client)),
                "{flows}"
            );
            listed += flows.lines().count();
            let others = of(&["--client", "192.0.2.1"])?;
            ensure!(others.is_empty(), "{others}");
        }
        ensure!(
            listed == rig.nodes.len() * REQUESTS,
            "{listed} flows for {} requests to each of {} nodes",
            REQUESTS,
            rig.nodes.len()
        );
        let reasons = rig.first().ok(&["drop", "ls", "--all", "-q"])?;
        ensure!(
            reasons.lines().any(|reason| reason == "spoofed"),
            "{reasons}"
        );
        metrics(rig)
    });
}

/// All nodes together say that every request reached a task of `web`.
fn metrics(rig: &Rig) -> Result<()> {
    let mut flows = 0;
    for node in &rig.nodes {
        let text = rig
            .client
            .enter(|| http_get(node.address, 9323, "/metrics"))?
            .text();
        for line in text.lines() {
            if line.starts_with("mesh_backend_flows_total{service=\"web\",front=\"80/tcp\"") {
                let value = line.rsplit(' ').next().context("no value")?;
                flows += value.parse::<usize>().with_context(|| line.to_owned())?;
            }
        }
        ensure!(
            text.contains("mesh_table_capacity{table=\"flows\"}"),
            "{text}"
        );
        ensure!(text.ends_with("# EOF\n"), "{text}");
    }
    ensure!(flows == rig.nodes.len() * REQUESTS, "{flows} flows counted");
    Ok(())
}
