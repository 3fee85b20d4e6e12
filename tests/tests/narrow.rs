//! A router between two nodes that takes smaller packets than both: what tasks and clients send goes on, encrypted or not,
//! and `doctor` says why it is smaller.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use mesh_tests::{Rig, eventually, http_get, lan, rig::UP_LIMIT, rig::test_name, scenario_on};

/// Largest packet that the router takes, and what that leaves in a tunnel.
const MTU: &str = "1400";
const INSIDE: &str = "packets of up to 1350 bytes, as a router on the way says";
/// Length of what is asked for: many packets.
const SIZE: usize = 1_000_000;
/// How long a question of `doctor` may take to be answered like this.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes the switch a router for n2, which nobody has to know: it answers for n2 to the others, and for them to n2.
fn route(rig: &Rig) -> Result<()> {
    let n2 = &rig.nodes[1];
    let (port, address) = (n2.port.as_str(), format!("{}/32", n2.address));
    let router = format!("{}/24", lan::address(251));
    let run = |line: &str| rig.lan.sh(&line.split(' ').collect::<Vec<_>>());
    run(&format!("ip link set {port} nomaster"))?;
    run(&format!("ip addr add {router} dev br0 noprefixroute"))?;
    run(&format!("ip route add 192.168.77.0/24 dev br0 mtu {MTU}"))?;
    run(&format!("ip route add {address} dev {port} mtu {MTU}"))?;
    for setting in [
        "ip_forward=1",
        "conf.all.rp_filter=0",
        "conf.all.proxy_arp=1",
    ] {
        run(&format!("sysctl -qw net.ipv4.{setting}"))?;
    }
    let members = rig.nodes.iter().map(|node| &node.ns).chain([&rig.client]);
    for member in members {
        member.sh(&["ip", "neigh", "flush", "dev", lan::UPLINK])?;
    }
    Ok(())
}

#[test]
fn a_router_that_takes_less_is_followed() {
    scenario_on(Rig::builder(&test_name("narrow")).nodes(2), |rig| {
        let create = [
            "network",
            "create",
            "--driver",
            "overlay",
            "--opt",
            "encrypted",
        ];
        rig.first().ok(&[&create[..], &["hidden"]].concat())?;
        let on = |node| ["--network", "hidden", "--constraint", node];
        let publish = ["--publish", "80:80"];
        rig.create("web", &[&on("node.hostname==n1")[..], &publish].concat())?;
        rig.sleepers("shell", &on("node.hostname==n2"))?;
        let shell = rig.task("shell")?;
        eventually("the nodes to agree upon keys", UP_LIMIT, || {
            rig.exec(&shell, &["curl", "-f", "http://web/"])
        })?;
        route(rig)?;
        let length = format!("curl -f http://web/bytes/{SIZE} | wc -c");
        eventually("the encrypted network to go on", PATIENCE, || {
            let got = rig.exec(&shell, &["sh", "-c", &length])?;
            ensure!(got.trim() == SIZE.to_string(), "{got}");
            Ok(())
        })?;
        // Through n2, which runs no replica, and back.
        for node in &rig.nodes {
            let to = IpAddr::V4(node.address);
            let path = format!("/bytes/{SIZE}");
            let reply = rig.client.enter(|| http_get(to, 80, &path))?;
            ensure!(reply.body.len() == SIZE, "{} bytes", reply.body.len());
        }
        eventually("doctor to say it", PATIENCE, || {
            let all = ["doctor", "--format", "json", "--filter", "check=path"];
            let answer = rig.first().ctl(&all)?;
            let told = answer.out.matches(INSIDE).count();
            ensure!(told == 2 && answer.code == 0, "{}", answer.out);
            Ok(())
        })
    });
}
