//! What is left of a secret once the service that used it is removed, and of an agent that crashes: nothing.

use std::{
    fs,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{Node, Rig, eventually, rig::UP_LIMIT, scenario, with_line};
use nix::{
    sys::{
        resource::{RLIM_INFINITY, Resource, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};

/// What the tasks are handed.
const SECRET: &str = "swordfish-0815-of-the-withdrawn";
/// Its name: no other test has one of it.
const NAME: &str = "withdrawn";

/// Processes of the machine with a mount of the secret.
fn mounts() -> Result<Vec<String>> {
    let path = format!("/run/secrets/{NAME}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(table) = fs::read_to_string(entry.path().join("mountinfo")) else {
            continue;
        };
        let lines = table.lines().filter(|line| line.contains(&path));
        found.extend(lines.map(|line| format!("{}: {line}", entry.path().display())));
    }
    Ok(found)
}

/// Paths below a folder that have this word in their name, or in what they hold.
fn traces(dir: &Path, word: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type();
        if kind.as_ref().is_ok_and(fs::FileType::is_dir) {
            traces(&path, word, found);
        } else if kind.is_ok_and(|kind| kind.is_file())
            && let Ok(bytes) = fs::read(&path)
            && String::from_utf8_lossy(&bytes).contains(word)
        {
            found.push(format!("{word} in {}", path.display()));
        }
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().contains(word))
        {
            found.push(path.display().to_string());
        }
    }
}

/// What is left of a task in its node's folders.
fn left_of(node: &Node, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for word in words {
        for dir in [node.data_dir(), node.run_dir()] {
            traces(&dir, word, &mut found);
        }
    }
    found
}

/// Has one task on each node that is handed the secret.
fn handed(rig: &Rig) -> Result<()> {
    let create = ["secret", "create", NAME, "-"];
    with_line(rig.first().ctl_command()?, &create, SECRET)?.ok()?;
    rig.sleepers("holder", &["--secret", NAME, "--mode", "global"])?;
    for task in rig.wait_running("holder", rig.nodes.len())? {
        let path = format!("/run/secrets/{NAME}");
        let shown = rig.exec(&task, &["cat", &path])?;
        ensure!(shown.trim() == SECRET, "{shown}");
    }
    Ok(())
}

#[test]
fn nothing_of_a_secret_is_left_when_its_service_is_removed() {
    scenario("gone", 2, |rig| {
        handed(rig)?;
        let tasks = rig.running("holder")?;
        ensure!(!mounts()?.is_empty(), "no process has the mount");
        for task in &tasks {
            let left = left_of(rig.node(&task.node)?, &[&task.id]);
            ensure!(!left.is_empty(), "nothing is known of {}", task.name);
        }
        rig.first().ok(&["service", "rm", "holder"])?;
        eventually("the mounts to be gone", UP_LIMIT, || {
            let mounts = mounts()?;
            ensure!(mounts.is_empty(), "{}", mounts.join("\n"));
            Ok(())
        })?;
        // The manager knows of it until the secret is removed, and its disk is encrypted; the worker knows nothing.
        eventually("nothing to be left", UP_LIMIT, || {
            let mut left = left_of(rig.first(), &[SECRET]);
            left.extend(left_of(&rig.nodes[1], &[SECRET, NAME]));
            for task in &tasks {
                left.extend(left_of(rig.node(&task.node)?, &[&task.id]));
            }
            ensure!(left.is_empty(), "{}", left.join("\n"));
            Ok(())
        })?;
        rig.first().ok(&["secret", "rm", NAME])?;
        Ok(())
    });
}

#[test]
fn an_agent_that_crashes_leaves_no_core() {
    scenario("nocore", 1, |rig| {
        // Agents that are started from now on may leave cores, as far as the machine is concerned.
        setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY)?;
        let dumps = |pid: u32| kill(Pid::from_raw(pid.cast_signed()), Signal::SIGABRT);
        let mut other = Command::new("sleep");
        let mut other = other
            .arg("1000000")
            .current_dir(rig.dir())
            .process_group(0)
            .spawn()?;
        dumps(other.id())?;
        let ended = other.wait()?;
        ensure!(
            ended.core_dumped(),
            "no process leaves a core here ({ended}): see core(5)"
        );
        rig.nodes[0].stop()?;
        rig.nodes[0].start()?;
        rig.wait_ready(1)?;
        handed(rig)?;
        dumps(rig.nodes[0].pid().context("an agent")?)?;
        let ended = rig.nodes[0].wait()?;
        ensure!(ended.signal() == Some(Signal::SIGABRT as i32), "{ended}");
        ensure!(!ended.core_dumped(), "it left a core: {ended}");
        rig.nodes[0].start()?;
        rig.wait_ready(1)
    });
}
