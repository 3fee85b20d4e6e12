//! Ports of one node, names without a virtual address, and how labels spread the traffic of a service.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use mesh_common::crc;
use mesh_tests::{
    Node, Rig, Task, client, eventually, http_get, image, lan, rig::UP_LIMIT, scenario,
};
use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
};

/// Requests on new connections, where each might be answered by another replica.
const REQUESTS: usize = 30;

/// Asks a node's port from outside; gives the replica, which has to have seen the client itself.
fn ask(rig: &Rig, node: &Node, port: u16) -> Result<String> {
    let reply = rig.client.enter(|| http_get(node.address, port, "/"))?;
    reply.client()?;
    reply.replica()
}

/// All SCTP of the namespace that the thread is in, in the protocol of this address.
fn raw_sctp(address: IpAddr) -> Result<UdpSocket> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let (flags, protocol) = (SockFlag::empty(), SockProtocol::Sctp);
    // Raw sockets have the calls of those for datagrams.
    let socket = UdpSocket::from(socket(family, SockType::Raw, flags, protocol)?);
    socket.set_read_timeout(Some(client::REQUEST_LIMIT))?;
    Ok(socket)
}

/// What a client sends to port 8081 of SCTP comes to port 80 of the task, whose kernel need know nothing of it. It opens an
/// association (RFC 9260, section 3.3.2): the kernel's connection tracking takes nothing else.
fn sctp_comes(rig: &Rig, task: &Task, to: IpAddr) -> Result<()> {
    const FROM: u16 = 20_400;
    let init = [
        1, 0, 0, 20, 0, 0, 0, 1, 0, 0, 255, 255, 0, 1, 0, 1, 0, 0, 0, 1,
    ];
    let ports = [FROM, 8081].map(u16::to_be_bytes).concat();
    let mut packet = [&ports[..], &[0; 8], &init].concat();
    let checksum = crc::of(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&checksum);

    let namespace = File::open(format!("/proc/{}/ns/net", rig.task_pid(task)?))?;
    let open = || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        raw_sctp(to)
    };
    let inside = thread::scope(|scope| scope.spawn(open).join());
    let inside = inside.map_err(|_| anyhow!("the thread in the task's namespace panicked"))??;
    let client = rig.client.enter(|| raw_sctp(to))?;
    client.send_to(&packet, (to, 0))?;
    let mut buffer = [0; 1500];
    let (length, from) = inside.recv_from(&mut buffer)?;
    // With the header of IPv4, and without that of IPv6.
    let came = &buffer[length.saturating_sub(packet.len())..length];
    let ports = [FROM, 80].map(u16::to_be_bytes).concat();
    ensure!(came.starts_with(&ports), "{came:?}");
    ensure!(came.ends_with(&init), "{came:?}");
    let address = rig.client_address();
    let known = [IpAddr::from(address), lan::v6(address).into()];
    ensure!(known.contains(&from.ip()), "from {from}");
    Ok(())
}

