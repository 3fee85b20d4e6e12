//! Bad input: a clear complaint, exit code 1, and nothing changed.

use std::{fs, process::Stdio};

use anyhow::{Context, Result, ensure};
use mesh_tests::{Answer, Node, Rig, ctl, image, rig, scenario, scenario_on};

/// Everything the manager knows of, to see that it stays the same.
fn state(node: &Node) -> Result<String> {
    let services = node.ok(&[
        "service",
        "ls",
        "--format",
        "{{.ID}} {{.Name}} {{.Replicas}} {{.Ports}}",
    ])?;
    let networks = node.ok(&["network", "ls", "--format", "{{.ID}} {{.Name}}"])?;
    let images = node.ok(&["image", "ls", "-q"])?;
    let nodes = node.ok(&["node", "ls", "--format", "{{.ID}} {{.Availability}}"])?;
    let addresses = node.ok(&["vip", "ls"])?;
    let specs = node.ok(&["service", "inspect", "web"])?;
    Ok([services, networks, images, nodes, addresses, specs].concat())
}

#[test]
fn bad_input_is_refused_and_changes_nothing() {
    scenario("bad", 1, |rig| {
        let first = rig.first();
        first.ok(&[
            "network",
            "create",
            "--driver",
            "overlay",
            "--subnet",
            "10.90.0.0/24",
            "front",
        ])?;
        rig.create("web", &["--publish", "80:80"])?;
        let torn = rig.dir().join("torn.tar");
        fs::write(&torn, b"this is no archive")?;
        let torn = torn.to_string_lossy().into_owned();
        let before = state(first)?;
        let create = ["service", "create", "-d"];
        let table: [(&[&str], &str); 10] = [
            (&["--name", "web", image::WHOAMI], "web"),
            (
                &["--name", "a", "--network", "nowhere", image::WHOAMI],
                "nowhere",
            ),
            (&["--name", "a", "--publish", "80:80", image::WHOAMI], "80"),
            (
                &["--name", "a", "--replicas", "-1", image::WHOAMI],
                "replicas",
            ),
            (&["--name", "a b", image::WHOAMI], "name"),
            (
                &["--name", "a", "--publish", "99999:80", image::WHOAMI],
                "99999",
            ),
            (
                &[
                    "--name",
                    "a",
                    "--constraint",
                    "node.hostname~n1",
                    image::WHOAMI,
                ],
                "constraint",
            ),
            (
                &["--name", "a", "--limit-memory", "lots", image::WHOAMI],
                "lots",
            ),
            (
                &[
                    "--name",
                    "a",
                    "--mount",
                    "type=bind,target=/x",
                    image::WHOAMI,
                ],
                "source",
            ),
            (&["--name", "a"], "IMAGE"),
        ];
        for (args, word) in table {
            let answer = first.ctl(&[&create[..], args].concat())?;
            complaint(answer, word)?;
        }
        let network = ["network", "create", "--driver", "overlay", "--subnet"];
        let ranged = [
            &network[..],
            &["10.91.0.0/24", "--ip-range", "10.91.0.128/25", "b"],
        ]
        .concat();
        let twice = [
            &network[..],
            &["10.91.0.0/24", "--subnet", "10.92.0.0/24", "b"],
        ]
        .concat();
        let others: [(&[&str], &str); 14] = [
            (&ranged, "invalid range 10.91.0.128/25"),
            (&twice, "a network has one IPv4 subnet"),
            (
                &[
                    "network",
                    "create",
                    "--driver",
                    "overlay",
                    "--subnet",
                    "10.90.0.0/25",
                    "b",
                ],
                "overlap",
            ),
            (
                &["network", "create", "--driver", "overlay", "front"],
                "front",
            ),
            (&["network", "rm", "nowhere"], "nowhere"),
            (&["service", "rm", "nobody"], "nobody"),
            (&["service", "scale", "web=-1"], "-1"),
            (&["service", "scale", "nobody=2"], "nobody"),
            (&["image", "load", "-i", &torn], "archive"),
            (&["image", "pull", "127.0.0.1:1/none:1"], "127.0.0.1:1"),
            (&["swarm", "init"], "swarm"),
            (&["flow", "ls", "--service", "nobody"], "nobody"),
            (&["exec", "web", "true"], "such as web.1."),
            (&["image", "rm", "no?such=1"], "no?such=1"),
        ];
        for (args, word) in others {
            complaint(first.ctl(args)?, word)?;
        }
        let after = state(first)?;
        ensure!(after == before, "changed from\n{before}\nto\n{after}");
        Ok(())
    });
}

