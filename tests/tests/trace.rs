//! `mesh-ctl trace` follows a request through every node it touches, whichever manager leads.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    process::{Child, Stdio},
};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use mesh_common::Settings;
use mesh_datapath::Config;
use mesh_tests::{
    Node, Rig, eventually, http_get, image, managers,
    rig::{UP_LIMIT, test_name},
    scenario, scenario_on,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;

/// What is looked at of a line.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Packet {
    time: i64,
    node: String,
    verdict: String,
    flags: String,
    tunnel: String,
    task: String,
}

/// What `trace` says of what `act` does, and what it says beside that.
fn trace(
    rig: &Rig,
    args: &[&str],
    act: impl FnOnce() -> Result<()>,
) -> Result<(Vec<Packet>, String)> {
    let mut child = rig
        .first()
        .ctl_command()?
        .args(["trace", "--format", "json", "--timeout", "10"])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut words = BufReader::new(child.stderr.take().context("no standard error")?);
    let mut first = String::new();
    words.read_line(&mut first)?;
    let acted = if first.trim() == "tracing on all nodes" {
        act()
    } else {
        Err(anyhow::anyhow!("began with {first:?}"))
    };
    // It ends by itself, whatever came of it.
    let mut rest = String::new();
    words.read_to_string(&mut rest)?;
    let output = child.wait_with_output()?;
    acted?;
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let packets = lines
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()));
    Ok((packets.collect::<Result<_>>()?, rest))
}

#[test]
fn a_request_is_seen_at_its_ingress_its_tunnel_and_its_task_and_back() {
    scenario("trc", 3, |rig| {
        let create = [
            "service",
            "create",
            "-q",
            "--name",
            "web",
            "--publish",
            "8080:80",
        ];
        let on = ["--constraint", "node.hostname==n2", image::WHOAMI];
        rig.first().ok(&[&create[..], &on].concat())?;
        let n1 = rig.first().address;
        let ask = || {
            let reply = rig.client.enter(|| http_get(n1, 8080, "/"))?;
            ensure!(reply.status == 200, "{}", reply.status);
            Ok(())
        };
        // The next hops are known from here on.
        ask()?;
        let client = rig.client_address().to_string();
        let (packets, _) = trace(rig, &["--client", &client, "--service", "web"], ask)?;
        let stations = [
            ("n1", "forwarded", "S", "n2", ""),
            ("n2", "delivered", "S", "", "web.1"),
            ("n2", "returned", "S.", "n1", ""),
            ("n1", "returned", "S.", "", ""),
        ];
        let mut after = 0;
        for (node, verdict, flags, tunnel, task) in stations {
            let rest = packets[after..].iter();
            let at = rest.clone().position(|packet| {
                (packet.node.as_str(), packet.verdict.as_str()) == (node, verdict)
                    && (packet.flags.as_str(), packet.tunnel.as_str()) == (flags, tunnel)
                    && packet.task == task
            });
            let at = at.with_context(|| format!("{verdict} {flags} at {node}: {packets:#?}"))?;
            after += at + 1;
        }
        ensure!(
            packets.is_sorted_by_key(|packet| packet.time),
            "{packets:#?}"
        );
        ensure!(
            packets.iter().all(|packet| packet.node != "n3"),
            "{packets:#?}"
        );

        let (others, _) = trace(rig, &["--client", "192.0.2.1"], ask)?;
        ensure!(others.is_empty(), "{others:#?}");
        let another = || trace(rig, &["--port", "9"], || Ok(())).map(drop);
        let (_, words) = trace(rig, &["--port", "9"], another)?;
        ensure!(words.contains("n2: another trace has taken"), "{words}");
        let n1 = rig.first();
        let everything = n1.ctl(&["trace"])?.refused()?;
        ensure!(everything.contains("--client"), "{everything}");
        n1.ctl(&["trace", "--service", "nobody"])?.refused()?;
        let worker = rig.nodes[1].ctl(&["trace", "--port", "80"])?.refused()?;
        ensure!(worker.contains("not a swarm manager"), "{worker}");
        Ok(())
    });
}

/// Waits until the programs of all nodes tell of packets, or of none.
fn wait_traced(rig: &Rig, expected: bool) -> Result<()> {
    eventually("the programs to be switched", UP_LIMIT, || {
        for node in &rig.nodes {
            let pins = Config::new(format!("/sys/fs/bpf/mesh/{}", node.instance));
            let pin = pins.versioned_pin_dir().join("maps/SETTINGS");
            let settings = Map::Array(MapData::from_pin(pin)?);
            let settings = Array::<_, Settings>::try_from(settings)?.get(&0, 0)?;
            let traced = settings.trace != 0;
            ensure!(traced == expected, "{}: {traced}", node.name);
        }
        Ok(())
    })
}

/// A trace that runs.
struct Running(Child);

impl Running {
    /// Ends it by Ctrl-C.
    fn interrupt(mut self) -> Result<()> {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGINT)?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_next_leader_goes_on_with_a_trace() {
    let builder = Rig::builder(&test_name("trclead")).nodes(3).without_swarm();
    scenario_on(builder, |rig| {
        managers::form(rig)?;
        let leads = managers::leader(rig, rig.first())?;
        let asked = (leads + 1) % 3;
        let place = format!("node.hostname=={}", rig.nodes[asked].name);
        rig.create("web", &["--publish", "8080:80", "--constraint", &place])?;
        rig.wait_running("web", 1)?;
        let (packets, words) = (rig.dir().join("packets"), rig.dir().join("words"));
        let trace = [
            "trace",
            "--format",
            "json",
            "--timeout",
            "600",
            // It ends when the test has it end.
            "--count",
            "1000000",
            "--port",
            "8080",
        ];
        let begin = |node: &Node| -> Result<Running> {
            let mut command = node.ctl_command()?;
            command.args(trace).stdin(Stdio::null());
            command
                .stdout(File::create(&packets)?)
                .stderr(File::create(&words)?);
            Ok(Running(command.spawn()?))
        };
        wait_traced(rig, false)?;
        let running = begin(&rig.nodes[asked])?;
        let said = |what: &str| -> Result<()> {
            let all = fs::read_to_string(&words)?;
            ensure!(all.contains(what), "{what:?} is not in {all:?}");
            Ok(())
        };
        let address = rig.nodes[asked].address;
        // One of the requests that are made is told of.
        let is_followed = || -> Result<()> {
            let mut made = Vec::new();
            eventually("a request to be followed", UP_LIMIT, || {
                let reply = rig.client.enter(|| http_get(address, 8080, "/"))?;
                made.push(format!("\"{}\"", reply.local));
                let told = fs::read_to_string(&packets)?;
                ensure!(made.iter().any(|client| told.contains(client)), "{told}");
                Ok(())
            })
        };
        eventually("the trace to begin", UP_LIMIT, || {
            said("tracing on all nodes")
        })?;
        wait_traced(rig, true)?;
        is_followed()?;
        rig.nodes[leads].kill()?;
        eventually("another leader", UP_LIMIT, || said("another manager leads"))?;
        is_followed()?;
        rig.nodes[leads].start()?;
        rig.wait_ready(3)?;
        wait_traced(rig, true)?;
        // Long before its time is over, whether it was asked of the leader or of another.
        running.interrupt()?;
        wait_traced(rig, false)?;
        for node in &rig.nodes {
            let running = begin(node)?;
            wait_traced(rig, true)?;
            running.interrupt()?;
            wait_traced(rig, false)?;
        }
        Ok(())
    });
}
