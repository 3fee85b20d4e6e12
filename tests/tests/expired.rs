//! Nodes come back after their certificates have expired: with clocks that are turned, and where the clocks are right, with
//! certificates that ended in the past. The test signs these by the key of the swarm's root CA, which it gave, and puts them in
//! the place of those on the nodes' disks.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use mesh_pki::{NodeIdentity, RootCa};
use mesh_tests::{
    Node, Rig, eventually, http_get,
    managers::{self, wait_until_ready},
    rig::{UP_LIMIT, test_name},
    scenario_on, with_line,
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long the certificate lives that expires while its manager runs.
const SOON: Duration = Duration::from_secs(10);

fn certificates(node: &Node) -> PathBuf {
    node.data_dir().join("swarm/certificates")
}

fn identity(node: &Node) -> Result<NodeIdentity> {
    let identity = NodeIdentity::load(&certificates(node), None)?;
    identity.context("the node has no identity")
}

/// Rotates the swarm's root CA to one that the test has the key of.
fn rotate(rig: &Rig) -> Result<RootCa> {
    let root = RootCa::create()?;
    let file = |name: &str, text: &str| -> Result<String> {
        let path = rig.dir().join(name);
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let certificate = file("ca.crt", root.certificate_pem())?;
    let key = file("ca.key", root.key_pem().context("a key")?)?;
    let rotate = ["swarm", "ca", "--rotate", "-q", "--ca-cert", &certificate];
    rig.nodes[0].ok(&[&rotate[..], &["--ca-key", &key]].concat())?;
    for node in &rig.nodes {
        eventually("the root to be trusted", UP_LIMIT, || {
            let trusts = identity(node)?.root_pem == root.certificate_pem();
            ensure!(trusts, "{} trusts another", node.name);
            Ok(())
        })?;
    }
    Ok(root)
}

/// Has the certificate of a node whose agent does not run end then. The private key stays as it is on disk, locked or not.
fn expire(node: &Node, identity: &NodeIdentity, root: &RootCa, end: SystemTime) -> Result<()> {
    let certificate = root.sign_during(
        &identity.request()?,
        &identity.node_id,
        identity.role,
        &identity.cluster_id,
        end - 90 * DAY..end,
    )?;
    let path = certificates(node).join("node.key");
    let text = fs::read_to_string(&path)?;
    let begin = text.find("-----BEGIN CERTIFICATE-----");
    let key = &text[..begin.context("no certificate")?];
    fs::write(&path, format!("{key}{certificate}"))?;
    fs::write(certificates(node).join("node.crt"), certificate)?;
    Ok(())
}

/// When the certificate on disk ends, from now.
fn left(node: &Node) -> Result<Duration> {
    let (_, end) = identity(node)?.validity()?;
    Ok(end.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Waits for a certificate that managers have signed for another key.
fn wait_for_renewal(node: &Node, former: &NodeIdentity) -> Result<()> {
    eventually("a renewed certificate", UP_LIMIT, || {
        let now = identity(node)?;
        ensure!(left(node)? > 30 * DAY, "{}: it is not renewed", node.name);
        ensure!(now.node_id == former.node_id, "{}", now.node_id);
        ensure!(now.role == former.role, "{}", now.role);
        ensure!(now.key_pem != former.key_pem, "it is of the same key");
        Ok(())
    })
}

fn wait_for_answer(rig: &Rig, node: &Node) -> Result<()> {
    eventually("an answer", UP_LIMIT, || {
        let reply = rig.client.enter(|| http_get(node.address, 80, "/"))?;
        ensure!(reply.status == 200, "{}: {}", node.name, reply.status);
        Ok(())
    })
}

fn wait_for_log(node: &Node, words: &str) -> Result<()> {
    eventually("a word in the agent's log", UP_LIMIT, || {
        let log = fs::read_to_string(node.log())?;
        ensure!(log.contains(words), "{}: no {words:?}", node.name);
        Ok(())
    })
}

#[test]
fn a_swarm_that_was_off_for_a_hundred_days_goes_on() {
    let builder = Rig::builder(&test_name("hundred")).nodes(3).without_swarm();
    scenario_on(builder, |rig| {
        managers::form_of(rig, 2)?;
        managers::join_workers(rig, &rig.nodes[2..])?;
        rig.wait_ready(3)?;
        rig.create("web", &["--publish", "80:80", "--mode", "global"])?;
        rig.wait_running("web", 3)?;
        let ahead = 100 * DAY;
        let mut former = Vec::new();
        for node in &mut rig.nodes {
            node.kill()?;
            ensure!(left(node)? < ahead, "it lives too long");
            former.push(identity(node)?);
            node.clock_ahead = ahead;
        }
        for node in &mut rig.nodes {
            node.start()?;
        }
        for (node, former) in rig.nodes.iter().zip(&former) {
            eventually("a renewed certificate", UP_LIMIT, || {
                let is_new = identity(node)?.key_pem != former.key_pem;
                ensure!(is_new && left(node)? > ahead + 30 * DAY, "{}", node.name);
                Ok(())
            })?;
        }
        managers::wait_for(rig, &rig.nodes[0], &[0, 1])?;
        for node in &rig.nodes {
            wait_until_ready(&rig.nodes[0], node)?;
            wait_for_answer(rig, node)?;
        }
        rig.create("later", &["--replicas", "3"])?;
        rig.wait_running("later", 3)?;
        Ok(())
    });
}

#[test]
fn a_manager_alone_whose_clock_was_ahead_goes_on_once_it_is_right() {
    let builder = Rig::builder(&test_name("ahead")).nodes(1).without_swarm();
    scenario_on(builder, |rig| {
        managers::form_of(rig, 1)?;
        rig.wait_ready(1)?;
        rig.create("web", &["--publish", "80:80"])?;
        rig.wait_running("web", 1)?;
        let mut former = identity(&rig.nodes[0])?;
        for ahead in [100 * DAY, Duration::ZERO] {
            let node = &mut rig.nodes[0];
            node.kill()?;
            let now = SystemTime::now() + ahead;
            ensure!(!former.is_good_at(now)?, "it is good still");
            node.clock_ahead = ahead;
            node.start()?;
            eventually("a renewed certificate", UP_LIMIT, || {
                let renewed = identity(&rig.nodes[0])?;
                ensure!(renewed.key_pem != former.key_pem, "it is of the same key");
                ensure!(renewed.is_good_at(now)?, "it is not good");
                former = renewed;
                Ok(())
            })?;
            wait_until_ready(&rig.nodes[0], &rig.nodes[0])?;
            wait_for_answer(rig, &rig.nodes[0])?;
        }
        rig.create("later", &["--publish", "81:80"])?;
        rig.wait_running("later", 1)?;
        Ok(())
    });
}

#[test]
fn a_swarm_comes_back_after_all_certificates_have_expired_but_for_a_removed_node() {
    let builder = Rig::builder(&test_name("expired")).nodes(5).without_swarm();
    scenario_on(builder, |rig| {
        managers::form_of(rig, 3)?;
        managers::join_workers(rig, &rig.nodes[3..])?;
        rig.wait_ready(5)?;
        rig.create("web", &["--publish", "80:80", "--mode", "global"])?;
        rig.wait_running("web", 5)?;
        let root = rotate(rig)?;
        rig.wait_ready(5)?;

        // One that was away is removed.
        rig.nodes[4].kill()?;
        let gone = rig.nodes[4].name.clone();
        rig.nodes[0].ok(&["node", "rm", "--force", &gone])?;
        for node in &mut rig.nodes[..4] {
            node.kill()?;
        }
        let past = SystemTime::now() - 10 * DAY;
        let mut former = Vec::new();
        for node in &rig.nodes {
            let identity = identity(node)?;
            expire(node, &identity, &root, past)?;
            former.push(identity);
        }

        // The worker comes first: nobody can renew anything yet.
        rig.nodes[3].start()?;
        eventually("the reason to be told", UP_LIMIT, || {
            let info = rig.nodes[3].ok(&["info"])?;
            let (state, why) = (
                "Swarm: pending",
                "Error: the certificate of this node expired on",
            );
            ensure!(info.contains(state) && info.contains(why), "{info}");
            ensure!(info.contains("cannot reach a manager at"), "{info}");
            Ok(())
        })?;
        for number in [4, 0, 1, 2] {
            rig.nodes[number].start()?;
        }
        for (node, former) in rig.nodes[..4].iter().zip(&former) {
            wait_for_renewal(node, former)?;
        }
        managers::wait_for(rig, &rig.nodes[0], &[0, 1, 2])?;
        for node in &rig.nodes[..4] {
            wait_until_ready(&rig.nodes[0], node)?;
            wait_for_answer(rig, node)?;
            eventually("nothing to be wrong", UP_LIMIT, || {
                let why = node.ok(&["info", "--format", "{{.Swarm.Error}}"])?;
                ensure!(why.trim().is_empty(), "{}: {why}", node.name);
                Ok(())
            })?;
        }
        for node in &rig.nodes[..3] {
            wait_for_log(node, "it is prolonged with the swarm's root CA")?;
        }
        wait_for_log(
            &rig.nodes[3],
            "managers are asked to renew it, who know its key",
        )?;
        eventually("the removed one to be told", UP_LIMIT, || {
            let info = rig.nodes[4].ok(&["info"])?;
            ensure!(
                info.contains("is not part of this swarm (any more)"),
                "{info}"
            );
            Ok(())
        })?;
        ensure!(left(&rig.nodes[4])?.is_zero(), "it got a certificate");
        let nodes = rig.nodes[0].ok(&["node", "ls", "-q"])?;
        ensure!(nodes.lines().count() == 4, "{nodes}");

        // One manager and one worker, while the others go on.
        for number in [2, 3] {
            rig.nodes[number].kill()?;
            let identity = identity(&rig.nodes[number])?;
            expire(&rig.nodes[number], &identity, &root, past)?;
            rig.nodes[number].start()?;
            wait_for_renewal(&rig.nodes[number], &identity)?;
            wait_until_ready(&rig.nodes[0], &rig.nodes[number])?;
        }
        managers::wait_for(rig, &rig.nodes[0], &[0, 1, 2])?;

        // A manager's expires while it runs, and finds no leader.
        for node in &mut rig.nodes[..3] {
            node.kill()?;
        }
        let identity = identity(&rig.nodes[1])?;
        expire(&rig.nodes[1], &identity, &root, SystemTime::now() + SOON)?;
        rig.nodes[1].start()?;
        eventually("a later end", UP_LIMIT, || {
            ensure!(left(&rig.nodes[1])? > SOON, "it is not prolonged");
            Ok(())
        })?;
        ensure!(left(&rig.nodes[1])? < 2 * HOUR, "who renewed it?");
        rig.nodes[0].start()?;
        rig.nodes[2].start()?;
        wait_for_renewal(&rig.nodes[1], &identity)?;
        managers::wait_for(rig, &rig.nodes[0], &[0, 1, 2])?;
        wait_for_answer(rig, &rig.nodes[1])
    });
}

#[test]
fn a_locked_manager_alone_prolongs_its_certificate_once_it_is_unlocked() {
    let builder = Rig::builder(&test_name("expiredlock"))
        .nodes(1)
        .without_swarm();
    scenario_on(builder, |rig| {
        managers::form_of(rig, 1)?;
        rig.wait_ready(1)?;
        let root = rotate(rig)?;
        let former = identity(&rig.nodes[0])?;
        rig.nodes[0].ok(&["swarm", "update", "--autolock=true"])?;
        let key = rig.nodes[0].ok(&["swarm", "unlock-key", "-q"])?;
        eventually("the key to be locked", UP_LIMIT, || {
            ensure!(!identity(&rig.nodes[0])?.has_key(), "it is in clear");
            Ok(())
        })?;
        rig.nodes[0].kill()?;
        expire(&rig.nodes[0], &former, &root, SystemTime::now() - 10 * DAY)?;
        rig.nodes[0].start()?;
        eventually("it to be locked", UP_LIMIT, || {
            let state = rig.nodes[0].ok(&["info", "--format", "{{.Swarm.LocalNodeState}}"])?;
            ensure!(state.trim() == "locked", "{state}");
            Ok(())
        })?;
        ensure!(left(&rig.nodes[0])?.is_zero(), "by which key?");
        with_line(
            rig.nodes[0].ctl_command()?,
            &["swarm", "unlock"],
            key.trim(),
        )?
        .ok()?;
        wait_for_renewal(&rig.nodes[0], &former)?;
        ensure!(!identity(&rig.nodes[0])?.has_key(), "it is in clear");
        wait_until_ready(&rig.nodes[0], &rig.nodes[0])?;
        rig.create("web", &["--publish", "80:80"])?;
        rig.wait_running("web", 1)?;
        wait_for_answer(rig, &rig.nodes[0])
    });
}
