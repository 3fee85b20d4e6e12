//! Encrypted networks: what tasks of different nodes say one another is not to be read, nor to be made up, on the wire.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use mesh_tests::{
    Capture, Node, Rig, Task, eventually, http_get,
    rig::{UP_LIMIT, test_name},
    scenario_on,
};
use mesh_wireguard::{Handle, Request, Status};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// UDP ports of VXLAN and WireGuard.
const VXLAN: u16 = 4789;
const WIREGUARD: u16 = 51820;

/// Part of a path that is asked for, and so of what goes over the wire.
const SECRET: &str = "b7f0c5d2-not-for-others";

/// Seconds after which nodes change their keys here.
const ROTATION: &str = "4";

/// `web` on the first node, published too, and `shell` on the second, on an encrypted network that works.
fn world(rig: &Rig) -> Result<(Task, Task)> {
    let create = ["network", "create", "--driver", "overlay"];
    let options = ["--opt", "encrypted", "--ipv6", "hidden"];
    rig.first().ok(&[&create[..], &options].concat())?;
    let on = |node| ["--network", "hidden", "--constraint", node];
    let publish = ["--publish", "80:80"];
    rig.create("web", &[&on("node.hostname==n1")[..], &publish].concat())?;
    rig.sleepers("shell", &on("node.hostname==n2"))?;
    let (web, shell) = (rig.task("web")?, rig.task("shell")?);
    eventually("the nodes to agree upon keys", UP_LIMIT, || {
        rig.exec(&shell, &["curl", "-f", "http://web/"])
    })?;
    Ok((web, shell))
}

fn status(node: &Node) -> Result<Status> {
    let socket = node.run_dir().join("wireguard.sock");
    // Where the kernel encrypts, its devices are there.
    node.ns.enter(|| {
        let wireguard = Handle::find(&socket, &node.instance).context("nothing that encrypts")?;
        Ok(wireguard.ask(&Request::Status)?)
    })
}

fn network(rig: &Rig) -> Result<Value> {
    let text = rig.first().ok(&["network", "inspect", "hidden"])?;
    let all: Vec<Value> = serde_json::from_str(&text)?;
    all.into_iter().next().context("no network")
}

/// The UDP destination port of a frame of IPv4, and what follows the UDP header.
fn datagram(frame: &[u8]) -> Option<(u16, &[u8])> {
    let is_udp = frame.get(12..14)? == [8, 0] && frame.get(14)? == &0x45 && frame.get(23)? == &17;
    let port = u16::from_be_bytes([*frame.get(36)?, *frame.get(37)?]);
    is_udp.then_some((port, frame.get(42..)?))
}

/// The network of a frame in VXLAN.
fn vni(frame: &[u8]) -> Option<u32> {
    match datagram(frame)? {
        (VXLAN, [_, _, _, _, a, b, c, ..]) => Some(u32::from_be_bytes([0, *a, *b, *c])),
        _ => None,
    }
}

fn contains(frame: &[u8], text: &str) -> bool {
    let text = text.as_bytes();
    frame.windows(text.len()).any(|window| window == text)
}

fn packets_dropped(node: &Node) -> Result<u64> {
    let list = node.ok(&["drop", "ls", "--format", "{{.Reason}} {{.Packets}}"])?;
    let counts = list.lines().filter_map(|l| l.strip_prefix("unencrypted "));
    counts.map(|count| Ok(count.trim().parse::<u64>()?)).sum()
}

