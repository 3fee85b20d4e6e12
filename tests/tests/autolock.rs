//! Managers that are locked when they start again, and opened with the unlock key.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{
    Answer, Node, Rig, eventually, http_get,
    load::while_asking,
    managers::{self, statuses},
    rig::{UP_LIMIT, test_name},
    scenario_on,
    stock::{docker, docker_command},
    with_line,
};
use serde_json::json;

const LOCKED: &str = "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it.";
const WRONG: &str = "swarm could not be unlocked: invalid key provided";

fn unlock(node: &Node, key: &str) -> Result<Answer> {
    with_line(node.ctl_command()?, &["swarm", "unlock"], key)
}

fn state(node: &Node) -> Result<String> {
    let state = node.ok(&["info", "--format", "{{.Swarm.LocalNodeState}}"])?;
    Ok(state.trim().to_owned())
}

fn wait_for_state(node: &Node, expected: &str) -> Result<()> {
    eventually("the node's state", UP_LIMIT, || {
        let is = state(node)?;
        ensure!(is == expected, "{is}, not {expected}");
        Ok(())
    })
}

/// Kills the agent and starts it again.
fn restart(node: &mut Node) -> Result<()> {
    node.kill()?;
    node.start()
}

/// The keys on disk, of the log and of the node.
fn key_files(node: &Node) -> Result<[String; 2]> {
    let swarm = node.data_dir().join("swarm");
    let log = find(&swarm, "raft.key")?;
    let own = find(&swarm, "node.key")?;
    Ok([fs::read_to_string(log)?, fs::read_to_string(own)?])
}

fn find(dir: &std::path::Path, name: &str) -> Result<std::path::PathBuf> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|file| file == name) {
            return Ok(path);
        }
        if path.is_dir()
            && let Ok(found) = find(&path, name)
        {
            return Ok(found);
        }
    }
    bail!("no {name} in {}", dir.display())
}

fn wait_for_files(node: &Node, locked: bool) -> Result<()> {
    eventually("the keys on disk", UP_LIMIT, || {
        let [log, own] = key_files(node)?;
        ensure!(log.contains("\"keys\"") != locked, "the log's");
        ensure!(own.contains("BEGIN PRIVATE KEY") != locked, "the node's");
        Ok(())
    })
}

/// The unlock key, as the cluster has it.
fn unlock_key(node: &Node) -> Result<String> {
    let key = node.ok(&["swarm", "unlock-key", "-q"])?.trim().to_owned();
    ensure!(
        key.len() == "SWMKEY-1-".len() + 43 && key.starts_with("SWMKEY-1-"),
        "{key}"
    );
    Ok(key)
}

fn services(node: &Node) -> Result<String> {
    let names = node.ok(&["service", "ls", "--format", "{{.Name}}"])?;
    Ok(names.trim().to_owned())
}

fn answers(rig: &Rig) -> Result<()> {
    for node in &rig.nodes[..2] {
        let reply = rig.client.enter(|| http_get(node.address, 80, "/"))?;
        ensure!(reply.status == 200, "{}: {}", node.name, reply.status);
    }
    Ok(())
}

fn join(node: &Node, to: &Node, role: &str) -> Result<()> {
    let token = to.ok(&["swarm", "join-token", "-q", role])?;
    let (own, remote) = (node.address.to_string(), format!("{}:2377", to.address));
    let join = ["swarm", "join", "--advertise-addr", &own, "--token"];
    node.ok(&[&join[..], &[token.trim(), &remote]].concat())
        .map(drop)
}

