//! Direct return: replies go straight from the replica's node to the client once the nodes have proved that the network
//! takes them, and through the asked node when it no longer does. Connections outlive either change.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    KeptConnection, Node, Rig, client::udp_echo, eventually, http_get, lan, rig::test_name,
    scenario_on,
};
use serde_json::Value;

/// How long it may take until a change of the network is noticed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests on one connection.
const REQUESTS: u64 = 100;
/// Where agents tell their metrics.
const METRICS: u16 = 9323;
/// Why replies go back through a node.
const LOST: &str = "the network loses packets that this node sends under that node's address";

/// The node without a replica that clients ask, and the replica's.
struct Case<'a> {
    rig: &'a Rig,
    asked: &'a Node,
    home: &'a Node,
}

impl Case<'_> {
    fn addresses(&self) -> [IpAddr; 2] {
        let address = self.asked.address;
        [address.into(), lan::v6(address).into()]
    }

    /// Waits until replies under both addresses of the asked node go back like this, and gives the reason.
    fn wait(&self, mode: &str) -> Result<String> {
        let what = format!("replies to be {mode}");
        eventually(&what, PATIENCE, || {
            let text = self.rig.first().ok(&["vip", "inspect", "web"])?;
            let vips: Value = serde_json::from_str(&text)?;
            let vip = &vips[0];
            ensure!(vip["Return"] == "dsr", "{text}");
            let paths = vip["ReturnPaths"].as_array().context("no paths")?;
            let reasons = self.addresses().map(|address| {
                let mut paths = paths.iter();
                let path = paths.find(|path| path["Address"] == address.to_string());
                let path = path
                    .filter(|path| path["Mode"] == mode)
                    .with_context(|| text.clone())?;
                ensure!(path["NodeName"] == self.home.name.as_str(), "{text}");
                ensure!(path["AskedNodeName"] == self.asked.name.as_str(), "{text}");
                path["Reason"]
                    .as_str()
                    .map(str::to_owned)
                    .context("no reason")
            });
            let [reason, six] = reasons;
            let reason = reason?;
            ensure!(reason == six?, "{text}");
            Ok(reason)
        })
    }

    fn metrics(&self, of: &Node) -> Result<String> {
        let reply = self
            .rig
            .client
            .enter(|| http_get(of.address, METRICS, "/metrics"))?;
        Ok(reply.text())
    }

    /// Replies that have gone through the asked node.
    fn returned(&self) -> Result<u64> {
        let text = self.metrics(self.asked)?;
        let lines = text.lines().filter_map(|line| {
            let (name, value) = line.split_once("} ")?;
            let counts = name.starts_with("mesh_packets_total{")
                && name.contains("outcome=\"returned\"")
                && name.contains("place=\"uplink");
            counts.then(|| value.parse::<u64>())
        });
        let counts: Result<Vec<u64>, _> = lines.collect();
        let counts = counts?;
        ensure!(!counts.is_empty(), "{text}");
        Ok(counts.iter().sum())
    }

    /// Asks on connections that stay, and gives how many replies went through the asked node meanwhile.
    fn ask(&self, connections: &mut [KeptConnection]) -> Result<u64> {
        let before = self.returned()?;
        for connection in &mut *connections {
            self.rig.client.enter(|| {
                for number in 0..REQUESTS {
                    let status = connection.get("/");
                    let status = status.with_context(|| format!("request {number}"))?;
                    ensure!(status == 200, "{status}");
                }
                Ok(())
            })?;
        }
        Ok(self.returned()? - before)
    }

    /// The replica sees the client's own address, whatever its protocol.
    fn client_is_seen(&self) -> Result<()> {
        for address in self.addresses() {
            let reply = self.rig.client.enter(|| http_get(address, 80, "/"))?;
            reply.client()?;
            let back = self.rig.client.enter(|| udp_echo(address, 53, 10))?;
            ensure!(back == 10, "{back} of 10 datagrams to {address} came back");
        }
        Ok(())
    }

    fn doctor(&self) -> Result<String> {
        Ok(self.rig.first().ctl(&["doctor", "--format", "json"])?.out)
    }
}