#[test]
fn nothing_of_an_encrypted_network_is_read_on_the_wire_or_taken_from_it() {
    scenario_on(test("cipher"), |rig| {
        let (web, shell) = world(rig)?;
        let found = network(rig)?;
        let options = &found["Options"];
        ensure!(options["encrypted"].is_string(), "{options}");
        let id = &options["com.docker.network.driver.overlay.vxlanid_list"];
        let own: u32 = id.as_str().context("no VNI")?.parse()?;

        let capture = rig.lan.ns().enter(Capture::open)?;
        let hidden = format!("http://web/{SECRET}");
        let page = rig.exec(&shell, &["curl", "-f", &hidden])?;
        ensure!(page.contains(SECRET), "{page}");
        rig.exec(&shell, &["ping", "-c", "3", "tasks.web"])?;
        rig.exec(&shell, &["curl", "-f", "http://web/bytes/1000000"])?;
        let frames = capture.take()?;
        let encrypted = frames.iter().filter_map(|frame| datagram(frame));
        let encrypted = encrypted.filter(|(port, _)| *port == WIREGUARD).count();
        ensure!(encrypted > 10, "{encrypted} of {} frames", frames.len());
        for frame in &frames {
            ensure!(!contains(frame, SECRET), "readable: {frame:x?}");
            ensure!(vni(frame) != Some(own), "in plain VXLAN: {frame:x?}");
        }
        // The capture does see such things: published ports are not encrypted.
        let asked = rig.nodes[1].address;
        rig.client
            .enter(|| http_get(asked, 80, &format!("/{SECRET}")))?;
        let frames = capture.take()?;
        let plain = |frame: &&Vec<u8>| vni(frame).is_some() && contains(frame, SECRET);
        ensure!(frames.iter().any(|frame| plain(&frame)), "nothing seen");

        // Made up by somebody with a node's address.
        let IpAddr::V4(task) = address(rig, &web, "inet")? else {
            bail!("no IPv4");
        };
        let before = packets_dropped(&rig.nodes[0])?;
        let to = rig.nodes[0].address;
        rig.nodes[1].ns.enter(|| {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            socket.send_to(&made_up(own, task), (to, VXLAN))?;
            Ok(())
        })?;
        eventually("it to be dropped", UP_LIMIT, || {
            let now = packets_dropped(&rig.nodes[0])?;
            ensure!(now == before + 1, "{before}, then {now}");
            Ok(())
        })?;
        let doctor = rig.first().ok(&["doctor"])?;
        ensure!(doctor.contains("keys agreed upon"), "{doctor}");
        let told = match status(&rig.nodes[0])?.user_space {
            None => "by the kernel's WireGuard".to_owned(),
            Some(why) => format!("by WireGuard in user space, not the kernel's: {why}"),
        };
        ensure!(doctor.contains(&told), "{told}: {doctor}");
        Ok(())
    });
}

/// A UDP packet for a task, in VXLAN.
fn made_up(vni: u32, task: Ipv4Addr) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    let mut bytes = vec![8, 0, 0, 0, a, b, c, 0];
    bytes.extend([0x02, 0x42]);
    bytes.extend(task.octets());
    bytes.extend([0x02, 0x42, 1, 2, 3, 4, 8, 0]);
    bytes.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 2, 3]);
    bytes.extend(task.octets());
    bytes.extend([0, 7, 0, 7, 0, 8, 0, 0]);
    bytes
}

fn test(name: &str) -> mesh_tests::RigBuilder {
    Rig::builder(&test_name(name)).nodes(2)
}

/// As [`test`], also where the kernel has WireGuard.
fn in_user_space(name: &str) -> mesh_tests::RigBuilder {
    test(name).agent_arg("--wireguard").agent_arg("user")
}

/// Runs requests over the encrypted network until `act` is done; none may fail.
fn under_load(
    rig: &mut Rig,
    shell: &Task,
    seconds: &str,
    act: impl FnOnce(&mut Rig) -> Result<()>,
) -> Result<()> {
    let node = rig.node(&shell.node)?;
    let mut loads = Vec::new();
    for kind in ["rr", "conn"] {
        let target = if kind == "rr" { "web:81" } else { "web:80" };
        let mut command = node.ctl_command()?;
        command.args([
            "exec",
            &shell.container,
            "whoami",
            "load",
            kind,
            target,
            seconds,
        ]);
        loads.push(command.stdout(std::process::Stdio::piped()).spawn()?);
    }
    let acted = act(rig);
    for load in loads {
        let output = load.wait_with_output()?;
        let figures = String::from_utf8_lossy(&output.stdout);
        ensure!(figures.contains("\"failed\":0"), "{figures}");
    }
    acted
}