/// What a locked manager says, and that nothing but the right key changes it.
fn is_locked(node: &Node, wrong: &str) -> Result<()> {
    wait_for_state(node, "locked")?;
    let engine = node.engine();
    let header = engine.get("/_ping")?;
    ensure!(header.header("swarm") == "locked", "{header:?}");
    for path in [
        "/services",
        "/nodes",
        "/swarm",
        "/swarm/unlockkey",
        "/tasks",
    ] {
        let said = engine.get(path)?.refused("503")?;
        ensure!(said == LOCKED, "{path}: {said}");
    }
    let said = docker(node, &["service", "ls"])?.refused()?;
    ensure!(said.contains(LOCKED), "{said}");
    let said = docker(node, &["info"])?;
    ensure!(said.out.contains("Swarm: locked"), "{said:?}");
    let said = node.ctl(&["swarm", "unlock-key"])?.refused()?;
    ensure!(said.contains(LOCKED), "{said}");
    let said = node.ctl(&["swarm", "leave"])?.refused()?;
    ensure!(
        said.contains("Swarm is encrypted and locked. Please unlock it first or use `--force`"),
        "{said}"
    );
    let said = node.ctl(&["swarm", "init"])?.refused()?;
    ensure!(said.contains("already part of a swarm"), "{said}");
    let said = node
        .ctl(&["swarm", "init", "--force-new-cluster"])?
        .refused()?;
    ensure!(said.contains(LOCKED), "{said}");

    let before = key_files(node)?;
    let refused = |key: &str, status: &str, words: &str| -> Result<()> {
        let body = json!({ "UnlockKey": key });
        let said = engine.post("/swarm/unlock", &body)?.refused(status)?;
        ensure!(said == words, "{key:?}: {said}");
        let said = unlock(node, key)?.refused()?;
        ensure!(said.contains(words), "{key:?}: {said}");
        Ok(())
    };
    refused(wrong, "401", WRONG)?;
    refused("SWMKEY-1-abc", "400", "invalid key string")?;
    refused("", "400", "invalid key string")?;
    ensure!(key_files(node)? == before && state(node)? == "locked");
    Ok(())
}

fn other_key(key: &str) -> String {
    let last = if key.ends_with('A') { 'E' } else { 'A' };
    format!("{}{last}", &key[..key.len() - 1])
}

#[test]
fn a_manager_is_locked_until_it_is_given_the_key_and_all_goes_on() {
    let builder = Rig::builder(&test_name("lock")).nodes(2).without_swarm();
    scenario_on(builder, |rig| {
        let address = rig.first().address.to_string();
        let init = ["swarm", "init", "--autolock", "--advertise-addr", &address];
        let said = rig.first().ok(&init)?;
        let first_key = unlock_key(rig.first())?;
        ensure!(
            said.contains(&first_key) && said.contains("swarm unlock"),
            "{said}"
        );
        wait_for_files(rig.first(), true)?;
        join(&rig.nodes[1], rig.first(), "worker")?;
        rig.wait_ready(2)?;
        let said = unlock(rig.first(), &first_key)?.refused()?;
        ensure!(said.contains("swarm is not locked"), "{said}");
        rig.create("web", &["--publish", "80:80", "--replicas", "2"])?;
        rig.wait_running("web", 2)?;
        eventually("both nodes to answer", UP_LIMIT, || answers(rig))?;
        let ids = |rig: &Rig| -> Result<Vec<String>> {
            let tasks = rig.running("web")?;
            Ok(tasks.into_iter().map(|task| task.id).collect())
        };
        let before = ids(rig)?;

        let nodes: Vec<_> = rig.nodes.iter().map(|node| node.address).collect();
        let (client, first) = (&rig.client, &mut rig.nodes[0]);
        let ((), asked) = while_asking(client, &nodes, || {
            restart(first)?;
            is_locked(first, &other_key(&first_key))?;
            let containers = first.ok(&["ps", "-q"])?;
            ensure!(!containers.trim().is_empty(), "its tasks are not shown");
            unlock(first, &first_key)?.ok()?;
            eventually("the swarm", UP_LIMIT, || {
                let names = services(first)?;
                ensure!(names == "web", "{names}");
                Ok(())
            })?;
            wait_for_state(first, "active")
        })?;
        asked.all_answered()?;
        eventually("the same tasks", UP_LIMIT, || {
            let after = ids(rig)?;
            ensure!(after == before, "{before:?} {after:?}");
            Ok(())
        })?;
        let engine = rig.first().engine();
        let body = json!({ "UnlockKey": first_key });
        let said = engine.post("/swarm/unlock", &body)?.refused("409")?;
        ensure!(said == "swarm is not locked", "{said}");

        // Another key: the old one opens nothing any more.
        let said = rig.first().ok(&["swarm", "unlock-key", "--rotate"])?;
        ensure!(
            said.contains("Successfully rotated manager unlock key."),
            "{said}"
        );
        let second_key = unlock_key(rig.first())?;
        ensure!(
            second_key != first_key && said.contains(&second_key),
            "{said}"
        );
        restart(&mut rig.nodes[0])?;
        is_locked(rig.first(), &first_key)?;
        unlock(rig.first(), &second_key)?.ok()?;
        eventually("a service", UP_LIMIT, || rig.create("more", &[]).map(drop))?;
        rig.wait_running("more", 1)?;

        let off = ["swarm", "update", "--autolock=false"];
        ensure!(rig.first().ok(&off)?.trim() == "Swarm updated.");
        wait_for_files(rig.first(), false)?;
        let said = rig.first().ctl(&["swarm", "unlock-key"])?.refused()?;
        ensure!(said.contains("no unlock key is set"), "{said}");
        let said = rig.first().ctl(&["swarm", "unlock-key", "--rotate"])?;
        let said = said.refused()?;
        ensure!(said.contains("autolock is not turned on"), "{said}");
        restart(&mut rig.nodes[0])?;
        wait_for_state(rig.first(), "active")?;
        let said = docker(rig.first(), &["swarm", "update", "--autolock=true"])?.ok()?;
        let third_key = unlock_key(rig.first())?;
        ensure!(
            third_key != second_key && said.contains(&third_key),
            "{said}"
        );
        wait_for_files(rig.first(), true)
    });
}