/// A refusal with code 1 whose text has the word in it.
fn complaint(answer: Answer, word: &str) -> Result<()> {
    let line = answer.line.clone();
    let told = answer.refused()?;
    ensure!(
        told.to_lowercase().contains(&word.to_lowercase()),
        "`{line}` says nothing of {word:?}: {told}"
    );
    ensure!(told.lines().count() <= 3, "`{line}` says too much: {told}");
    Ok(())
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    scenario("pipe", 1, |rig| {
        let first = rig.first();
        for args in [
            &["node", "ls"][..],
            &["swarm", "join-token", "worker"],
            &["--help"],
        ] {
            let (reader, writer) = std::io::pipe()?;
            drop(reader);
            let output = first.ctl_command()?.args(args).stdout(writer).output()?;
            ensure!(
                output.status.success() && output.stderr.is_empty(),
                "{args:?}: {output:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_task_whose_image_is_unknown_says_so() {
    scenario("noimg", 1, |rig| {
        let first = rig.first();
        let create = [
            "service",
            "create",
            "-d",
            "-q",
            "--name",
            "a",
            "127.0.0.1:1/no/such:1",
        ];
        complaint(
            first.ctl(&create)?,
            "No such image: 127.0.0.1:1/no/such:1 is not on this node",
        )?;
        ensure!(first.ok(&["service", "ls", "-q"])?.is_empty());
        first.ok(&[&create[..], &["--no-resolve-image"]].concat())?;
        mesh_tests::eventually("a rejected task", rig::UP_LIMIT, || {
            let text = first.ok(&["service", "ps", "--no-trunc", "a"])?;
            ensure!(text.contains("Rejected"), "{text}");
            ensure!(
                text.contains("127.0.0.1:1/no/such:1") && text.contains("rror"),
                "{text}"
            );
            Ok(())
        })
    });
}

#[test]
fn a_join_that_cannot_succeed_says_why() {
    let builder = Rig::builder(&rig::test_name("join"))
        .nodes(2)
        .without_swarm();
    scenario_on(builder, |rig| {
        let [first, second] = [&rig.nodes[0], &rig.nodes[1]];
        let address = first.address.to_string();
        first.ok(&["swarm", "init", "--advertise-addr", &address])?;
        let token = first.ok(&["swarm", "join-token", "-q", "worker"])?;
        let token = token.trim();
        let remote = format!("{address}:2377");
        let (start, secret) = token.rsplit_once('-').context("a token has parts")?;
        let wrong: String = secret.chars().rev().collect();
        let wrong = format!("{start}-{wrong}");
        let cases = [
            (wrong.as_str(), remote.as_str(), "token"),
            ("SWMTKN-1-x", &remote, "token"),
            (token, "192.168.77.99:2377", "192.168.77.99"),
            (token, "127.0.0.1:1", "127.0.0.1:1"),
        ];
        for (token, remote, word) in cases {
            let answer = second.ctl(&["swarm", "join", "--token", token, remote])?;
            complaint(answer, word)?;
        }
        let known = || first.ok(&["node", "ls", "-q"]);
        ensure!(known()?.lines().count() == 1, "{}", known()?);
        // It can still join.
        second.ok(&["swarm", "join", "--token", token, &remote])?;
        ensure!(known()?.lines().count() == 2, "{}", known()?);
        rig.wait_ready(2)
    });
}

#[test]
fn a_socket_nobody_listens_on_is_named() {
    let program = mesh_tests::node::program("mesh-ctl").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let left_over = dir.path().join("mesh.sock");
    drop(std::os::unix::net::UnixListener::bind(&left_over).unwrap());
    for socket in [&*left_over.to_string_lossy(), "/nonexistent/mesh.sock"] {
        let output = std::process::Command::new(&program)
            .args(["-H", &format!("unix://{socket}"), "node", "ls"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let answer = ctl::Answer::of("mesh-ctl node ls".to_owned(), &output);
        complaint(answer, socket).unwrap();
    }
}
