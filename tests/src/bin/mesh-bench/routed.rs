//! The least that forwarding costs: tasks behind veths of their nodes, which route, and do nothing else. No address is
//! rewritten, nothing tunnelled, balanced or looked up but routes; packets cross the same devices as ours.
//!
//! ```text
//! client -> n1 -> n2 -> task
//! ```

use anyhow::Result;
use mesh_tests::{
    NetNs, Node, Rig,
    lan::{Cable, UPLINK},
    outside::Server,
    rig,
};

use crate::{HTTP, Path, Side, direct::generate, figures::Load, table};

/// The task on n1, and its node's end.
const GENERATOR: [&str; 2] = ["10.201.1.2", "10.201.1.1"];
/// The task on n2, and its node's end.
const SERVER: [&str; 2] = ["10.201.2.2", "10.201.2.1"];
/// The server again, for who goes through n1.
const SERVER_BY_FIRST: &str = "10.201.3.2";
/// Routes of replies from there.
const TABLE: &str = "100";

/// Two nodes with one task each.
pub(crate) struct Routed {
    rig: Rig,
    generator: NetNs,
    // Ends before the namespaces do.
    _server: Server,
    _server_task: NetNs,
}

impl Routed {
    pub(crate) fn new(cable: Cable) -> Result<Self> {
        let name = rig::test_name("br");
        let rig = Rig::builder(&name).nodes(2).cable(cable).world()?;
        let [first, second] = [&rig.nodes[0], &rig.nodes[1]];
        let [to_first, to_second] = [first, second].map(|node| node.address.to_string());
        for node in [first, second] {
            // Else n1 would tell the client of the shorter way.
            node.ns.enter(|| {
                for what in ["all", UPLINK] {
                    let file = format!("/proc/sys/net/ipv4/conf/{what}/send_redirects");
                    std::fs::write(file, "0")?;
                }
                Ok(std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?)
            })?;
        }
        let generator = task(first, &format!("{name}-t1"), GENERATOR)?;
        let server_task = task(second, &format!("{name}-t2"), SERVER)?;
        let own = format!("{SERVER_BY_FIRST}/32");
        server_task.sh(&["ip", "addr", "add", &own, "dev", "eth0"])?;

        let add = |ns: &NetNs, to: &str, way: &[&str]| {
            ns.sh(&[&["ip", "route", "add", to], way].concat())
        };
        add(&rig.client, SERVER[0], &["via", &to_second])?;
        add(&rig.client, SERVER_BY_FIRST, &["via", &to_first])?;
        for to in [SERVER[0], SERVER_BY_FIRST] {
            add(&first.ns, to, &["via", &to_second])?;
        }
        add(&second.ns, SERVER_BY_FIRST, &["dev", "task0"])?;
        add(&second.ns, GENERATOR[0], &["via", &to_first])?;
        let default = ["via", &to_first, "table", TABLE];
        add(&second.ns, "default", &default)?;
        let rule = ["ip", "rule", "add", "from", SERVER_BY_FIRST];
        second.ns.sh(&[&rule[..], &["table", TABLE]].concat())?;

        let server = Server::start(&server_task, HTTP)?;
        Ok(Self {
            rig,
            generator,
            _server: server,
            _server_task: server_task,
        })
    }
}

/// A task's namespace on a veth of a node's.
fn task(node: &Node, name: &str, [own, gateway]: [&str; 2]) -> Result<NetNs> {
    let ns = NetNs::new(name)?;
    node.ns.sh(&[
        "ip", "link", "add", "task0", "type", "veth", "peer", "name", "eth0", "netns", name,
    ])?;
    for (side, address, device) in [(&node.ns, gateway, "task0"), (&ns, own, "eth0")] {
        side.sh(&["ip", "addr", "add", &format!("{address}/24"), "dev", device])?;
        side.sh(&["ip", "link", "set", device, "up"])?;
    }
    ns.sh(&["ip", "route", "add", "default", "via", gateway])?;
    Ok(ns)
}

impl Side for Routed {
    fn name(&self) -> &'static str {
        table::ROUTED
    }

    fn load(&self, path: Path, load: Load) -> Result<String> {
        match path {
            Path::IngressRemote => generate(&self.rig.client, load, SERVER_BY_FIRST),
            Path::IngressLocal => generate(&self.rig.client, load, SERVER[0]),
            Path::Overlay | Path::Vip => generate(&self.generator, load, SERVER[0]),
        }
    }
}