#[test]
fn keys_change_and_no_request_fails() {
    let rig = test("rekey")
        .agent_arg("--wireguard-rotation")
        .agent_arg(ROTATION);
    scenario_on(rig, |rig| {
        let (_, shell) = world(rig)?;
        under_load(rig, &shell, "40", |rig| {
            for round in 0..3 {
                for node in &rig.nodes {
                    let before = status(node)?.key;
                    eventually("another key", UP_LIMIT, || {
                        ensure!(status(node)?.key != before, "round {round}: {before}");
                        Ok(())
                    })?;
                }
            }
            eventually("both to use the new ones", UP_LIMIT, || {
                for node in &rig.nodes {
                    let now = status(node)?;
                    ensure!(now.peers.iter().all(|peer| peer.proved), "{now:?}");
                }
                Ok(())
            })
        })
    });
}

#[test]
fn an_agent_that_is_killed_cuts_nothing_and_a_killed_helper_is_replaced() {
    scenario_on(in_user_space("outlive"), |rig| {
        let (_, shell) = world(rig)?;
        let before = status(&rig.nodes[0])?;
        under_load(rig, &shell, "10", |rig| {
            rig.nodes[0].kill()?;
            rig.nodes[0].start()?;
            rig.wait_ready(2)
        })?;
        let after = status(&rig.nodes[0])?;
        ensure!((&after.key, after.ifindex) == (&before.key, before.ifindex));
        let helper = rig.processes("wireguard");
        ensure!(helper.len() == 2, "{helper:?}");
        for pid in helper {
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL)?;
        }
        eventually("new keys to be agreed upon", UP_LIMIT, || {
            rig.exec(&shell, &["curl", "-f", "-m", "2", "http://web/"])
        })?;
        ensure!(status(&rig.nodes[0])?.key != before.key);
        Ok(())
    });
}

#[test]
fn a_port_is_either_published_or_encrypted_on() {
    const OTHER: u16 = 7000;
    let publish = |port: u16| format!("{port}:80/udp");
    scenario_on(in_user_space("ports"), |rig| {
        let (_, shell) = world(rig)?;
        let refused = |rig: &Rig, port| {
            let create = ["service", "create", "--publish", &publish(port), "whoami"];
            let refused = rig.first().ctl(&create)?.refused()?;
            ensure!(
                refused.contains("nodes encrypt networks on it"),
                "{refused}"
            );
            Ok(())
        };
        refused(rig, WIREGUARD)?;
        let (published, place) = (publish(OTHER), "node.hostname==n2");
        rig.create("vpn", &["--publish", &published, "--constraint", place])?;
        // Started with the port of a service, it stays.
        let before = status(&rig.nodes[1])?;
        let node = &mut rig.nodes[1];
        node.kill()?;
        node.args
            .extend(["--wireguard-port".to_owned(), OTHER.to_string()]);
        node.start()?;
        rig.wait_ready(2)?;
        let stays = format!(
            "UDP port {OTHER} is published by service vpn: WireGuard stays at port {WIREGUARD}"
        );
        eventually("doctor to say so", UP_LIMIT, || {
            let doctor = rig.first().ctl(&["doctor"])?.out;
            ensure!(doctor.contains(&stays), "{doctor}");
            Ok(())
        })?;
        ensure!(status(&rig.nodes[1])?.key == before.key);
        rig.exec(&shell, &["curl", "-f", "http://web/"])?;
        // Once it is free, it moves there.
        rig.first().ok(&["service", "rm", "vpn"])?;
        eventually("it to move", UP_LIMIT, || {
            ensure!(status(&rig.nodes[1])?.port == OTHER, "not yet");
            rig.exec(&shell, &["curl", "-f", "-m", "2", "http://web/"])
        })?;
        // The other node has been told.
        refused(rig, OTHER)
    });
}

#[test]
fn a_helper_that_hangs_is_replaced() {
    scenario_on(in_user_space("hang"), |rig| {
        let (_, shell) = world(rig)?;
        let before = status(&rig.nodes[0])?;
        for pid in rig.processes("wireguard") {
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGSTOP)?;
        }
        eventually("new keys to be agreed upon", UP_LIMIT, || {
            rig.exec(&shell, &["curl", "-f", "-m", "2", "http://web/"])
        })?;
        ensure!(status(&rig.nodes[0])?.key != before.key);
        let helpers = rig.processes("wireguard");
        ensure!(helpers.len() == 2, "{helpers:?}");
        // Where lowering it takes a capability that nobody has here, it is as before.
        let lowest = "echo -900 > /proc/self/oom_score_adj; cat /proc/self/oom_score_adj";
        let lowest = Command::new("sh").args(["-c", lowest]).output()?.stdout;
        for helper in helpers {
            let score = std::fs::read(format!("/proc/{helper}/oom_score_adj"))?;
            ensure!(score == lowest, "{score:?}, not {lowest:?}");
        }
        Ok(())
    });
}

