//! What a user gives with a command arrives in the task, and every noun answers to its short name and in each format.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};
use mesh_tests::{Node, Rig, Task, image, scenario};
use serde_json::Value;

#[test]
fn what_a_service_is_given_is_found_in_its_tasks() {
    scenario("flags", 2, |rig| {
        let dir = rig.dir().join("given");
        fs::create_dir(&dir)?;
        fs::write(dir.join("f"), "from the node\n")?;
        let first = rig.first();
        first.ok(&["node", "update", "--label-add", "disk=ssd", "n2"])?;
        let mount = format!("type=bind,source={},target=/x,readonly", dir.display());
        let given = [
            ["--replicas", "2"],
            ["--env", "GREETING=hello there"],
            ["--mount", &mount],
            ["--limit-cpu", "0.25"],
            ["--limit-memory", "64M"],
            ["--limit-pids", "50"],
            ["--label", "team=blue"],
            ["--constraint", "node.labels.disk==SSD"],
        ];
        rig.sleepers("whole", &given.concat())?;
        let tasks = rig.wait_running("whole", 2)?;
        for task in &tasks {
            ensure!(task.node == "n2", "{task:?}");
            inside(rig, task)?;
        }
        specified(first, &mount)?;
        ensure!(fs::read_to_string(dir.join("f"))? == "from the node\n");
        prefixes(rig, &tasks[0])
    });
}

/// What the task sees of it.
fn inside(rig: &Rig, task: &Task) -> Result<()> {
    let variables = rig.exec(task, &["env"])?;
    let is_set = |wanted: &str| variables.lines().any(|line| line == wanted);
    ensure!(is_set("GREETING=hello there"), "{variables}");
    let script = "cat /x/f; echo no > /x/f || echo read-only";
    let seen = rig.exec(task, &["sh", "-c", script])?;
    ensure!(seen == "from the node\nread-only\n", "{seen}");
    // Where the host has the controllers of version 1, the limits are there.
    for (old, new, wanted) in [
        ("memory/memory.limit_in_bytes", "memory.max", "67108864"),
        ("pids/pids.max", "pids.max", "50"),
        ("cpu/cpu.cfs_quota_us", "cpu.max", "25000"),
    ] {
        let script = format!("cd /sys/fs/cgroup && cat {old} 2>/dev/null || cat {new}");
        let limit = rig.exec(task, &["sh", "-c", &script])?;
        let found = limit.split_whitespace().next();
        ensure!(found == Some(wanted), "{new}: {limit}");
    }
    Ok(())
}

/// What `service inspect` says of it.
fn specified(node: &Node, mount: &str) -> Result<()> {
    let text = node.ok(&["service", "inspect", "whole"])?;
    let told: Value = serde_json::from_str(&text)?;
    let spec = &told[0]["Spec"];
    let task = &spec["TaskTemplate"];
    let container = &task["ContainerSpec"];
    let source = mount.split(['=', ',']).nth(3);
    let limits = &task["Resources"]["Limits"];
    let checks = [
        spec["Labels"]["team"] == "blue",
        container["Env"][0] == "GREETING=hello there",
        container["Mounts"][0]["Type"] == "bind",
        container["Mounts"][0]["Source"].as_str() == source,
        container["Mounts"][0]["Target"] == "/x",
        container["Mounts"][0]["ReadOnly"] == true,
        limits["NanoCPUs"] == 250_000_000,
        limits["MemoryBytes"] == 64 << 20,
        limits["Pids"] == 50,
        task["Placement"]["Constraints"][0] == "node.labels.disk==SSD",
        spec["Mode"]["Replicated"]["Replicas"] == 2,
    ];
    ensure!(checks.iter().all(|holds| *holds), "{checks:?}: {text}");
    let by_label = node.ok(&["service", "ls", "-q", "--filter", "label=team=blue"])?;
    ensure!(by_label.lines().count() == 1, "{by_label}");
    Ok(())
}

