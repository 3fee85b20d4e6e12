//! What the mesh tells of its packets: flows, drops, metrics.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context, Result, ensure};
use aya::sys::{Stats, enable_stats};
use mesh_tests::{
    Node, Rig, client::REQUEST_LIMIT, eventually, http_get, rig::UP_LIMIT, rig::test_name,
    scenario_on,
};

/// Requests on new connections to each node.
const REQUESTS: usize = 10;

#[test]
fn flows_drops_and_metrics_say_what_went_on() {
    let builder = Rig::builder(&test_name("vis"))
        .nodes(2)
        .agent_arg("--metrics-addr=0.0.0.0:9323");
    scenario_on(builder, |rig| {
        rig.create("web", &["--replicas", "2", "--publish", "80:80"])?;
        rig.client.enter(|| {
            for node in &rig.nodes {
                for _ in 0..REQUESTS {
                    ensure!(http_get(node.address, 80, "/")?.status == 200);
                }
            }
            Ok(())
        })?;
        let client = rig.client_address().to_string();
        let mut listed = 0;
        for node in &rig.nodes {
            let of = |args: &[&str]| node.ok(&[&["flow", "ls", "--all", "-q"], args].concat());
            let flows = of(&["--service", "web", "--client", &client])?;
            ensure!(
                flows.lines().all(|flow| flow.starts_with(&client)),
                "{flows}"
            );
            listed += flows.lines().count();
            let others = of(&["--client", "192.0.2.1"])?;
            ensure!(others.is_empty(), "{others}");
        }
        ensure!(
            listed == rig.nodes.len() * REQUESTS,
            "{listed} flows for {} requests to each of {} nodes",
            REQUESTS,
            rig.nodes.len()
        );
        of_all_nodes(rig, &client)?;
        let reasons = rig.first().ok(&["drop", "ls", "--all", "-q"])?;
        ensure!(
            reasons.lines().any(|reason| reason == "spoofed"),
            "{reasons}"
        );
        metrics(rig)?;
        ended_flows(rig)?;
        rates(rig)?;
        dropped_and_run(rig)?;
        one_is_silent(rig)
    });
}

/// Rates are of what goes on between two readings, and of all nodes together.
fn rates(rig: &Rig) -> Result<()> {
    let list = |interval: &str| -> Result<Vec<String>> {
        let format =
            "{{.Service}} {{.Network}} {{.Open}} {{.FlowRate}} {{.PacketRate}} {{.BitRate}}";
        let args = ["vip", "ls", interval, "--format", format];
        let text = rig.first().ok(&args)?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    };
    let quiet = list("--rates=100ms")?;
    ensure!(
        quiet[..2] == ["web", "ingress"] && quiet[3..] == ["0"; 3],
        "{quiet:?}"
    );
    let asked = AtomicBool::new(true);
    let (listed, inspected, pretty) = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            rig.client.enter(|| {
                while asked.load(Ordering::Relaxed) {
                    for node in &rig.nodes {
                        ensure!(http_get(node.address, 80, "/")?.status == 200);
                    }
                }
                Ok(())
            })
        });
        let told = (|| -> Result<_> {
            let inspect = ["vip", "inspect", "web"];
            Ok((
                list("--rates")?,
                rig.first()
                    .ok(&[&inspect[..], &["--rates=500ms"]].concat())?,
                rig.first().ok(&[&inspect[..], &["--pretty"]].concat())?,
            ))
        })();
        asked.store(false, Ordering::Relaxed);
        asking.join().expect("joined")?;
        told
    })?;
    ensure!(listed[3..].iter().all(|rate| rate != "0"), "{listed:?}");
    let inspected: serde_json::Value = serde_json::from_str(&inspected)?;
    let backends = inspected[0]["Backends"].as_array().context("no backends")?;
    for rate in ["FlowsPerSecond", "PacketsPerSecond", "BitsPerSecond"] {
        for backend in backends {
            let value = backend["Load"]["Rates"][rate].as_f64();
            ensure!(
                value.is_some_and(|value| value > 0.0),
                "{rate}: {inspected}"
            );
        }
    }
    ensure!(backends.len() == 2, "{inspected}");
    let head = ["FLOWS/S", "PACKETS/S", "BITS/S"];
    ensure!(
        pretty.lines().any(|line| line
            .split_whitespace()
            .rev()
            .take(3)
            .eq(head.into_iter().rev())),
        "{pretty}"
    );
    let plain = rig.first().ok(&["vip", "inspect", "web"])?;
    ensure!(!plain.contains("Rates"), "{plain}");
    let wrong = rig.first().ctl(&["vip", "ls", "--rates=1h"])?.refused()?;
    ensure!(
        wrong.contains("between 100 and 60000 can be asked for"),
        "{wrong}"
    );
    Ok(())
}

