//! `mesh-ctl doctor` says what is wrong between the nodes, and nothing where all is well.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Node, Rig, eventually, http_get, image, lan::Cable, outside::Server, rig::test_name, scenario,
    scenario_on,
};
use serde_json::Value;

/// How long the mesh may take to see what was mended, an answer of `doctor` included.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `doctor` says, a line for each finding: `fault n1 path to n2: found`; and its exit code.
fn doctor(node: &Node, args: &[&str]) -> Result<(Vec<String>, i32)> {
    let answer = node.ctl(&[&["doctor", "--format", "json"], args].concat())?;
    let lines = answer.out.lines().map(|line| {
        let finding: Value =
            serde_json::from_str(line).with_context(|| format!("{line:?}: {}", answer.err))?;
        let field = |name: &str| finding[name].as_str().unwrap_or("?").to_owned();
        Ok(format!(
            "{} {} {} {}: {}",
            field("Result"),
            field("Node"),
            field("Check"),
            field("Subject"),
            field("Found")
        ))
    });
    Ok((lines.collect::<Result<_>>()?, answer.code))
}

/// What is not as it should be.
fn troubles(rig: &Rig) -> Result<(Vec<String>, i32)> {
    let (lines, code) = doctor(rig.first(), &[])?;
    let troubles = lines.into_iter().filter(|line| !line.starts_with("ok "));
    Ok((troubles.collect(), code))
}

fn is_well(rig: &Rig) -> Result<()> {
    eventually("all to be well", PATIENCE, || {
        let (troubles, code) = troubles(rig)?;
        ensure!(troubles.is_empty() && code == 0, "{code}: {troubles:#?}");
        Ok(())
    })
}

fn publish(rig: &Rig) -> Result<()> {
    let create = ["service", "create", "-q", "--name"];
    let web = ["web", "--replicas", "2", "--publish", "80:80"];
    rig.first()
        .ok(&[&create[..], &web, &[image::WHOAMI]].concat())?;
    let more = [
        "more",
        "--publish",
        "53:80/udp",
        "--publish",
        "54:80/sctp",
        "--publish",
        "mode=host,published=55,target=80,protocol=udp",
        "--publish",
        "mode=host,published=8080,target=80",
    ];
    rig.first()
        .ok(&[&create[..], &more, &[image::WHOAMI]].concat())
        .map(drop)
}

#[test]
fn nothing_is_wrong_with_a_mesh_that_works() {
    scenario("docw", 3, |rig| {
        publish(rig)?;
        is_well(rig)?;
        let (lines, code) = doctor(rig.first(), &[])?;
        ensure!(code == 0, "{lines:#?}");
        let count = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
        ensure!(count(" path to n") == 6, "{lines:#?}");
        ensure!(
            count(": packets of up to 1450 bytes, answered in ") == 6,
            "{lines:#?}"
        );
        ensure!(
            count(" port 80/tcp web: a task answers in ") == 3,
            "{lines:#?}"
        );
        ensure!(
            count(" port 53/udp more: what is sent gets to a task") == 3,
            "{lines:#?}"
        );
        ensure!(
            count(" port 54/sctp more: what is sent gets to a task") == 3,
            "{lines:#?}"
        );
        ensure!(count(" port 55/udp more: not asked") == 1, "{lines:#?}");
        no_application_got_it(rig)?;
        ensure!(count(" port 8080/tcp more: answers in ") == 1, "{lines:#?}");
        ensure!(count(" uplink lan0: native XDP") == 3, "{lines:#?}");
        direct_return(rig, &[])?;
        ensure!(count(" clock : ") == 3, "{lines:#?}");
        let (shown, _) = doctor(
            rig.first(),
            &["--filter", "node=n2", "--filter", "check=path"],
        )?;
        ensure!(shown.len() == 2, "{shown:#?}");
        let refused = rig.nodes[1].ctl(&["doctor"])?.refused()?;
        ensure!(refused.contains("not a swarm manager"), "{refused}");
        Ok(())
    });
}

/// What was sent to `more` has come to its task, whose kernel has dropped it.
fn no_application_got_it(rig: &Rig) -> Result<()> {
    let more = rig.task("more")?;
    let stack = std::fs::read_to_string(format!("/proc/{}/net/snmp", rig.task_pid(&more)?))?;
    let mut udp = stack.lines().filter(|line| line.starts_with("Udp: "));
    let (names, counts) = (udp.next().context("no names")?, udp.next().context("none")?);
    let count = |name: &str| {
        let mut pairs = names.split(' ').zip(counts.split(' '));
        pairs.find(|pair| pair.0 == name).map(|pair| pair.1)
    };
    ensure!(count("InDatagrams") == Some("0"), "{stack}");
    ensure!(
        count("InCsumErrors").is_some_and(|count| count != "0"),
        "{stack}"
    );
    Ok(())
}

