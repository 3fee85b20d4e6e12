//! Published ports: every node answers, the replica sees the client, nothing is lost or changed.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{Node, Rig, client, eventually, http_get, image, lan, rig::UP_LIMIT, scenario};

/// Requests on new connections, to the nodes in turn.
const REQUESTS: usize = 200;

/// Asks nodes in turn from the client; gives the replicas that answered.
fn ask(rig: &Rig, nodes: &[Node]) -> Result<BTreeSet<String>> {
    rig.client.enter(|| {
        let (mut replicas, mut ports) = (BTreeSet::new(), BTreeSet::new());
        for number in 0..REQUESTS {
            let node = &nodes[number % nodes.len()];
            let reply = http_get(node.address, 80, "/")?;
            ensure!(
                reply.status == 200,
                "request {number}: status {}",
                reply.status
            );
            let seen = reply.client();
            let seen = seen.with_context(|| format!("request {number} by {}", node.name))?;
            // A port that comes again may be another one to the replica.
            let again = !ports.insert(reply.local.port());
            ensure!(
                seen.ip() == reply.local.ip() && (again || seen == reply.local),
                "request {number}, from {}, was seen from {seen}",
                reply.local
            );
            replicas.insert(reply.replica()?);
        }
        Ok(replicas)
    })
}

fn publish(rig: &Rig, args: &[&str]) -> Result<()> {
    rig.create("web", &[&["--publish", "80:80"], args].concat())
}

#[test]
fn every_node_answers_with_every_replica_and_the_clients_address() {
    scenario("ing", 3, |rig| {
        publish(rig, &["--replicas", "5"])?;
        let replicas = ask(rig, &rig.nodes)?;
        ensure!(replicas.len() == 5, "only {replicas:?} answered");
        Ok(())
    });
}

#[test]
fn nodes_without_replicas_answer_too() {
    scenario("ingr", 3, |rig| {
        publish(
            rig,
            &["--replicas", "2", "--constraint", "node.hostname==n3"],
        )?;
        let tasks = rig.wait_running("web", 2)?;
        ensure!(tasks.iter().all(|task| task.node == "n3"), "{tasks:?}");
        let replicas = ask(rig, &rig.nodes[..2])?;
        ensure!(replicas.len() == 2, "only {replicas:?} answered");
        download(rig)?;
        own_processes(rig)?;
        // A task, through its own node and the others.
        for node in &rig.nodes {
            let url = format!("http://{}/", node.address);
            let answer = rig.exec(&tasks[0], &["curl", "-sS", "--max-time", "10", &url])?;
            image::replica(&answer).with_context(|| format!("a task asking {}", node.name))?;
        }
        one_port_again(rig)
    });
}

/// A client whose connections all come from one port, to the nodes in turn. The replica has closed the earlier ones,
/// and would refuse that port for a connection through another node: it sees another port, the same one each time.
fn one_port_again(rig: &Rig) -> Result<()> {
    const PORT: u16 = 20_400;
    rig.first().ok(&["service", "scale", "web=1"])?;
    rig.client.enter(|| {
        let range = "/proc/sys/net/ipv4/ip_local_port_range";
        std::fs::write(range, format!("{PORT} {PORT}"))?;
        let mut before = Vec::new();
        for _ in 0..3 {
            let mut ports = Vec::new();
            for node in &rig.nodes {
                // Until the replica has acknowledged the end of the connection before, it is in use.
                let reply = eventually("the port to be free", UP_LIMIT, || {
                    match http_get(node.address, 80, "/") {
                        Err(error) if !client::is_taken(&error) => Ok(Err(error)),
                        reply => reply.map(Ok),
                    }
                })??;
                ensure!(reply.local.port() == PORT, "asked from {}", reply.local);
                ports.push(reply.client()?.port());
            }
            let unlike: BTreeSet<u16> = ports.iter().copied().collect();
            ensure!(unlike.len() == ports.len(), "the replica saw {ports:?}");
            ensure!(ports.contains(&PORT), "the replica saw {ports:?}");
            ensure!(
                before.is_empty() || ports == before,
                "{before:?}, {ports:?}"
            );
            before = ports;
        }
        Ok(())
    })
}