/// A flow is open until its client has sent its last byte: not when the task has, and however much the task still sends.
fn ended_flows(rig: &Rig) -> Result<()> {
    /// More than the buffers of both sides hold.
    const BYTES: usize = 64 << 20;
    let connect = || -> Result<TcpStream> {
        let stream = TcpStream::connect((rig.first().address, 80))?;
        stream.set_read_timeout(Some(REQUEST_LIMIT))?;
        Ok(stream)
    };
    let ask = |stream: &mut TcpStream, path: &str| {
        let (version, close) = ("HTTP/1.1", "Connection: close");
        write!(
            stream,
            "GET {path} {version}\r\nHost: web\r\n{close}\r\n\r\n"
        )
    };
    let shown = |client: SocketAddr, state: &str| {
        eventually(&format!("the flow to be {state}"), UP_LIMIT, || {
            let list = ["flow", "ls", "--all", "--all-nodes", "--format"];
            let format = "{{.Client}} {{.State}}";
            let all = rig.first().ok(&[&list[..], &[format]].concat())?;
            ensure!(
                all.lines().any(|line| line == format!("{client} {state}")),
                "{all}"
            );
            Ok(())
        })
    };
    rig.client.enter(|| {
        let mut task_first = connect()?;
        let client = task_first.local_addr()?;
        shown(client, "open")?;
        ask(&mut task_first, "/")?;
        task_first.read_to_end(&mut Vec::new())?;
        shown(client, "open")?;
        drop(task_first);
        shown(client, "closed")?;

        let mut client_first = connect()?;
        let client = client_first.local_addr()?;
        ask(&mut client_first, &format!("/bytes/{BYTES}"))?;
        client_first.shutdown(Shutdown::Write)?;
        shown(client, "closed")?;
        let mut answer = Vec::new();
        client_first.read_to_end(&mut answer)?;
        ensure!(answer.len() > BYTES, "{} bytes", answer.len());
        shown(client, "closed")
    })
}

/// The manager tells what all nodes know, or one of them.
fn of_all_nodes(rig: &Rig, client: &str) -> Result<()> {
    let flows = |node: &[&str]| -> Result<Vec<String>> {
        let format = "{{.Node}} {{.Client}}";
        let list = [
            "flow",
            "ls",
            "--all",
            "--service",
            "web",
            "--client",
            client,
        ];
        let text = rig
            .first()
            .ok(&[&list[..], &["--format", format], node].concat())?;
        Ok(text.lines().map(str::to_owned).collect())
    };
    let all = flows(&["--all-nodes"])?;
    let second = flows(&["--node", "n2"])?;
    ensure!(all.len() == rig.nodes.len() * REQUESTS, "{all:?}");
    let told: Vec<_> = all.iter().filter(|line| line.starts_with("n2 ")).collect();
    ensure!(
        !told.is_empty() && told.len() < all.len() && told.iter().copied().eq(&second),
        "{all:?}, of n2 {second:?}"
    );
    let nodes = rig.first().ok(&[
        "drop",
        "ls",
        "--all",
        "--all-nodes",
        "--format",
        "{{.Node}}",
    ])?;
    for node in &rig.nodes {
        ensure!(nodes.lines().any(|line| line == node.name), "{nodes}");
    }
    let wrong = rig
        .first()
        .ctl(&["flow", "ls", "--node", "n9"])?
        .refused()?;
    ensure!(wrong.contains("n9"), "{wrong}");
    Ok(())
}