#[test]
fn what_is_wrong_is_said_and_where() {
    let builder = Rig::builder(&test_name("docf")).cable(Cable::Veth);
    scenario_on(builder, |rig| {
        publish(rig)?;
        is_well(rig)?;
        tunnels_dropped(rig)?;
        narrow_link(rig)?;
        guarded_port(rig)?;
        swallowed_port(rig)?;
        port_of_another(rig)?;
        no_ethernet(rig)?;
        dead_node(rig)
    });
}

/// A firewall on n2 that drops what comes by tunnel.
fn tunnels_dropped(rig: &mut Rig) -> Result<()> {
    let n2 = &rig.nodes[1].ns;
    n2.sh(&[
        "nft",
        "table inet block { chain c { type filter hook input priority 0; udp dport 4789 drop; }; }",
    ])?;
    let (troubles, code) = troubles(rig)?;
    n2.sh(&["nft", "delete table inet block"])?;
    let expected = |line: &str| troubles.iter().any(|trouble| trouble.starts_with(line));
    for from in ["n1", "n3"] {
        let lost = format!("fault {from} path to n2: tunnel packets are lost");
        ensure!(expected(&lost), "{troubles:#?}");
        let answers = format!("warning n2 path to {from}: tunnel packets arrive, but");
        ensure!(expected(&answers), "{troubles:#?}");
    }
    ensure!(code == 1, "exit code {code}");
    let paths = troubles.iter().filter(|line| line.contains(" path "));
    ensure!(paths.count() == 4, "{troubles:#?}");
    is_well(rig)
}

/// A link to n2 that takes less than the others.
fn narrow_link(rig: &mut Rig) -> Result<()> {
    let port = rig.nodes[1].port.clone();
    let lan = rig.lan.ns();
    lan.sh(&["ip", "link", "set", &port, "mtu", "1400"])?;
    let (troubles, code) = troubles(rig)?;
    rig.lan
        .ns()
        .sh(&["ip", "link", "set", &port, "mtu", "1500"])?;
    // A veth takes four bytes more, for a VLAN tag, than it says.
    let found = "packets of more than 1354 bytes are lost; tasks send up to 1450";
    let ways = [("n1", "n2"), ("n2", "n1"), ("n2", "n3"), ("n3", "n2")];
    let expected = ways.map(|(from, to)| format!("fault {from} path to {to}: {found}"));
    ensure!(troubles == expected && code == 1, "{code}: {troubles:#?}");
    is_well(rig)
}

/// Of every two nodes it is said whether direct return would be possible, which no service asks for: it is, but from the
/// nodes that are named.
fn direct_return(rig: &Rig, guarded: &[&str]) -> Result<()> {
    eventually("direct return to be tried", PATIENCE, || {
        let (lines, code) = doctor(rig.first(), &["--filter", "check=return"])?;
        ensure!(code == 0 && lines.len() == 6, "{code}: {lines:#?}");
        for line in &lines {
            let expected = if guarded
                .iter()
                .any(|node| line.starts_with(&format!("ok {node} ")))
            {
                "the network loses packets that this node sends under that node's address"
            } else {
                ": direct return is possible"
            };
            ensure!(line.ends_with(expected), "{lines:#?}");
        }
        Ok(())
    })
}

/// A switch that takes from n2 only what n2 sends under its own address.
fn guarded_port(rig: &mut Rig) -> Result<()> {
    let n2 = &rig.nodes[1];
    let (port, own) = (&n2.port, n2.address);
    let lan = rig.lan.ns();
    lan.sh(&[
        "nft",
        &format!(
            "table netdev guard {{ chain c {{ type filter hook ingress device {port} priority 0; \
             ip saddr 192.168.77.0/24 ip saddr != {own} drop; }}; }}"
        ),
    ])?;
    direct_return(rig, &["n2"])?;
    rig.lan.ns().sh(&["nft", "delete table netdev guard"])?;
    is_well(rig)
}

/// Something between the nodes that drops what is for some published ports of n2.
fn swallowed_port(rig: &mut Rig) -> Result<()> {
    let to = rig.nodes[1].address;
    let rule = format!("ip daddr {to} tcp dport 80 drop; ip daddr {to} udp dport 53 drop");
    rig.lan.ns().sh(&[
        "nft",
        &format!(
            "table bridge block {{ chain c {{ type filter hook forward priority 0; {rule}; }}; }}"
        ),
    ])?;
    let (troubles, code) = troubles(rig)?;
    rig.lan.ns().sh(&["nft", "delete table bridge block"])?;
    let expected = [
        "warning n2 port 53/udp more: asked by n3: what is sent gets to no task",
        "fault n2 port 80/tcp web: asked by n3: no answer within 1500 ms",
    ];
    ensure!(troubles == expected && code == 1, "{code}: {troubles:#?}");
    is_well(rig)
}

