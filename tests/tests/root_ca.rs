//! The root CA is rotated while everything runs.

use std::{fs, process::Stdio};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use mesh_pki::RootCa;
use mesh_tests::{
    Answer, Node, Rig, eventually, http_get,
    load::while_asking,
    managers::{self, leader, wait_until_ready},
    rig::{UP_LIMIT, test_name},
    scenario_on,
    stock::{docker, docker_command},
    with_line,
};
use serde_json::{Value, json};

fn root(node: &Node) -> Result<String> {
    let root = node.ok(&["swarm", "ca"])?;
    let is_one = root.starts_with("-----BEGIN CERTIFICATE-----")
        && root.matches("BEGIN CERTIFICATE").count() == 1;
    ensure!(is_one, "{root}");
    Ok(root.trim().to_owned())
}

fn swarm(node: &Node) -> Result<Value> {
    let answer = node.engine().get("/swarm")?;
    ensure!(answer.is_success(), "{answer:?}");
    answer.json()
}

fn is_rotating(node: &Node) -> Result<bool> {
    let is = swarm(node)?["RootRotationInProgress"].as_bool();
    is.context("nothing is said of a rotation")
}

fn wait_for_end(node: &Node) -> Result<()> {
    eventually("the end of the rotation", UP_LIMIT, || {
        ensure!(!is_rotating(node)?, "it goes on");
        Ok(())
    })
}

/// What `node ls` says of a node's certificate.
fn tls_status(by: &Node, of: &Node) -> Result<String> {
    let list = by.ok(&["node", "ls", "--format", "{{.Hostname}} {{.TLSStatus}}"])?;
    let found = list.lines().find_map(|line| {
        let (name, status) = line.split_once(' ')?;
        (name == of.name).then(|| status.to_owned())
    });
    found.with_context(|| format!("{} is not listed: {list}", of.name))
}

fn token(node: &Node, role: &str) -> Result<String> {
    let token = node.ok(&["swarm", "join-token", "-q", role])?;
    Ok(token.trim().to_owned())
}

fn join(node: &Node, to: &Node, token: &str) -> Result<Answer> {
    let (own, remote) = (node.address.to_string(), format!("{}:2377", to.address));
    let join = ["swarm", "join", "--advertise-addr", &own, "--token"];
    node.ctl(&[&join[..], &[token, &remote]].concat())
}

fn restart(node: &mut Node) -> Result<()> {
    node.kill()?;
    node.start()
}

/// Certificates in a node's files: its own with those that it is shown with, and the root.
fn certificates(node: &Node) -> Result<(usize, String)> {
    let directory = node.data_dir().join("swarm/certificates");
    let own = fs::read_to_string(directory.join("node.key"))?;
    let root = fs::read_to_string(directory.join("root-ca.crt"))?;
    Ok((
        own.matches("BEGIN CERTIFICATE").count(),
        root.trim().to_owned(),
    ))
}

fn answers(rig: &Rig, nodes: &[Node]) -> Result<()> {
    for node in nodes {
        let reply = rig.client.enter(|| http_get(node.address, 80, "/"))?;
        ensure!(reply.status == 200, "{}: {}", node.name, reply.status);
    }
    Ok(())
}