#[test]
fn a_host_port_answers_where_a_replica_runs() {
    scenario("hostp", 2, |rig| {
        let port = "published=8081,target=80,mode=host";
        let [udp, sctp] = ["udp", "sctp"].map(|name| format!("{port},protocol={name}"));
        let place = ["--constraint", "node.hostname==n2", "--publish", port];
        let others = ["--publish", &udp, "--publish", &sctp];
        rig.create("direct", &[place, others].concat())?;
        eventually("the port to answer", UP_LIMIT, || {
            ask(rig, &rig.nodes[1], 8081)
        })?;
        ensure!(ask(rig, &rig.nodes[0], 8081).is_err(), "n1 has no replica");
        let task = rig.task("direct")?;
        for [without, with] in [
            [0, 1].map(|node| IpAddr::from(rig.nodes[node].address)),
            [0, 1].map(|node| lan::v6(rig.nodes[node].address).into()),
        ] {
            rig.client.enter(|| {
                http_get(with, 8081, "/")?.client()?;
                let back = client::udp_echo(with, 8081, 20)?;
                ensure!(back == 20, "{with}: {back} of 20 datagrams came back");
                let found = http_get(without, 8081, "/");
                ensure!(found.is_err(), "{without} has no replica");
                let back = client::udp_echo(without, 8081, 1)?;
                ensure!(back == 0, "{without} has no replica");
                Ok(())
            })?;
            sctp_comes(rig, &task, with).with_context(|| format!("SCTP to {with}"))?;
        }
        for own in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            let ask = || http_get(own, 8081, "/");
            let reply = rig.nodes[1].ns.enter(ask);
            ensure!(reply.with_context(|| own.to_string())?.status == 200);
            ensure!(
                rig.nodes[0].ns.enter(ask).is_err(),
                "n1 has no replica for its own callers on {own}"
            );
        }
        // The task itself, and one of another service beside it.
        let near = ["--constraint", "node.hostname==n2"];
        rig.create("beside", &near)?;
        let own = rig.nodes[1].address;
        for caller in ["direct", "beside"] {
            let caller = rig.task(caller)?;
            for url in [
                format!("http://{own}:8081/"),
                format!("http://[{}]:8081/", lan::v6(own)),
            ] {
                rig.exec(&caller, &["curl", "-f", "-m", "5", &url])
                    .with_context(|| format!("{} asks {url}", caller.name))?;
            }
        }
        rig.first().ok(&["service", "scale", "-d", "direct=2"])?;
        eventually("a reason why the second does not run", UP_LIMIT, || {
            let list = rig.first().ok(&["service", "ps", "--no-trunc", "direct"])?;
            ensure!(
                list.contains("host-mode port already in use on 1 node"),
                "{list}"
            );
            Ok(())
        })?;
        rig.wait_running("direct", 1).map(drop)
    });
}

#[test]
fn a_local_port_does_not_answer_where_no_replica_runs() {
    scenario("local", 2, |rig| {
        let local = ["--label", "mesh.policy=local", "--publish", "82:80"];
        let place = ["--constraint", "node.hostname==n2"];
        rig.create("near", &[&local[..], &place].concat())?;
        let any = ["--publish", "83:80"];
        rig.create("any", &[&any[..], &place].concat())?;
        let ask = |node: &Node, port| {
            let [v4, v6] = [IpAddr::from(node.address), lan::v6(node.address).into()];
            [v4, v6].map(|address| {
                let reply = rig.client.enter(|| http_get(address, port, "/"));
                reply
                    .and_then(|reply| reply.client())
                    .with_context(|| address.to_string())
            })
        };
        let [without, with] = [&rig.nodes[0], &rig.nodes[1]];
        eventually("the ports to answer", UP_LIMIT, || {
            for (node, port) in [(with, 82), (with, 83), (without, 83)] {
                for reply in ask(node, port) {
                    reply?;
                }
            }
            Ok(())
        })?;
        // Once n1 answers the one, it has been told of the other as well.
        for reply in ask(without, 82) {
            let error = reply.err().context("n1 has no replica, and answers")?;
            let refused = error.chain().any(|cause| {
                let cause = cause.downcast_ref::<io::Error>();
                cause.is_some_and(|cause| cause.kind() == io::ErrorKind::ConnectionRefused)
            });
            ensure!(refused, "{error:#}");
        }
        Ok(())
    });
}

#[test]
fn a_service_on_the_host_network_listens_on_its_nodes() {
    scenario("hostn", 2, |rig| {
        let create = ["service", "create", "-q", "--network", "host"];
        let place = ["--constraint", "node.hostname==n2"];
        let command = [image::WHOAMI, "whoami", "8082"];
        rig.first().ok(&[&create[..], &place, &command].concat())?;
        let name = rig
            .first()
            .ok(&["service", "ls", "--format", "{{.Name}}"])?;
        ensure!(name.contains('_'), "a name was made up: {name}");
        rig.wait_running(name.trim(), 1)?;
        eventually("the node's port to answer", UP_LIMIT, || {
            ask(rig, &rig.nodes[1], 8082)
        })?;
        ensure!(ask(rig, &rig.nodes[0], 8082).is_err(), "n1 runs none");
        Ok(())
    });
}