/// A machine that has taken the address of n2 and answers its port itself.
fn port_of_another(rig: &mut Rig) -> Result<()> {
    let to = rig.nodes[1].address;
    let lan = rig.lan.ns();
    lan.sh(&["ip", "addr", "add", "192.168.77.250/24", "dev", "br0"])?;
    let server = Server::start(lan, 8080)?;
    let shown = lan.sh(&["ip", "-brief", "link", "show", "br0"])?;
    let mac = shown.split_whitespace().nth(2).context("no MAC")?;
    lan.sh(&[
        "nft",
        &format!(
            "table bridge take {{ chain p {{ type filter hook prerouting priority -300; \
             ip daddr {to} tcp dport 80 ether daddr set {mac} meta pkttype set host; }}; }}\n\
             table ip take {{ chain p {{ type nat hook prerouting priority dstnat; \
             ip daddr {to} tcp dport 80 redirect to :8080; }}; }}"
        ),
    ])?;
    let (troubles, code) = troubles(rig)?;
    let lan = rig.lan.ns();
    lan.sh(&["nft", "delete table bridge take; delete table ip take"])?;
    lan.sh(&["ip", "addr", "del", "192.168.77.250/24", "dev", "br0"])?;
    drop(server);
    let expected = ["fault n2 port 80/tcp web: asked by n3: something answers that is no task"];
    ensure!(troubles == expected && code == 1, "{code}: {troubles:#?}");
    is_well(rig)
}

/// A device of n2 whose packets have no Ethernet header, as WireGuard's: no program is attached to it, and doctor says so.
fn no_ethernet(rig: &mut Rig) -> Result<()> {
    let n2 = &rig.nodes[1].ns;
    n2.sh(&["ip", "tuntap", "add", "tun0", "mode", "tun"])?;
    n2.sh(&["ip", "addr", "add", "198.51.100.1/24", "dev", "tun0"])?;
    n2.sh(&["ip", "link", "set", "tun0", "up"])?;
    let expected = [
        "warning n2 uplink tun0: no Ethernet headers: published ports do not answer to what comes in here",
    ];
    eventually("tun0 to be told", PATIENCE, || {
        let (troubles, code) = troubles(rig)?;
        ensure!(troubles == expected && code == 0, "{code}: {troubles:#?}");
        let (lines, _) = doctor(
            rig.first(),
            &["--filter", "node=n2", "--filter", "check=uplink"],
        )?;
        ensure!(lines.len() == 2, "{lines:#?}");
        Ok(())
    })?;
    let reply = rig.nodes[1]
        .ns
        .enter(|| http_get([198, 51, 100, 1], 80, "/"));
    ensure!(
        reply.context("its address")?.status == 200,
        "of its own processes"
    );
    rig.nodes[1].ns.sh(&["ip", "link", "del", "tun0"])?;
    is_well(rig)
}

/// A network card of n2 that computes checksums inside tunnels wrongly: the cable completes what it gets, and so completes a
/// sum that begins with another word.
#[test]
fn wrong_checksums_are_named() {
    scenario("docc", 3, |rig| {
        publish(rig)?;
        is_well(rig)?;
        // In the tunnel's datagram: its header, VXLAN's, Ethernet's, IPv4's; then the inner datagram's checksum.
        let at = (8 + 8 + 14 + 20 + 6) * 8;
        let port = &rig.nodes[1].port;
        rig.lan.ns().sh(&[
            "nft",
            &format!(
                "table netdev damage {{ chain c {{ type filter hook ingress device {port} priority 0; \
                 udp dport 4789 @th,{at},16 set 0xdead; }}; }}"
            ),
        ])?;
        let (troubles, code) = troubles(rig)?;
        rig.lan.ns().sh(&["nft", "delete table netdev damage"])?;
        for to in ["n1", "n3"] {
            let fault = format!("fault n2 path to {to}: ");
            let line = troubles.iter().find(|line| line.starts_with(&fault));
            let named =
                line.is_some_and(|line| line.ends_with(" probes arrive with a wrong checksum"));
            ensure!(named, "{troubles:#?}");
        }
        let others = ["fault n1 path to ", "fault n3 path to "];
        let is_others = |line: &String| others.iter().any(|other| line.starts_with(other));
        ensure!(
            !troubles.iter().any(is_others) && code == 1,
            "{code}: {troubles:#?}"
        );
        is_well(rig)
    });
}

/// A node whose agent is gone is named; what the others know is told all the same.
fn dead_node(rig: &mut Rig) -> Result<()> {
    rig.nodes[2].kill()?;
    let (lines, code) = doctor(rig.first(), &[])?;
    ensure!(code == 1, "{lines:#?}");
    let has = |what: &str| lines.iter().any(|line| line.starts_with(what));
    ensure!(has("fault n3 node agent: "), "{lines:#?}");
    ensure!(
        has("ok n1 path to n2: ") && has("ok n2 path to n1: "),
        "{lines:#?}"
    );
    ensure!(!has("ok n3"), "{lines:#?}");
    rig.nodes[2].start()?;
    rig.wait_ready(3)?;
    is_well(rig)
}
