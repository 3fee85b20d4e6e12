//! A cluster goes on elsewhere, from a backup; what is no backup changes nothing.

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::{Result, ensure};
use mesh_tests::{
    Node, Rig, eventually, http_get, managers,
    rig::{UP_LIMIT, test_name},
    scenario_on,
};

/// A restore that has to fail with these words, and leaves the node in no swarm.
fn refused(node: &Node, file: &str, words: &str) -> Result<()> {
    let answer = node.ctl(&["swarm", "init", "--restore", file])?;
    ensure!(answer.code != 0, "{file}: {}", answer.out);
    ensure!(answer.err.contains(words), "{file}: {}", answer.err);
    let state = node.ok(&["info", "--format", "{{.Swarm.LocalNodeState}}"])?;
    ensure!(state.trim() == "inactive", "{file}: {state}");
    let left = node.data_dir().join("swarm");
    let left: Vec<_> = fs::read_dir(&left)?.collect();
    ensure!(left.is_empty(), "{file}: {left:?}");
    Ok(())
}

fn names(by: &Node, noun: &str) -> Result<Vec<String>> {
    let list = by.ok(&[noun, "ls", "--format", "{{.Name}}"])?;
    Ok(list.lines().map(str::to_owned).collect())
}

#[test]
fn a_cluster_goes_on_from_its_backup() {
    let builder = Rig::builder(&test_name("backup")).nodes(3).without_swarm();
    scenario_on(builder, |rig| {
        managers::form_of(rig, 1)?;
        let [first, worker, other] = &rig.nodes[..] else {
            anyhow::bail!("three nodes");
        };
        let token = first.ok(&["swarm", "join-token", "-q", "worker"])?;
        let join = |node: &Node, to: &Node| {
            let (own, remote) = (node.address.to_string(), format!("{}:2377", to.address));
            let join = ["swarm", "join", "--advertise-addr", &own, "--token"];
            node.ok(&[&join[..], &[token.trim(), &remote]].concat())
        };
        join(worker, first)?;
        rig.wait_ready(2)?;
        let word = rig.dir().join("word");
        fs::write(&word, "open sesame")?;
        first.ok(&["secret", "create", "word", &word.to_string_lossy()])?;
        first.ok(&["network", "create", "-d", "overlay", "front"])?;
        let options = [
            "--publish",
            "80:80",
            "--network",
            "front",
            "--secret",
            "word",
        ];
        rig.create("web", &options)?;
        rig.wait_running("web", 1)?;
        let subnet = ["network", "inspect", "front"];
        let front = first.ok(&subnet)?;

        let file = rig.dir().join("backup");
        let path = file.to_string_lossy().into_owned();
        let said = first.ok(&["swarm", "backup", &path])?;
        ensure!(
            said.contains("Backup of the swarm written to") && !said.contains("unlock key"),
            "{said}"
        );
        let mode = fs::metadata(&file)?.permissions().mode();
        ensure!(mode & 0o777 == 0o600, "{mode:o}");
        let no_member =
            other.ctl(&["swarm", "backup", &rig.dir().join("none").to_string_lossy()])?;
        ensure!(
            no_member.err.contains("This node is not a swarm manager."),
            "{}",
            no_member.err
        );
        ensure!(!rig.dir().join("none").exists());

        let whole = fs::read(&file)?;
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        let mut newer = whole.clone();
        newer[17] += 1;
        for (name, bytes, words) in [
            ("cut", &whole[..whole.len() - 1], "damaged, or cut short"),
            ("half", &whole[..whole.len() / 2], "damaged, or cut short"),
            ("flipped", &flipped[..], "damaged, or cut short"),
            ("newer", &newer[..], "made by a newer version"),
            ("foreign", b"\x1f\x8b", "this is not a backup of a swarm"),
            ("empty", b"", "this is not a backup of a swarm"),
        ] {
            let bad = rig.dir().join(name);
            fs::write(&bad, bytes)?;
            refused(other, &bad.to_string_lossy(), words)?;
        }
        let member = worker.ctl(&["swarm", "init", "--restore", &path])?;
        ensure!(
            member.err.contains("already part of a swarm"),
            "{}",
            member.err
        );

        // What comes after the backup is lost with the machine.
        first.ok(&[
            "service",
            "create",
            "-d",
            "--name",
            "late",
            "--replicas",
            "0",
            "whoami",
        ])?;
        first.ok(&["swarm", "leave", "--force"])?;
        let own = other.address.to_string();
        let said = other.ok(&[
            "swarm",
            "init",
            "--restore",
            &path,
            "--advertise-addr",
            &own,
        ])?;
        ensure!(said.contains("is now a manager"), "{said}");
        ensure!(names(other, "service")? == ["web"]);
        ensure!(names(other, "secret")? == ["word"]);
        ensure!(names(other, "network")?.contains(&"front".to_owned()));
        let key = [
            "network",
            "inspect",
            "front",
            "--format",
            "{{.Id}} {{(index .IPAM.Config 0).Subnet}}",
        ];
        let there = other.ok(&key)?;
        let id = there.split(' ').next().unwrap_or_default().to_owned();
        ensure!(front.contains(&id), "another network: {there}");
        ensure!(
            other.ok(&["swarm", "join-token", "-q", "worker"])? == token,
            "another token"
        );
        let roles = managers::statuses(other)?;
        let leaders = roles
            .iter()
            .filter(|(_, status)| status == "Leader")
            .count();
        ensure!(
            leaders == 1 && roles.iter().filter(|(_, s)| !s.is_empty()).count() == 1,
            "{roles:?}"
        );

        // Its nodes come in by the tokens that they know; the old one's trust in the root is the same.
        worker.ok(&["swarm", "leave"])?;
        join(worker, other)?;
        eventually("the service answers", UP_LIMIT, || {
            for node in [worker, other] {
                let asked = node.address;
                let reply = rig.client.enter(|| http_get(asked, 80, "/"))?;
                ensure!(reply.status == 200, "{}: {}", node.name, reply.status);
            }
            Ok(())
        })
    });
}