/// What cannot be a root is refused at the API and by the command, and changes nothing.
fn what_is_refused(node: &Node, dir: &std::path::Path) -> Result<()> {
    let before = swarm(node)?;
    let version = before["Version"]["Index"].as_u64().context("a version")?;
    let [one, other] = [RootCa::create()?, RootCa::create()?];
    let key = |root: &RootCa| root.key_pem().unwrap_or_default().to_owned();
    let engine = node.engine();
    let path = format!("/swarm/update?version={version}");
    let table = [
        (
            json!({"SigningCACert": one.certificate_pem(), "SigningCAKey": key(&other)}),
            "400",
            "certificate key mismatch",
        ),
        (
            json!({"SigningCACert": "?", "SigningCAKey": key(&one)}),
            "400",
            "not a valid certificate",
        ),
        (
            json!({"SigningCAKey": key(&one)}),
            "400",
            "the signing CA cert must also be provided",
        ),
        (
            json!({"SigningCACert": one.certificate_pem()}),
            "400",
            "external CAs are not supported",
        ),
        (
            json!({"ForceRotate": 9, "ExternalCAs": [{"Protocol": "cfssl", "URL": "https://ca"}]}),
            "501",
            "external CAs are not supported",
        ),
    ];
    for (ca, status, words) in table {
        let mut spec = before["Spec"].clone();
        spec["CAConfig"] = ca;
        let said = engine.post(&path, &spec)?.refused(status)?;
        ensure!(said.contains(words), "{words}: {said}");
    }
    let file = |name: &str, text: &str| -> Result<String> {
        let path = dir.join(name);
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let (certificate, wrong) = (
        file("ca.crt", one.certificate_pem())?,
        file("other.key", &key(&other))?,
    );
    let rotate = ["swarm", "ca", "--rotate", "--ca-cert", &certificate];
    let said = node.ctl(&[&rotate[..], &["--ca-key", &wrong]].concat())?;
    let said = said.refused()?;
    ensure!(said.contains("certificate key mismatch"), "{said}");
    let said = node.ctl(&["swarm", "ca", "--ca-key", &wrong])?.refused()?;
    ensure!(said.contains("requires the `--rotate` flag"), "{said}");
    let said = docker(node, &["swarm", "ca", "--cert-expiry", "2h"])?;
    ensure!(said.refused()?.contains("requires the `--rotate` flag"));
    ensure!(swarm(node)? == before, "something was changed");
    Ok(())
}

#[test]
fn the_root_is_rotated_under_requests_and_another_time_while_the_leader_ends() {
    let builder = Rig::builder(&test_name("root")).nodes(5).without_swarm();
    scenario_on(builder, |rig| {
        managers::form_of(rig, 3)?;
        let old_worker = token(&rig.nodes[0], "worker")?;
        let old_manager = token(&rig.nodes[0], "manager")?;
        join(&rig.nodes[3], &rig.nodes[0], &old_worker)?.ok()?;
        rig.wait_ready(4)?;
        rig.create("web", &["--publish", "80:80", "--replicas", "2"])?;
        rig.wait_running("web", 2)?;
        eventually("all to answer", UP_LIMIT, || answers(rig, &rig.nodes[..4]))?;
        let first = root(&rig.nodes[1])?;
        what_is_refused(&rig.nodes[1], &rig.dir())?;
        for node in &rig.nodes[..4] {
            ensure!(certificates(node)? == (1, first.clone()), "{}", node.name);
            ensure!(tls_status(&rig.nodes[2], node)? == "Ready", "{}", node.name);
        }

        // A follower is asked, and the leader does it.
        let leads = leader(rig, &rig.nodes[0])?;
        let asked = &rig.nodes[(leads + 1) % 3];
        let addresses: Vec<_> = rig.nodes[..4].iter().map(|node| node.address).collect();
        let (said, load) = while_asking(&rig.client, &addresses, || {
            let said = asked.ok(&["swarm", "ca", "--rotate"])?;
            rig.create("meanwhile", &[])?;
            rig.wait_running("meanwhile", 1)?;
            Ok(said)
        })?;
        load.all_answered()?;
        let second = root(asked)?;
        ensure!(second != first);
        for words in [
            "desired root digest: sha256:",
            "rotated TLS certificates: 4/4 nodes",
            "rotated CA certificates: 4/4 nodes",
        ] {
            ensure!(said.contains(words), "{words}: {said}");
        }
        ensure!(said.trim_end().ends_with(&second), "{said}");
        for node in &rig.nodes[..3] {
            ensure!(root(node)? == second, "{}", node.name);
            ensure!(!is_rotating(node)?);
        }
        for node in &rig.nodes[..4] {
            ensure!(certificates(node)? == (2, second.clone()), "{}", node.name);
            ensure!(tls_status(asked, node)? == "Ready", "{}", node.name);
        }
        let new_worker = token(asked, "worker")?;
        for (old, new) in [
            (&old_worker, &new_worker),
            (&old_manager, &token(asked, "manager")?),
        ] {
            let [old, new] = [old, new].map(|token| token.split('-').collect::<Vec<_>>());
            ensure!(old[2] != new[2] && old[3] != new[3], "{old:?} {new:?}");
        }
        for old in [&old_worker, &old_manager] {
            let said = join(&rig.nodes[4], &rig.nodes[0], old)?.refused()?;
            ensure!(
                said.contains("remote CA does not match fingerprint"),
                "{said}"
            );
        }

        // Each agent finds the others again.
        for number in 0..4 {
            restart(&mut rig.nodes[number])?;
            let by = &rig.nodes[(number + 1) % 3];
            wait_until_ready(by, &rig.nodes[number])?;
        }
        managers::wait_for(rig, &rig.nodes[0], &[0, 1, 2])?;

        // A node that is down is waited for, whoever leads, and whatever else goes on.
        rig.nodes[3].kill()?;
        let leads = eventually("a leader", UP_LIMIT, || leader(rig, &rig.nodes[0]))?;
        let (asked, last) = ((leads + 1) % 3, (leads + 2) % 3);
        rig.nodes[asked].ok(&["swarm", "ca", "--rotate", "--detach"])?;
        eventually("the managers' certificates", UP_LIMIT, || {
            for node in &rig.nodes[..3] {
                let is = tls_status(&rig.nodes[asked], node)?;
                ensure!(is == "Ready", "{}: {is}", node.name);
            }
            Ok(())
        })?;
        ensure!(tls_status(&rig.nodes[asked], &rig.nodes[3])? == "Needs Rotation");
        ensure!(is_rotating(&rig.nodes[last])?);
        ensure!(root(&rig.nodes[last])? == second, "it is trusted still");
        join(&rig.nodes[4], &rig.nodes[asked], &new_worker)?.ok()?;
        ensure!(certificates(&rig.nodes[4])?.1 == second);
        rig.nodes[leads].kill()?;
        eventually("another leader", UP_LIMIT, || {
            let now = leader(rig, &rig.nodes[asked])?;
            ensure!(now != leads, "it is said to lead still");
            Ok(())
        })?;
        ensure!(is_rotating(&rig.nodes[asked])?);
        rig.nodes[leads].start()?;
        rig.nodes[3].start()?;
        wait_for_end(&rig.nodes[asked])?;
        let third = root(&rig.nodes[asked])?;
        ensure!(third != second && third != first);
        rig.wait_ready(5)?;
        eventually("all trust it", UP_LIMIT, || {
            for node in &rig.nodes {
                ensure!(certificates(node)?.1 == third, "{}", node.name);
            }
            Ok(())
        })?;
        eventually("all to answer", UP_LIMIT, || answers(rig, &rig.nodes))
    });
}

#[test]
fn the_stock_client_rotates_it_to_a_given_root_and_a_removed_node_gets_nothing() {
    let builder = Rig::builder(&test_name("stockca")).nodes(3).without_swarm();
    scenario_on(builder, |rig| {
        managers::form_of(rig, 1)?;
        let worker = token(&rig.nodes[0], "worker")?;
        for node in &rig.nodes[1..] {
            join(node, &rig.nodes[0], &worker)?.ok()?;
        }
        rig.wait_ready(3)?;
        let first = root(&rig.nodes[0])?;
        ensure!(docker(&rig.nodes[0], &["swarm", "ca"])?.ok()?.trim() == first);

        // Two that are away: one comes back, the other is removed.
        rig.nodes[1].kill()?;
        rig.nodes[2].kill()?;
        let given = RootCa::create()?;
        let file = |name: &str, text: &str| -> Result<String> {
            let path = rig.dir().join(name);
            fs::write(&path, text)?;
            Ok(path.to_string_lossy().into_owned())
        };
        let certificate = file("ca.crt", given.certificate_pem())?;
        let key = file("ca.key", given.key_pem().context("a key")?)?;
        let rotate = docker_command(&rig.nodes[0])?
            .args(["swarm", "ca", "--rotate", "--ca-cert", &certificate])
            .args(["--ca-key", &key])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        eventually("the rotation", UP_LIMIT, || {
            ensure!(is_rotating(&rig.nodes[0])?, "it has not begun");
            ensure!(tls_status(&rig.nodes[0], &rig.nodes[0])? == "Ready");
            Ok(())
        })?;
        let info = swarm(&rig.nodes[0])?["TLSInfo"].clone();
        let spki = info["CertIssuerPublicKey"].as_str().map(str::to_owned);
        ensure!(
            spki == Some(STANDARD.encode(given.public_key_der()?)),
            "{info}"
        );
        for number in [1, 2] {
            let is = tls_status(&rig.nodes[0], &rig.nodes[number])?;
            ensure!(is == "Needs Rotation", "{is}");
        }
        rig.nodes[1].start()?;
        let gone = rig.nodes[2].name.clone();
        rig.nodes[0].ok(&["node", "rm", "--force", &gone])?;
        let output = rotate.wait_with_output()?;
        let said = Answer::of("docker swarm ca --rotate".to_owned(), &output).ok()?;
        ensure!(said.contains(given.certificate_pem().trim()), "{said}");
        ensure!(root(&rig.nodes[0])? == given.certificate_pem().trim());
        ensure!(!swarm(&rig.nodes[0])?.to_string().contains("SigningCA"));

        rig.nodes[2].start()?;
        let state = |node: &Node| -> Result<String> {
            let state = node.ok(&["info", "--format", "{{.Swarm.LocalNodeState}}"])?;
            Ok(state.trim().to_owned())
        };
        eventually("it is told why", UP_LIMIT, || {
            let info = rig.nodes[2].ok(&["info"])?;
            let is_told = info.contains("do not trust the root CA of this node's certificate");
            ensure!(is_told && info.contains("Swarm: error"), "{info}");
            Ok(())
        })?;
        let nodes = rig.nodes[0].ok(&["node", "ls", "-q"])?;
        ensure!(nodes.lines().count() == 2, "{nodes}");

        // The same root again is no rotation, and neither is an update of something else.
        let again = ["swarm", "ca", "--rotate", "-q", "--ca-cert", &certificate];
        rig.nodes[0].ok(&[&again[..], &["--ca-key", &key]].concat())?;
        docker(
            &rig.nodes[0],
            &["swarm", "update", "--task-history-limit", "3"],
        )?
        .ok()?;
        ensure!(root(&rig.nodes[0])? == given.certificate_pem().trim());
        ensure!(!is_rotating(&rig.nodes[0])?);
        let said = docker(&rig.nodes[0], &["swarm", "ca", "--rotate"])?.ok()?;
        let last = root(&rig.nodes[0])?;
        ensure!(said.contains(&last) && last != given.certificate_pem().trim());
        restart(&mut rig.nodes[1])?;
        rig.wait_ready(2)?;
        ensure!(state(&rig.nodes[1])? == "active");
        ensure!(state(&rig.nodes[2])? != "active", "it got something");
        rig.nodes[2].ok(&["swarm", "leave"])?;
        let worker = token(&rig.nodes[0], "worker")?;
        join(&rig.nodes[2], &rig.nodes[0], &worker)?.ok()?;
        rig.wait_ready(3)
    });
}

#[test]
fn a_locked_manager_a_rebuilt_cluster_and_a_backup_go_on_with_a_rotation() {
    let builder = Rig::builder(&test_name("lockca")).nodes(2).without_swarm();
    scenario_on(builder, |rig| {
        let own = rig.nodes[0].address.to_string();
        let addressed = ["--advertise-addr", &own];
        rig.nodes[0].ok(&[&["swarm", "init", "--autolock"][..], &addressed].concat())?;
        let key = rig.nodes[0].ok(&["swarm", "unlock-key", "-q"])?;
        let worker = token(&rig.nodes[0], "worker")?;
        join(&rig.nodes[1], &rig.nodes[0], &worker)?.ok()?;
        rig.wait_ready(2)?;
        let old = root(&rig.nodes[0])?;
        rig.nodes[1].kill()?;
        rig.nodes[0].ok(&["swarm", "ca", "--rotate", "-d"])?;
        let file = rig.nodes[0].data_dir().join("swarm/certificates/node.key");
        eventually("a new certificate", UP_LIMIT, || {
            let text = fs::read_to_string(&file)?;
            ensure!(!text.contains("BEGIN PRIVATE KEY"), "its key is in clear");
            ensure!(
                text.matches("BEGIN CERTIFICATE").count() == 2,
                "the old one"
            );
            let is = tls_status(&rig.nodes[0], &rig.nodes[0])?;
            ensure!(is == "Ready", "{is}");
            Ok(())
        })?;
        let goes_on = |rig: &Rig| {
            eventually("the rotation to go on", UP_LIMIT, || {
                ensure!(is_rotating(&rig.nodes[0])?, "it is over");
                ensure!(root(&rig.nodes[0])? == old, "another root");
                Ok(())
            })
        };

        restart(&mut rig.nodes[0])?;
        let command = rig.nodes[0].ctl_command()?;
        with_line(command, &["swarm", "unlock"], key.trim())?.ok()?;
        goes_on(rig)?;
        rig.nodes[0].ok(&["swarm", "init", "--force-new-cluster"])?;
        goes_on(rig)?;

        let backup = rig.dir().join("backup").to_string_lossy().into_owned();
        rig.nodes[0].ok(&["swarm", "backup", &backup])?;
        rig.nodes[0].ok(&["swarm", "leave", "--force"])?;
        let restore = [&["swarm", "init", "--restore", &backup][..], &addressed].concat();
        let command = rig.nodes[0].ctl_command()?;
        with_line(command, &restore, key.trim())?.ok()?;
        goes_on(rig)?;
        rig.nodes[1].start()?;
        wait_for_end(&rig.nodes[0])?;
        let new = root(&rig.nodes[0])?;
        ensure!(new != old);
        eventually("both trust it", UP_LIMIT, || {
            for node in &rig.nodes {
                ensure!(certificates(node)? == (2, new.clone()), "{}", node.name);
            }
            Ok(())
        })
    });
}
