//! Bad input: a clear complaint, exit code 1, and nothing changed.

use std::{fs, process::Stdio};

use anyhow::{Context, Result, ensure};
use mesh_tests::{Answer, Node, Rig, ctl, http_get, image, node, rig, scenario, scenario_on};

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

/// Two agents would have one tunnel device and one set of uplinks.
#[test]
fn a_second_agent_in_a_network_namespace_is_refused() {
    scenario("two", 1, |rig| {
        rig.create("web", &["--publish", "80:80"])?;
        rig.wait_running("web", 1)?;
        let first = rig.first();
        let agent = node::program("mesh-agent")?;
        let dir = rig.dir().join("second");
        let mut second = first.ns.command(&agent.to_string_lossy(), None)?;
        second
            .arg("--data-dir")
            .arg(dir.join("data"))
            .arg("--run-dir")
            .arg(dir.join("run"))
            .args(["--instance", "second"]);
        let ended = second.stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&ended.stderr);
        let pid = first.pid().context("an agent")?;
        let refusal = format!("another mesh-agent, process {pid}, runs in this network namespace");
        ensure!(!ended.status.success() && text.contains(&refusal), "{text}");
        let reply = rig.client.enter(|| http_get(first.address, 80, "/"))?;
        ensure!(reply.status == 200);
        Ok(())
    });
}

