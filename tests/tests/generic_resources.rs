//! Generic resources: what agents say that their nodes have, who is given it, and what tasks are told.

use anyhow::{Result, bail, ensure};
use mesh_tests::{
    Rig, eventually, image,
    rig::{UP_LIMIT, test_name},
    scenario_on,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const FLAG: &str = "--node-generic-resource";

/// Starts the agent of the second node anew, with these instead of what it had by its own arguments.
fn restart_with(rig: &mut Rig, common: &[String], terms: &[&str]) -> Result<()> {
    let node = &mut rig.nodes[1];
    node.stop()?;
    node.args = common.to_vec();
    let own = terms.iter().map(|term| format!("{FLAG}={term}"));
    node.args.extend(own);
    node.start()
}

/// What the running tasks of `train` are told by their variable.
fn told(rig: &Rig) -> Result<BTreeSet<String>> {
    let tasks = rig.running("train")?;
    let variable = |task| {
        let name = rig.exec(task, &["sh", "-c", "echo $DOCKER_RESOURCE_GPU"])?;
        Ok(name.trim().to_owned())
    };
    tasks.iter().map(variable).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// What the managers say that running tasks of `train` were given.
fn assigned(rig: &Rig) -> Result<Vec<Value>> {
    let tasks = rig.first().engine().get("/tasks")?.json()?;
    let tasks = tasks.as_array().cloned().unwrap_or_default();
    let running = tasks
        .iter()
        .filter(|task| task["Status"]["State"] == "running");
    let mut given: Vec<Value> = running
        .map(|task| task["AssignedGenericResources"].clone())
        .collect();
    given.sort_by_key(Value::to_string);
    Ok(given)
}

#[test]
fn tasks_are_given_what_their_node_has() {
    let builder = Rig::builder(&test_name("generic")).nodes(2);
    scenario_on(builder.agent_arg(&format!("{FLAG}=ssd=3")), |rig| {
        let common = rig.nodes[1].args.clone();
        let bad = ["service", "create", "--generic-resource", "gpu=a"];
        let why = rig
            .first()
            .ctl(&[&bad[..], &[image::WHOAMI]].concat())?
            .refused()?;
        ensure!(
            why.contains("Named Generic Resources is not supported"),
            "{why}"
        );

        rig.sleepers(
            "train",
            &["-d", "--generic-resource", "gpu=1", "--replicas", "2"],
        )?;
        eventually("tasks to say why they wait", UP_LIMIT, || {
            let format = ["service", "ps", "--no-trunc", "--format", "{{.Error}}"];
            let errors = rig.first().ok(&[&format[..], &["train"]].concat())?;
            let reason = "no suitable node (insufficient resources on 2 nodes)";
            ensure!(errors.matches(reason).count() == 2, "{errors}");
            Ok(())
        })?;

        restart_with(rig, &common, &["gpu=a", "gpu=b"])?;
        let tasks = rig.wait_running("train", 2)?;
        ensure!(tasks.iter().all(|task| task.node == "n2"), "{tasks:?}");
        ensure!(told(rig)? == names(&["a", "b"]), "{:?}", told(rig)?);
        let gpu = |name: &str| json!([{"NamedResourceSpec": {"Kind": "gpu", "Value": name}}]);
        ensure!(
            assigned(rig)? == [gpu("a"), gpu("b")],
            "{:?}",
            assigned(rig)?
        );

        let first = rig.first();
        let shown = first.ok(&["node", "inspect", "--pretty", "n2"])?;
        ensure!(shown.contains(" Generic:\n  gpu=a,b\n  ssd=3\n"), "{shown}");
        let shown = first.ok(&["service", "inspect", "--pretty", "train"])?;
        ensure!(shown.contains("  Generic:\tgpu=1\n"), "{shown}");
        let info = rig.nodes[1].engine().get("/info")?.json()?;
        let ssd = json!({"DiscreteResourceSpec": {"Kind": "ssd", "Value": 3}});
        ensure!(
            info["GenericResources"] == json!([gpu("a")[0], gpu("b")[0], ssd]),
            "{}",
            info["GenericResources"]
        );

        // Each new task waits for the end of one that holds what it needs.
        rig.replace_all("train")?;
        ensure!(told(rig)? == names(&["a", "b"]), "{:?}", told(rig)?);

        // The agent is started anew: what tasks hold stays theirs.
        let before = rig.running("train")?;
        restart_with(rig, &common, &["gpu=a", "gpu=b", "gpu=c"])?;
        eventually("the node to have another one", UP_LIMIT, || {
            let shown = rig.first().ok(&["node", "inspect", "--pretty", "n2"])?;
            ensure!(shown.contains("  gpu=a,b,c\n"), "{shown}");
            Ok(())
        })?;
        ensure!(rig.running("train")? == before, "{before:?}");
        ensure!(told(rig)? == names(&["a", "b"]), "{:?}", told(rig)?);

        // One is gone, and so is its task; the next one is given what is left.
        restart_with(rig, &common, &["gpu=b", "gpu=c"])?;
        eventually("another task to take its place", UP_LIMIT, || {
            ensure!(rig.running("train")?.len() == 2 && rig.running("train")? != before);
            match told(rig)? {
                now if now == names(&["b", "c"]) => Ok(()),
                now => bail!("{now:?}"),
            }
        })?;
        let format = ["service", "ps", "--no-trunc", "--format", "{{.Error}}"];
        let errors = rig.first().ok(&[&format[..], &["train"]].concat())?;
        let reason = "assigned node no longer meets constraints";
        ensure!(errors.contains(reason), "{errors}");

        let update = ["service", "update", "-d"];
        let other = [
            "--generic-resource-rm",
            "gpu",
            "--generic-resource-add",
            "ssd=3",
        ];
        let first = rig.first();
        first.ok(&[&update[..], &other, &["train"]].concat())?;
        eventually("each node to run one", UP_LIMIT, || {
            let tasks = rig.running("train")?;
            let nodes: Vec<&str> = tasks.iter().map(|task| task.node.as_str()).collect();
            ensure!(nodes == ["n1", "n2"] || nodes == ["n2", "n1"], "{tasks:?}");
            let ssd = json!([{"DiscreteResourceSpec": {"Kind": "ssd", "Value": 3}}]);
            ensure!(assigned(rig)? == [ssd.clone(), ssd], "{:?}", assigned(rig)?);
            Ok(())
        })
    });
}