/// A node that does not answer is told of, whether or not the managers know yet that it is down; of the others everything
/// is shown.
fn one_is_silent(rig: &Rig) -> Result<()> {
    let second = rig.node("n2")?;
    let loads = || -> Result<()> {
        let commands = [["vip", "ls", "--rates=100ms"], ["vip", "inspect", "web"]];
        // Both at once: each waits for the node, which is not asked any more once it is known to be down.
        let told = thread::scope(|scope| {
            let ask = |command: [&'static str; 3]| scope.spawn(move || rig.first().ctl(&command));
            let asking = commands.map(ask);
            asking.map(|asking| asking.join().expect("joined"))
        });
        let [list, inspected] = told;
        let list = list?;
        let is_named = list.err.contains("no answer from n2") && list.out.contains("web");
        ensure!(is_named && list.code == 0, "{list:?}");
        let inspected: serde_json::Value = serde_json::from_str(&inspected?.ok()?)?;
        ensure!(inspected[0]["SilentNodes"][0] == "n2", "{inspected}");
        Ok(())
    };
    let all = || -> Result<()> {
        for list in [["flow", "ls"], ["drop", "ls"]] {
            let list = [&list[..], &["--all"]].concat();
            let told = rig.first().ctl(&[&list[..], &["--all-nodes"]].concat())?;
            ensure!(told.err.contains("no answer from n2"), "{told:?}");
            let lines: Vec<_> = told.out.lines().skip(1).collect();
            let of_first = lines.iter().all(|line| line.starts_with("n1 "));
            ensure!(told.code == 0 && of_first, "{told:?}");
            // What was dropped, if anything, is not this test's.
            ensure!(list[0] == "drop" || !lines.is_empty(), "{told:?}");
            let only = [&list[..], &["--node", "n2"]].concat();
            let refused = rig.first().ctl(&only)?.refused()?;
            ensure!(refused.contains("no answer from n2"), "{refused}");
        }
        Ok(())
    };
    second.pause()?;
    let told = loads().and_then(|()| all()).and_then(|()| {
        eventually("the node to be given up", UP_LIMIT, || {
            let states = ["node", "ls", "--format", "{{.Hostname}} {{.Status}}"];
            let states = rig.first().ok(&states)?;
            ensure!(states.lines().any(|node| node == "n2 Down"), "{states}");
            Ok(())
        })?;
        all()
    });
    second.resume()?;
    told
}

/// All nodes together say that every request reached a task of `web`.
fn metrics(rig: &Rig) -> Result<()> {
    let mut flows = 0;
    for node in &rig.nodes {
        let text = rig
            .client
            .enter(|| http_get(node.address, 9323, "/metrics"))?
            .text();
        for line in text.lines() {
            if line.starts_with("mesh_backend_flows_total{service=\"web\",front=\"80/tcp\"") {
                let value = line.rsplit(' ').next().context("no value")?;
                flows += value.parse::<usize>().with_context(|| line.to_owned())?;
            }
        }
        ensure!(
            text.contains("mesh_table_capacity{table=\"flows\"}"),
            "{text}"
        );
        ensure!(text.ends_with("# EOF\n"), "{text}");
    }
    ensure!(flows == rig.nodes.len() * REQUESTS, "{flows} flows counted");
    Ok(())
}

/// What was dropped, why and where, and how long programs ran, once the kernel counts that.
fn dropped_and_run(rig: &Rig) -> Result<()> {
    /// Tunnel packets of somebody who is no node.
    const STRANGE: usize = 7;
    let _counting = enable_stats(Stats::RunTime)?;
    let scrape = |node: &Node| -> Result<String> {
        let reply = rig
            .client
            .enter(|| http_get(node.address, 9323, "/metrics"))?;
        Ok(reply.text())
    };
    let value = |text: &str, name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let line = line.with_context(|| format!("no {name} in {text}"))?;
        line.trim().parse().with_context(|| line.to_owned())
    };
    for node in &rig.nodes {
        let name = "mesh_dropped_packets_total{place=\"uplink-tc\",reason=\"unknown-peer\"}";
        // What has never been dropped may have no line.
        let before = value(&scrape(node)?, name).unwrap_or(0.0);
        rig.client.enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            for _ in 0..STRANGE {
                socket.send_to(&[8; 60], (node.address, 4789))?;
            }
            Ok(())
        })?;
        eventually("all of them to be counted", UP_LIMIT, || {
            let counted = value(&scrape(node)?, name)? - before;
            ensure!(counted == STRANGE as f64, "{counted}");
            Ok(())
        })?;
        let text = scrape(node)?;
        let of = |name: &str| value(&text, &format!("{name}{{program=\"uplink_tc\"}}"));
        let (runs, seconds) = (
            of("mesh_program_runs_total")?,
            of("mesh_program_run_seconds_total")?,
        );
        ensure!(
            runs >= STRANGE as f64 && seconds > 0.0,
            "{runs} runs, {seconds} s"
        );
    }
    Ok(())
}