/// 100 MB through n1, which runs no replica; the bytes follow whoami's pattern.
fn download(rig: &Rig) -> Result<()> {
    const SIZE: usize = 100_000_000;
    let first = rig.first().address;
    let reply = rig
        .client
        .enter(|| http_get(first, 80, &format!("/bytes/{SIZE}")))?;
    ensure!(reply.body.len() == SIZE, "{} bytes came", reply.body.len());
    let wrong = reply
        .body
        .iter()
        .enumerate()
        .find(|(at, byte)| usize::from(**byte) != (at % 65521) % 251);
    ensure!(wrong.is_none(), "a wrong byte: {wrong:?}");
    Ok(())
}

/// The nodes' own processes ask by loopback and by the node's address, with and without a replica there.
fn own_processes(rig: &Rig) -> Result<()> {
    for node in &rig.nodes {
        for address in [Ipv4Addr::LOCALHOST, node.address] {
            let reply = node.ns.enter(|| http_get(address, 80, "/"));
            let reply =
                reply.map_err(|error| error.context(format!("{address} on {}", node.name)))?;
            ensure!(reply.status == 200, "{address} on {}", node.name);
        }
    }
    Ok(())
}

#[test]
fn a_thousand_datagrams_come_back() {
    scenario("udp", 3, |rig| {
        publish(rig, &["--publish", "80:80/udp", "--replicas", "2"])?;
        for node in &rig.nodes {
            let back = rig
                .client
                .enter(|| client::udp_echo(node.address, 80, 1000))?;
            ensure!(back == 1000, "by {}: {back} of 1000 came back", node.name);
        }
        Ok(())
    });
}

/// A node gets a second LAN, with an address there, while it runs: ports answer on it, and to its clients.
#[test]
fn ports_answer_on_an_uplink_that_comes_later() {
    scenario("later", 2, |rig| {
        publish(rig, &["--replicas", "4"])?;
        let node = &rig.nodes[0].ns;
        let [ours, theirs] = [1, 2].map(|last| {
            (
                Ipv4Addr::new(198, 51, 100, last),
                Ipv6Addr::new(0xfd51, 0, 0, 0, 0, 0, 0, last.into()),
            )
        });
        let (name, other) = (node.name().to_owned(), rig.client.name().to_owned());
        node.sh(&[
            "ip", "link", "add", "later0", "type", "veth", "peer", "name", "later1", "netns",
            &other,
        ])?;
        for (ns, interface, address) in [(node, "later0", ours), (&rig.client, "later1", theirs)] {
            let (four, six) = (format!("{}/24", address.0), format!("{}/64", address.1));
            ns.sh(&["ip", "addr", "add", &four, "dev", interface])?;
            ns.sh(&["ip", "addr", "add", &six, "dev", interface, "nodad"])?;
            ns.sh(&["ip", "link", "set", interface, "up"])?;
        }
        rig.client.enter(|| {
            for (ours, theirs) in [
                (IpAddr::from(ours.0), IpAddr::from(theirs.0)),
                (ours.1.into(), theirs.1.into()),
            ] {
                eventually("an answer on the new uplink", UP_LIMIT, || {
                    http_get(ours, 80, "/").map(drop)
                })?;
                let mut replicas = BTreeSet::new();
                for _ in 0..REQUESTS {
                    let reply = http_get(ours, 80, "/")?;
                    let seen = reply.client().with_context(|| name.clone())?;
                    ensure!(seen.ip() == theirs, "asked from {seen}");
                    replicas.insert(reply.replica()?);
                }
                ensure!(replicas.len() == 4, "only {replicas:?} answered by {ours}");
            }
            Ok(())
        })?;
        // And it goes again: the rest stays as it was.
        node.sh(&["ip", "link", "del", "later0"])?;
        ensure!(ask(rig, &rig.nodes)?.len() == 4);
        Ok(())
    });
}