#[test]
fn nodes_find_a_manager_that_was_restored_at_its_old_address() {
    let builder = Rig::builder(&test_name("again")).nodes(2).without_swarm();
    scenario_on(builder, |rig| {
        managers::form_of(rig, 1)?;
        let [first, worker] = &rig.nodes[..] else {
            anyhow::bail!("two nodes");
        };
        let token = first.ok(&["swarm", "join-token", "-q", "worker"])?;
        let address = first.address.to_string();
        let (own, remote) = (worker.address.to_string(), format!("{address}:2377"));
        let join = ["swarm", "join", "--advertise-addr", &own, "--token"];
        worker.ok(&[&join[..], &[token.trim(), &remote]].concat())?;
        rig.wait_ready(2)?;
        first.ok(&["node", "update", "--availability", "drain", &first.name])?;
        rig.create("web", &["--publish", "80:80"])?;
        rig.wait_running("web", 1)?;
        let before = rig.running("web")?;
        let path = rig.dir().join("backup").to_string_lossy().into_owned();
        first.ok(&["swarm", "backup", &path])?;

        // Its disk is lost, and all that was on it.
        first.ok(&["swarm", "leave", "--force"])?;
        first.ok(&[
            "swarm",
            "init",
            "--restore",
            &path,
            "--advertise-addr",
            &address,
        ])?;
        managers::wait_until_ready(first, worker)?;
        let after = rig.running("web")?;
        let ids = |tasks: &[mesh_tests::Task]| -> Vec<String> {
            tasks.iter().map(|task| task.id.clone()).collect()
        };
        ensure!(ids(&after) == ids(&before), "{before:?} {after:?}");
        let asked = worker.address;
        let reply = rig.client.enter(|| http_get(asked, 80, "/"))?;
        ensure!(reply.status == 200, "{}", reply.status);
        Ok(())
    });
}
