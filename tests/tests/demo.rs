//! The demo, as other programs drive it: up, described, and gone without a trace.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use mesh_tests::{Answer, Rig, node, rig};
use serde_json::Value;

const NODES: usize = 2;

fn demo(name: &str, args: &[&str]) -> Result<Answer> {
    let output = Command::new(node::program("mesh-demo")?)
        .args(["--name", name])
        .args(args)
        .output()?;
    Ok(Answer::of(format!("demo {}", args.join(" ")), &output))
}

/// Ends the demo, however the test ends.
struct Up(String);

impl Drop for Up {
    fn drop(&mut self) {
        Rig::traces(&self.0, NODES).remove();
    }
}

#[test]
fn a_demo_that_is_kept_is_described_and_goes_without_a_trace() {
    let up = Up(rig::test_name("demo"));
    let name = &up.0;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("demo.json");
    let nodes = NODES.to_string();
    let args = [
        "--keep",
        "--nodes",
        &nodes,
        "--json",
        &file.to_string_lossy(),
    ];
    let told = demo(name, &args).and_then(Answer::ok).unwrap();
    for wanted in ["verify: Service converged", "PING web", "ip netns exec"] {
        assert!(told.contains(wanted), "{wanted} is not in\n{told}");
    }
    described(name, &file).unwrap();

    let told = demo(name, &["--down"]).and_then(Answer::ok).unwrap();
    assert!(told.contains("Nothing is left."), "{told}");
    let left = Rig::traces(name, NODES).find();
    assert!(left.is_empty(), "{left:?}");
    let told = demo(name, &["--down"]).and_then(Answer::ok).unwrap();
    assert_eq!(told.trim(), "No demo is up.");
}

#[test]
fn a_step_that_fails_is_told_with_its_cause_and_nothing_is_left() {
    let up = Up(rig::test_name("demof"));
    let tools = tempfile::tempdir().unwrap();
    let curl = tools.path().join("curl");
    fs::write(&curl, "#!/bin/sh\necho no curl today >&2\nexit 7\n").unwrap();
    fs::set_permissions(&curl, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let output = Command::new(node::program("mesh-demo").unwrap())
        .args(["--name", &up.0, "--nodes", "1"])
        .env("PATH", format!("{}:{path}", tools.path().display()))
        .output()
        .unwrap();
    let (told, cause) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{told}{cause}");
    assert!(cause.contains("no curl today"), "{cause}");
    for wanted in [
        "A step failed",
        "--- n1",
        "To look around in it: cargo xtask demo --keep",
    ] {
        assert!(told.contains(wanted), "{wanted} is not in\n{told}");
    }
    let left = Rig::traces(&up.0, 1).find();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_description_that_cannot_be_written_is_told_before_anything_is_made() {
    let name = rig::test_name("demoj");
    let answer = demo(&name, &["--json", "/proc/none/demo.json"]).unwrap();
    let told = answer.refused().unwrap();
    assert!(told.contains("--json"), "{told}");
    assert!(Rig::traces(&name, NODES).find().is_empty());
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the file says is so.
fn described(name: &str, file: &Path) -> Result<()> {
    let described: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
    let nodes = described["nodes"].as_array().context("no nodes")?;
    ensure!(nodes.len() == NODES, "{described}");
    for (number, node) in nodes.iter().enumerate() {
        let word = |key: &str| {
            node[key]
                .as_str()
                .with_context(|| format!("no {key}: {node}"))
        };
        ensure!(word("name")? == format!("n{}", number + 1), "{node}");
        ensure!(
            word("netns")? == format!("{name}-n{}", number + 1),
            "{node}"
        );
        ensure!(Path::new(word("data_dir")?).is_dir(), "{node}");
        let pid = node["pid"].as_u64().context("no pid")?;
        ensure!(Path::new(&format!("/proc/{pid}")).exists(), "{node}");
        let host = format!("unix://{}", word("socket")?);
        let listed = Command::new(node::program("mesh-ctl")?)
            .args(["-H", &host, "info"])
            .output()?;
        ensure!(listed.status.success(), "{listed:?}");
    }
    let netns = described["client"]["netns"].as_str().context("no client")?;
    ensure!(Path::new("/run/netns").join(netns).exists(), "{netns}");
    let first = nodes[0]["address"].as_str().context("no address")?;
    let answer = Command::new("ip")
        .args(["netns", "exec", netns, "curl", "-sS", first])
        .output()?;
    ensure!(
        String::from_utf8_lossy(&answer.stdout).contains("Hostname: "),
        "{answer:?}"
    );
    Ok(())
}