/// Six characters of an id are enough, whatever it is an id of.
fn prefixes(rig: &Rig, task: &Task) -> Result<()> {
    let first = rig.first();
    let id = |command: &[&str]| -> Result<String> {
        let told: Value = serde_json::from_str(&first.ok(command)?)?;
        let object = &told[0];
        let id = object
            .get("ID")
            .or(object.get("Id"))
            .and_then(Value::as_str);
        Ok(id
            .with_context(|| format!("{command:?}: no id"))?
            .to_owned())
    };
    for (noun, name) in [
        ("node", "n2"),
        ("service", "whole"),
        ("network", "ingress"),
        ("image", image::WHOAMI),
    ] {
        let full = id(&[noun, "inspect", name])?;
        let short = full.trim_start_matches("sha256:");
        let by_prefix = id(&[noun, "inspect", &short[..6]])?;
        ensure!(by_prefix == full, "{noun}: {by_prefix}, not {full}");
    }
    let service = id(&["service", "inspect", "whole"])?;
    let listed = first.ok(&["service", "ps", "-q", "--no-trunc", &service[..6]])?;
    ensure!(listed.lines().any(|id| id == task.id), "{listed}");
    let on_node = id(&["node", "inspect", "n2"])?;
    let listed = first.ok(&["node", "ps", "-q", "--no-trunc", &on_node[..6]])?;
    ensure!(listed.lines().any(|id| id == task.id), "{listed}");
    // A task: of the cluster for its log, of its node for `exec`.
    first.ok(&["service", "logs", &task.id[..6]])?;
    let there = rig.node(&task.node)?;
    let told = there.ok(&["exec", &task.id[..6], "echo", "here"])?;
    ensure!(told == "here\n", "{told}");
    for noun in ["node", "service", "network", "image"] {
        let answer = first.ctl(&[noun, "inspect", "zzzzzz"])?;
        let told = answer.refused()?;
        ensure!(told.contains("zzzzzz"), "{told}");
    }
    Ok(())
}

#[test]
fn every_list_comes_as_json_as_a_template_and_as_ids() {
    scenario("lists", 2, |rig| {
        rig.create("web", &["--replicas", "2", "--publish", "80:80"])?;
        for node in &rig.nodes {
            rig.client
                .enter(|| mesh_tests::http_get(node.address, 80, "/"))?;
        }
        let first = rig.first();
        // With what one would do with the ids; of lists without any, what `-q` gives.
        let lists: [(&[&str], &str, usize); 8] = [
            (&["node", "ls"], "ID", 2),
            (&["service", "ls"], "ID", 1),
            (&["service", "ps", "web"], "ID", 2),
            (&["network", "ls"], "ID", 1),
            (&["image", "ls"], "ID", 1),
            (&["ps"], "ID", 1),
            (&["vip", "ls"], "Address", 1),
            (&["drop", "ls", "--all"], "Reason", 2),
        ];
        for (command, key, least) in lists {
            let ask = |more: &[&str]| first.ok(&[command, more].concat());
            let json = ask(&["--format", "json"])?;
            let rows = json
                .lines()
                .map(serde_json::from_str)
                .collect::<Result<Vec<Value>, _>>()
                .with_context(|| format!("{command:?}: {json}"))?;
            ensure!(rows.len() >= least, "{command:?}: {json}");
            let of_json: BTreeSet<_> = rows.iter().filter_map(|row| row[key].as_str()).collect();
            let template = ask(&["--format", &format!("{{{{.{key}}}}}")])?;
            let told: BTreeSet<_> = template.lines().collect();
            ensure!(told == of_json, "{command:?}: {told:?}, as JSON {json}");
            // Where a table has the start of an id, `-q` may have all of it.
            let quiet = ask(&["-q"])?;
            let is_of = |line: &str| of_json.iter().any(|id| line.starts_with(id));
            ensure!(
                quiet.lines().count() == rows.len() && quiet.lines().all(is_of),
                "{command:?}: {quiet:?}, as JSON {json}"
            );
            let table = ask(&["--format", &format!("table {{{{.{key}}}}}")])?;
            let lines = table.lines().count();
            ensure!(lines == rows.len() + 1, "{command:?}: {table}");
            let answer = first.ctl(&[command, &["--format", "{{.Nothing"]].concat())?;
            answer.refused()?;
        }
        Ok(())
    });
}