#[test]
fn dnsrr_has_the_tasks_and_no_virtual_address() {
    scenario("dnsrr", 2, |rig| {
        rig.network("front")?;
        let rr = [
            "--network",
            "front",
            "--endpoint-mode",
            "dnsrr",
            "--replicas",
            "3",
        ];
        rig.create("rr", &rr)?;
        let task = &rig.wait_running("rr", 3)?[0];
        let lookup = |name| -> Result<BTreeSet<String>> {
            let text = rig.exec(task, &["nslookup", "-type=a", name])?;
            let answers = text
                .lines()
                .filter_map(|line| line.strip_prefix("Address: "));
            Ok(answers.map(|a| a.trim().to_owned()).collect())
        };
        eventually("both names to have all tasks", UP_LIMIT, || {
            let tasks = lookup("tasks.rr")?;
            ensure!(tasks.len() == 3 && lookup("rr")? == tasks, "{tasks:?}");
            Ok(())
        })?;
        let vips = rig
            .first()
            .ok(&["vip", "ls", "-q", "--filter", "service=rr"])?;
        ensure!(vips.trim().is_empty(), "{vips}");
        let refused = rig.first().ctl(&[
            "service",
            "create",
            "--name",
            "both",
            "--endpoint-mode",
            "dnsrr",
            "--publish",
            "83:80",
            image::WHOAMI,
        ])?;
        let why = refused.refused()?;
        ensure!(why.contains("can't be used with dnsrr mode"), "{why}");
        Ok(())
    });
}

#[test]
fn labels_keep_clients_with_a_replica_and_requests_on_a_node() {
    scenario("spread", 2, |rig| {
        for (label, port) in [
            ("mesh.affinity=client-ip:60", "81:80"),
            ("mesh.policy=local", "82:80"),
        ] {
            let name = label.split(['.', '=']).nth(1).unwrap_or_default();
            rig.create(
                name,
                &["--replicas", "4", "--label", label, "--publish", port],
            )?;
        }
        let replicas = |port, only: Option<usize>| -> Result<BTreeSet<String>> {
            let node = |n: usize| &rig.nodes[only.unwrap_or(n % 2)];
            (0..REQUESTS).map(|n| ask(rig, node(n), port)).collect()
        };
        // Nodes that were told of the replicas in different steps agree once the affinity's time is over.
        let sticky = eventually("one replica for the client", UP_LIMIT, || {
            let sticky = replicas(81, None)?;
            ensure!(sticky.len() == 1, "several: {sticky:?}");
            Ok(sticky)
        })?;
        rig.first().ok(&["service", "scale", "affinity=6"])?;
        rig.wait_running("affinity", 6)?;
        ensure!(
            replicas(81, None)? == sticky,
            "more replicas moved the client"
        );
        let [first, second] = [replicas(82, Some(0))?, replicas(82, Some(1))?];
        ensure!(
            first.len() == 2 && second.len() == 2,
            "{first:?} {second:?}"
        );
        ensure!(first.is_disjoint(&second), "{first:?} {second:?}");
        let refused = |label| {
            let create = ["service", "create", "--label", label, image::WHOAMI];
            rig.first().ctl(&create)?.refused()
        };
        let why = refused("mesh.affinity=cookie")?;
        ensure!(why.contains("client-ip:SECONDS"), "{why}");
        let why = refused("mesh.afinity=client-ip")?;
        ensure!(why.contains("mesh.afinity is unknown"), "{why}");
        let update = ["service", "update", "--label-add", "mesh.x=1", "policy"];
        let why = rig.first().ctl(&update)?.refused()?;
        ensure!(why.contains("mesh.x is unknown"), "{why}");
        Ok(())
    });
}