#[test]
fn bad_input_is_refused_and_changes_nothing() {
    scenario("bad", 1, |rig| {
        let first = rig.first();
        let network = ["network", "create", "--driver", "overlay", "--subnet"];
        let create_network =
            |args: &[&'static str]| -> Vec<&'static str> { [&network[..], args].concat() };
        first.ok(&create_network(&["10.90.0.0/24", "front"]))?;
        rig.create("web", &["--publish", "80:80", "--network", "front"])?;
        let task = rig.task("web")?.container;
        let [text, torn] = ["text.tar", "torn.tar"]
            .map(|name| rig.dir().join(name).to_string_lossy().into_owned());
        fs::write(&text, b"this is no archive")?;
        let whole = fs::read(image::whoami_archive(&rig.dir())?)?;
        fs::write(&torn, &whole[..whole.len() / 2])?;
        let before = state(first)?;
        let services: [(&[&str], &str); 10] = [
            (
                &["--name", "web", image::WHOAMI],
                "Error response from daemon: rpc error: code = AlreadyExists desc = name conflicts with an existing object: \
                 service web already exists",
            ),
            (
                &["--name", "a", "--network", "nowhere", image::WHOAMI],
                "Error response from daemon: network nowhere not found",
            ),
            (
                &[
                    "--name",
                    "a",
                    "--network",
                    "front",
                    "--publish",
                    "81:80",
                    "--publish",
                    "80:80",
                    image::WHOAMI,
                ],
                "Error response from daemon: rpc error: code = InvalidArgument desc = port '80' is already in use by service \
                 'web' (…) as an ingress port",
            ),
            (
                &["--name", "a", "--replicas", "-1", image::WHOAMI],
                "invalid value '-1' for '--replicas <REPLICAS>': -1 is not in 0..=4294967295 (see --help)",
            ),
            (
                &["--name", "a b", image::WHOAMI],
                "Error response from daemon: rpc error: code = InvalidArgument desc = name must be valid as a DNS name component",
            ),
            (
                &["--name", "a", "--publish", "99999:80", image::WHOAMI],
                "invalid publish \"99999:80\": invalid port \"99999\": it is a number from 1 to 65535",
            ),
            (
                &[
                    "--name",
                    "a",
                    "--constraint",
                    "node.hostname~n1",
                    image::WHOAMI,
                ],
                "Error response from daemon: rpc error: code = InvalidArgument desc = constraint expected one operator from ==, !=",
            ),
            (
                &["--name", "a", "--limit-memory", "lots", image::WHOAMI],
                "invalid value 'lots' for '--limit-memory <LIMIT_MEMORY>': invalid size \"lots\": write it as 64M or 1g (see \
                 --help)",
            ),
            (
                &[
                    "--name",
                    "a",
                    "--mount",
                    "type=bind,target=/x",
                    image::WHOAMI,
                ],
                "invalid mount \"type=bind,target=/x\": source is required with type 'bind'",
            ),
            (
                &["--name", "a"],
                "the following required arguments were not provided: <IMAGE> (see --help)",
            ),
        ];
        for (args, text) in services {
            complaint(
                first.ctl(&[&["service", "create", "-d"], args].concat())?,
                text,
            )?;
        }
        let such_as = format!(
            "Error response from daemon: No such container: web: this is a service; name a task of it, such as {task}"
        );
        let others: [(&[&str], &str); 15] = [
            (
                &create_network(&["10.91.0.0/24", "--ip-range", "10.92.0.128/25", "b"]),
                "Error response from daemon: rpc error: code = InvalidArgument desc = invalid ip-range 10.92.0.128/25: parent subnet 10.91.0.0/24 doesn't contain it",
            ),
            (
                &create_network(&["10.91.0.0/24", "--subnet", "10.92.0.0/24", "b"]),
                "Error response from daemon: invalid subnet 10.92.0.0/24: a network has one IPv4 subnet",
            ),
            (
                &create_network(&["10.90.0.0/25", "b"]),
                "Error response from daemon: invalid pool request: Pool overlaps with other one on this address space: \
                 10.90.0.0/25 overlaps 10.90.0.0/24 of network front",
            ),
            (
                &create_network(&["10.91.0.0/24", "front"]),
                "Error response from daemon: network with name front already exists",
            ),
            (
                &["network", "rm", "nowhere"],
                "Error response from daemon: network nowhere not found",
            ),
            (
                &["service", "rm", "nobody"],
                "Error response from daemon: service nobody not found",
            ),
            (
                &["service", "scale", "web=-1"],
                "invalid value 'web=-1' for '<SERVICE=REPLICAS>...': invalid replicas value -1: it is a number from 0 up (see \
                 --help)",
            ),
            (
                &["service", "scale", "nobody=2"],
                "nobody: Error response from daemon: service nobody not found",
            ),
            (
                &["image", "load", "-i", &text],
                "malformed image archive: it is not a tar archive",
            ),
            (
                &["image", "load", "-i", &torn],
                "malformed image archive: unexpected EOF during skip",
            ),
            (
                &["image", "pull", "127.0.0.1:1/none:1"],
                "registry 127.0.0.1:1: client error (Connect): tcp connect error: Connection refused (os error 111)",
            ),
            (
                &["swarm", "init"],
                "Error response from daemon: This node is already part of a swarm. Use \"docker swarm leave\" to leave this \
                 swarm and join another one.",
            ),
            (
                &["flow", "ls", "--service", "nobody"],
                "Error response from daemon: service nobody not found",
            ),
            (&["exec", "web", "true"], &such_as),
            (
                &["image", "rm", "no?such=1"],
                "Error response from daemon: no such image: no?such=1",
            ),
        ];
        for (args, text) in others {
            complaint(first.ctl(args)?, text)?;
        }
        let after = state(first)?;
        ensure!(after == before, "changed from\n{before}\nto\n{after}");
        // What was refused has taken nothing: name, subnet and port are free.
        first.ok(&create_network(&["10.91.0.0/24", "b"]))?;
        rig.create("a", &["--publish", "81:80", "--network", "b"])
    });
}

/// A refusal with code 1 and this text, in which `…` stands for anything.
fn complaint(answer: Answer, text: &str) -> Result<()> {
    let line = answer.line.clone();
    let told = answer.refused()?;
    let mut left = Some(told.trim_end());
    let mut parts = text.split('…');
    if let Some(start) = parts.next() {
        left = left.and_then(|told| told.strip_prefix(start));
    }
    for part in parts {
        left = left
            .and_then(|told| told.split_once(part))
            .map(|(_, after)| after);
    }
    let is_whole = left.is_some_and(|left| left.is_empty() || text.ends_with('…'));
    ensure!(is_whole, "`{line}` should say {text:?}: {told}");
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
        let create = |args: &[&str]| {
            let create = ["service", "create", "-d", "-q"];
            first.ctl(&[&create[..], args, &["127.0.0.1:1/no/such:1"]].concat())
        };
        let created = create(&["--name", "a"])?;
        ensure!(
            created.code == 0
                && created.err
                    == "image 127.0.0.1:1/no/such:1 could not be accessed on a registry to record\n\
                    its digest. Each node will access 127.0.0.1:1/no/such:1 independently,\n\
                    possibly leading to different nodes running different\n\
                    versions of the image.\n\n",
            "{created:?}"
        );
        mesh_tests::eventually("a rejected task", rig::UP_LIMIT, || {
            let text = first.ok(&["service", "ps", "--no-trunc", "a"])?;
            ensure!(text.contains("Rejected"), "{text}");
            let error = "No such image: 127.0.0.1:1/no/such:1: registry 127.0.0.1:1: ";
            ensure!(text.contains(error), "{text}");
            Ok(())
        })?;
        let unasked = create(&["--name", "b", "--no-resolve-image"])?;
        ensure!(unasked.code == 0 && unasked.err.is_empty(), "{unasked:?}");
        Ok(())
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
        let old = first.ok(&["swarm", "join-token", "-q", "worker"])?;
        let token = first.ok(&["swarm", "join-token", "--rotate", "-q", "worker"])?;
        let token = token.trim();
        ensure!(old.trim() != token, "it is the old one");
        let remote = format!("{address}:2377");
        let (start, secret) = token.rsplit_once('-').context("a token has parts")?;
        let wrong: String = secret.chars().rev().collect();
        let wrong = format!("{start}-{wrong}");
        let cases = [
            (
                old.trim(),
                remote.as_str(),
                "A valid join token is necessary to join this cluster",
            ),
            (
                wrong.as_str(),
                remote.as_str(),
                "A valid join token is necessary to join this cluster",
            ),
            (
                "SWMTKN-1-x",
                &remote,
                "invalid join token: expected SWMTKN-1-<50 base36 characters>-<25 base36 characters>; run `swarm join-token \
                 worker` on a manager to see it",
            ),
            (
                token,
                "192.168.77.99:2377",
                "rpc error: code = Unavailable desc = cannot reach a manager at 192.168.77.99:2377; check the address and that \
                 port is open: transport error: …",
            ),
            (
                token,
                "127.0.0.1:1",
                "rpc error: code = Unavailable desc = cannot reach a manager at 127.0.0.1:1; check the address and that port \
                 is open: transport error: Connection refused (os error 111)…",
            ),
        ];
        for (token, remote, text) in cases {
            let answer = second.ctl(&["swarm", "join", "--token", token, remote])?;
            complaint(answer, &format!("Error response from daemon: {text}"))?;
        }
        let known = || first.ok(&["node", "ls", "-q"]);
        ensure!(known()?.lines().count() == 1, "{}", known()?);
        // A manager that cannot come in goes again.
        let manager = first.ok(&["swarm", "join-token", "-q", "manager"])?;
        let join = ["swarm", "join", "--token", manager.trim()];
        let taken = second
            .ns
            .enter(|| Ok(std::net::TcpListener::bind("0.0.0.0:2377")?))?;
        let answer = second.ctl(&[&join[..], &[&remote]].concat())?;
        ensure!(
            answer.code == 1 && answer.err.contains("choose another --listen-addr"),
            "{}",
            answer.err
        );
        drop(taken);
        ensure!(known()?.lines().count() == 1, "{}", known()?);
        let elsewhere = ["--advertise-addr", "192.0.2.9"];
        let answer = second.ctl(&[&join[..], &elsewhere, &[&remote]].concat())?;
        ensure!(
            answer.code == 1 && answer.err.contains("the leader cannot reach a manager at"),
            "{}",
            answer.err
        );
        ensure!(known()?.lines().count() == 1, "{}", known()?);
        let inactive = second.ok(&["info", "--format", "{{.Swarm.LocalNodeState}}"])?;
        ensure!(inactive.trim() == "inactive", "{inactive}");
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
        let text =
            format!("cannot connect to the mesh agent at unix://{socket}: is mesh-agent running?");
        complaint(answer, &text).unwrap();
    }
}