/// The programs of a node's agent, with the indices of their interfaces, by what it has pinned.
fn attached(node: &Node) -> Result<BTreeSet<String>> {
    let mut programs = BTreeSet::new();
    for version in fs::read_dir(format!("/sys/fs/bpf/mesh/{}", node.instance))? {
        let version = version?.path();
        // Filters before Linux 6.6.
        for folder in ["links", "filters"] {
            let pins = fs::read_dir(version.join(folder));
            for pin in pins.into_iter().flatten() {
                programs.insert(pin?.file_name().to_string_lossy().into_owned());
            }
        }
    }
    Ok(programs)
}

/// The agent stands still from before the uplink is up again: nobody attaches a program or tells of an address.
#[test]
fn open_connections_outlive_an_uplink_that_is_down_for_a_while() {
    scenario("flap", 2, |rig| {
        publish(rig, &["--constraint", "node.hostname==n2"])?;
        rig.wait_running("web", 1)?;
        let n1 = &rig.nodes[0];
        let six = lan::v6(n1.address);
        let mut open = [
            client::KeptConnection::new(n1.address, 80),
            client::KeptConnection::new(six, 80),
        ];
        let mut ask = || {
            rig.client.enter(|| {
                let mut begun = Vec::new();
                for one in &mut open {
                    ensure!(one.get("/")? == 200);
                    begun.push(one.connected());
                }
                Ok(begun)
            })
        };
        let begun = eventually("an answer in both protocols", UP_LIMIT, &mut ask)?;
        n1.ns.sh(&["ip", "link", "set", lan::UPLINK, "down"])?;
        // What has a program of the agent by now was seen by it after the uplink.
        n1.ns.sh(&[
            "ip", "link", "add", "late0", "type", "veth", "peer", "name", "late1",
        ])?;
        n1.ns
            .sh(&["ip", "addr", "add", "198.51.100.1/24", "dev", "late0"])?;
        n1.ns.sh(&["ip", "link", "set", "late0", "up"])?;
        let late = n1.ns.sh(&["ip", "-o", "link", "show", "late0"])?;
        let (late, _) = late.split_once(':').context("an index")?;
        eventually("the agent to see it", UP_LIMIT, || {
            let programs = attached(n1)?;
            let program = format!("uplink_tc-{late}");
            ensure!(programs.contains(&program), "{programs:?}");
            Ok(())
        })?;
        n1.pause()?;
        let answered = n1
            .ns
            .sh(&["ip", "link", "set", lan::UPLINK, "up"])
            .and_then(|_| {
                let six = format!("{six}/64");
                n1.ns
                    .sh(&["ip", "addr", "add", &six, "dev", lan::UPLINK, "nodad"])
            })
            .and_then(|_| ask());
        n1.resume()?;
        ensure!(answered? == begun, "a connection was made anew");
        ensure!(ask()? == begun, "a connection was made anew");
        Ok(())
    });
}

#[test]
fn datagrams_fit_the_smaller_wire_of_another_node() {
    scenario("wires", 2, |rig| {
        let [n1, n2] = [&rig.nodes[0], &rig.nodes[1]];
        n2.ns
            .sh(&["ip", "link", "set", lan::UPLINK, "mtu", "1400"])?;
        let place = ["--constraint", "node.hostname==n2"];
        rig.create("web", &[&place[..], &["--publish", "80:80/udp"]].concat())?;
        // In a tunnel it fits the wire of the node that is asked, and not that of the other.
        let sent = [7; 1400];
        eventually("the client to learn what fits", UP_LIMIT, || {
            rig.client.enter(|| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
                socket.connect((n1.address, 80))?;
                socket.set_read_timeout(Some(Duration::from_millis(500)))?;
                // The kernel may say so here: the datagram itself is sent no more.
                socket.send(&sent)?;
                let mut back = [0; 2048];
                let length = socket.recv(&mut back)?;
                ensure!(back[..length].ends_with(&sent), "{length} bytes");
                Ok(())
            })
        })
    });
}