#[test]
fn every_manager_is_locked_with_the_key_of_now() {
    let builder = Rig::builder(&test_name("locks")).nodes(3).without_swarm();
    scenario_on(builder, |rig| {
        managers::form(rig)?;
        let said = rig.nodes[1].ok(&["swarm", "update", "--autolock"])?;
        let key = unlock_key(&rig.nodes[2])?;
        ensure!(said.contains(&key), "{said}");
        for node in &rig.nodes {
            wait_for_files(node, true)?;
        }
        let before: Vec<_> = rig.nodes.iter().map(key_files).collect::<Result<_>>()?;
        let rotated = rig.nodes[2].ok(&["swarm", "unlock-key", "--rotate", "-q"])?;
        let rotated = rotated.trim();
        for (node, before) in rig.nodes.iter().zip(&before) {
            eventually("the new key", UP_LIMIT, || {
                ensure!(key_files(node)?[0] != before[0], "{}", node.name);
                Ok(())
            })?;
        }
        restart(&mut rig.nodes[2])?;
        is_locked(&rig.nodes[2], &key)?;
        let name = rig.nodes[2].name.clone();
        let status = |by: &Node| -> Result<String> {
            let all = statuses(by)?;
            let own = all.into_iter().find(|(node, _)| *node == name);
            Ok(own.context("the node is not listed")?.1)
        };
        eventually("it is missed", UP_LIMIT, || {
            let is = status(&rig.nodes[0])?;
            ensure!(is == "Unreachable", "{is}");
            Ok(())
        })?;
        unlock(&rig.nodes[2], rotated)?.ok()?;
        eventually("it is back", UP_LIMIT, || {
            let is = status(&rig.nodes[0])?;
            ensure!(is == "Reachable" || is == "Leader", "{is}");
            Ok(())
        })?;

        // A worker has nothing to lock.
        eventually("it is demoted", UP_LIMIT, || {
            // Refused while the leader has not heard enough of the others.
            rig.nodes[0].ok(&["node", "demote", &name])
        })?;
        let own = find(&rig.nodes[2].data_dir().join("swarm"), "node.key")?;
        eventually("it is a worker", UP_LIMIT, || {
            let key = fs::read_to_string(&own)?;
            ensure!(key.contains("BEGIN PRIVATE KEY"), "its key is locked");
            let header = rig.nodes[2].engine().get("/_ping")?;
            let header = header.header("swarm").to_owned();
            ensure!(header == "active/worker", "{header}");
            Ok(())
        })?;
        restart(&mut rig.nodes[2])?;
        wait_for_state(&rig.nodes[2], "active")
    });
}