#[test]
fn replies_leave_directly_where_the_network_takes_them() {
    let rig =
        Rig::builder(&test_name("dsr")).agent_arg(&format!("--metrics-addr=0.0.0.0:{METRICS}"));
    scenario_on(rig, |rig| {
        let label = [
            "--label",
            "mesh.return=dsr",
            "--publish",
            "80:80",
            "--publish",
            "53:80/udp",
        ];
        rig.create("web", &label)?;
        let home = rig.task("web")?.node;
        let is_home = |node: &&Node| node.name == home;
        let case = Case {
            rig,
            home: rig.nodes.iter().find(is_home).context("no such node")?,
            asked: rig
                .nodes
                .iter()
                .rfind(|n| !is_home(n))
                .context("no other")?,
        };
        case.wait("dsr")?;
        case.client_is_seen()?;
        let mut connections = case.addresses().map(|to| KeptConnection::new(to, 80));
        // But for what opens a connection, which the asked node has to see.
        let through = case.ask(&mut connections)?;
        ensure!(
            through < REQUESTS / 10,
            "{through} replies went through {}",
            case.asked.name
        );

        let port = &case.home.port;
        let lan = &rig.lan;
        lan.sh(&["nft", "add", "table", "netdev", "guard"])?;
        let hook = format!("{{ type filter hook ingress device {port} priority 0; }}");
        lan.sh(&["nft", "add", "chain", "netdev", "guard", "in", &hook])?;
        let [four, six] = [
            case.home.address.to_string(),
            lan::v6(case.home.address).to_string(),
        ];
        for (family, own, prefix) in [("ip", &four, "192.168.77.0/24"), ("ip6", &six, "fd77::/64")]
        {
            lan.sh(&[
                "nft", "add", "rule", "netdev", "guard", "in", family, "saddr", prefix, family,
                "saddr", "!=", own, "drop",
            ])?;
        }
        // Answers are lost until that is noticed, and then sent again.
        rig.client.enter(|| {
            connections
                .iter_mut()
                .try_for_each(|kept| kept.get("/").map(drop))
        })?;
        let reason = case.wait("symmetric")?;
        ensure!(reason == LOST, "{reason}");
        let log = std::fs::read_to_string(case.home.log())?;
        for address in case.addresses() {
            let told = log
                .lines()
                .filter(|line| line.contains(LOST) && line.contains(&format!("address={address}")));
            ensure!(told.count() == 1, "{log}");
            let metric = format!("mesh_return_direct{{address=\"{address}\"}} 0\n");
            ensure!(case.metrics(case.home)?.contains(&metric), "{metric}");
            let doctor = case.doctor()?;
            let finding = format!("replies go back through {}: {LOST}", case.asked.address);
            ensure!(doctor.contains(&finding), "{doctor}");
        }
        case.client_is_seen()?;
        let through = case.ask(&mut connections)?;
        ensure!(
            through >= 2 * REQUESTS,
            "only {through} replies went through {}",
            case.asked.name
        );

        lan.sh(&["nft", "delete", "table", "netdev", "guard"])?;
        case.wait("dsr")?;
        let through = case.ask(&mut connections)?;
        ensure!(
            through < REQUESTS / 10,
            "{through} replies went through {}",
            case.asked.name
        );

        rig.first().ok(&[
            "service",
            "update",
            "-q",
            "--label-add",
            "mesh.return=symmetric",
            "web",
        ])?;
        eventually("the label to be followed", PATIENCE, || {
            let through = case.ask(&mut connections)?;
            ensure!(through >= 2 * REQUESTS, "{through}");
            Ok(())
        })?;
        let refused = [
            "service",
            "update",
            "--label-add",
            "mesh.return=direct",
            "web",
        ];
        let why = rig.first().ctl(&refused)?.refused()?;
        ensure!(why.contains("expected dsr or symmetric"), "{why}");
        Ok(())
    });
}