/// A task's address on its overlay network: of the family `inet` or `inet6`.
fn address(rig: &Rig, task: &Task, family: &str) -> Result<IpAddr> {
    let show = ["ip", "-o", "addr", "show", "dev", "eth0", "scope", "global"];
    let addresses = rig.exec(task, &show)?;
    let mut words = addresses.split(&[' ', '/']);
    let found = words
        .find(|word| *word == family)
        .and_then(|_| words.next());
    Ok(found.with_context(|| addresses.clone())?.parse()?)
}

/// Sends datagrams of 8,000 bytes from a task's namespace, which come back whole. Two may be lost, one on each way: the
/// first that is too big for a tunnel is only told so.
fn large_datagrams(rig: &Rig, from: &Task, to: IpAddr) -> Result<()> {
    const SENT: [u8; 8000] = [7; 8000];
    let namespace = File::open(format!("/proc/{}/ns/net", rig.task_pid(from)?))?;
    let work = || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let any: IpAddr = match to {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut lost = 0;
        for number in 0..20 {
            socket.send_to(&SENT, (to, 80))?;
            let mut back = [0; 9000];
            match socket.recv(&mut back) {
                Ok(length) => ensure!(back[..length].ends_with(&SENT), "{length} bytes"),
                Err(error) if lost == 2 => bail!("{to}, datagram {number}: {error}"),
                Err(_) => lost += 1,
            }
        }
        Ok(())
    };
    thread::scope(|scope| scope.spawn(work).join())
        .map_err(|_| anyhow!("the thread in the task's namespace panicked"))?
}

/// 100 MB from a task to another one; what came is what whoami sends.
fn large_stream(rig: &Rig, shell: &Task, web: IpAddr) -> Result<()> {
    const SIZE: usize = 100_000_000;
    let bytes = (0..SIZE).map(|at| ((at % 65521) % 251) as u8);
    let sum = Sha256::digest(bytes.collect::<Vec<_>>());
    let expected: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    let url = match web {
        IpAddr::V4(four) => format!("http://{four}/bytes/{SIZE}"),
        IpAddr::V6(six) => format!("http://[{six}]/bytes/{SIZE}"),
    };
    let came = rig.exec(shell, &["sh", "-c", &format!("curl -f {url} | sha256sum")])?;
    ensure!(came.starts_with(&expected), "{url}: {came}");
    Ok(())
}

#[test]
fn ipv6_and_large_packets_are_encrypted_too() {
    scenario_on(test("large"), |rig| {
        let (web, shell) = world(rig)?;
        let capture = rig.lan.ns().enter(Capture::open)?;
        let six = address(rig, &web, "inet6")?;
        let url = format!("http://[{six}]/bytes/1000000");
        rig.exec(&shell, &["curl", "-f", &url])?;
        // The largest that fits, and one that the task's kernel has to cut, each with ICMP's and IPv4's headers.
        let fits = 1500 - 50 - 60 - 28;
        for size in [fits, 2 * fits] {
            let size = size.to_string();
            rig.exec(&shell, &["ping", "-c", "3", "-s", &size, "tasks.web"])?;
        }
        let frames = capture.take()?;
        let encrypted = frames.iter().filter_map(|frame| datagram(frame));
        let encrypted = encrypted.filter(|(port, _)| *port == WIREGUARD).count();
        // A million bytes in packets of no more than 1,500.
        ensure!(encrypted > 1_000_000 / 1500, "{encrypted}");
        ensure!(frames.iter().all(|frame| frame.len() <= 1514), "too large");
        drop(capture);
        for to in [address(rig, &web, "inet")?, six] {
            large_datagrams(rig, &shell, to)?;
            large_stream(rig, &shell, to)?;
        }
        Ok(())
    });
}