#[test]
fn a_backup_is_locked_as_its_managers_are() {
    let builder = Rig::builder(&test_name("lockback"))
        .nodes(2)
        .without_swarm();
    scenario_on(builder, |rig| {
        let address = rig.first().address.to_string();
        let init = ["swarm", "init", "--autolock", "--advertise-addr", &address];
        rig.first().ok(&init)?;
        let key = unlock_key(rig.first())?;
        let path = rig.dir().join("backup").to_string_lossy().into_owned();
        rig.first()
            .ok(&["network", "create", "-d", "overlay", "front"])?;
        let said = rig.first().ok(&["swarm", "backup", &path])?;
        ensure!(
            said.contains("encrypted with the swarm's unlock key"),
            "{said}"
        );
        let own = rig.nodes[1].address.to_string();
        let restore = [
            "swarm",
            "init",
            "--restore",
            &path,
            "--advertise-addr",
            &own,
        ];
        let said = with_line(rig.nodes[1].ctl_command()?, &restore, &other_key(&key))?.refused()?;
        ensure!(
            said.contains("the backup could not be unlocked: invalid key provided"),
            "{said}"
        );
        ensure!(state(&rig.nodes[1])? == "inactive");
        rig.first().ok(&["swarm", "leave", "--force"])?;
        with_line(rig.nodes[1].ctl_command()?, &restore, &key)?.ok()?;
        ensure!(unlock_key(&rig.nodes[1])? == key);
        wait_for_files(&rig.nodes[1], true)?;
        restart(&mut rig.nodes[1])?;
        is_locked(&rig.nodes[1], &other_key(&key))?;
        let stock = docker_command(&rig.nodes[1])?;
        with_line(stock, &["swarm", "unlock"], &key)?.ok()?;
        eventually("the network", UP_LIMIT, || {
            let names = rig.nodes[1].ok(&["network", "ls", "--format", "{{.Name}}"])?;
            ensure!(names.contains("front"), "{names}");
            Ok(())
        })
    });
}

#[test]
fn a_manager_that_cannot_start_once_it_is_unlocked_says_why() {
    let builder = Rig::builder(&test_name("lockport"))
        .nodes(1)
        .without_swarm();
    scenario_on(builder, |rig| {
        let address = rig.first().address.to_string();
        let init = ["swarm", "init", "--autolock", "--advertise-addr", &address];
        rig.first().ok(&init)?;
        let key = unlock_key(rig.first())?;
        restart(&mut rig.nodes[0])?;
        let first = rig.first();
        wait_for_state(first, "locked")?;
        let other = || Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 2377))?);
        let taken = first.ns.enter(other)?;
        std::thread::scope(|scope| {
            let unlocking = scope.spawn(|| unlock(first, &key));
            let told = eventually("the reason", UP_LIMIT, || {
                let why = first.ok(&["info", "--format", "{{.Swarm.Error}}"])?;
                ensure!(
                    why.contains("not taken up yet") && why.contains("2377"),
                    "{why}"
                );
                Ok(())
            });
            drop(taken);
            let unlocked = unlocking.join().expect("no panic")?;
            // It does not wait for ever.
            ensure!(
                unlocked.code == 0 || unlocked.err.contains("not taken up yet"),
                "{unlocked:?}"
            );
            told
        })?;
        wait_for_state(first, "active")?;
        let why = first.ok(&["info", "--format", "{{.Swarm.Error}}"])?;
        ensure!(why.trim().is_empty(), "{why}");
        Ok(())
    });
}
