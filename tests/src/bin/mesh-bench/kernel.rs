//! The kernel's own way, in Docker's layout: on each node a bridge with a vxlan netdev and the tasks' veths,
//! published ports by nftables DNAT, masquerading into the overlay; a service's address by nftables in the
//! task's namespace (Docker uses IPVS there, which is no faster).
//!
//! ```text
//! client -> n1: DNAT, masquerade -> br -> vxlan -> n2: vxlan -> br -> task
//! ```

use anyhow::Result;
use mesh_tests::{
    NetNs, Node, Rig,
    lan::{Cable, UPLINK},
    outside::Server,
    rig,
};

use crate::{ECHO, HTTP, Path, Side, direct::generate, figures::Load, table};

/// The server task on n2.
const SERVER: &str = "10.200.0.102";
/// The generator task on n1.
const GENERATOR: &str = "10.200.0.101";
/// The service's address.
const VIP: &str = "10.200.0.200";
/// MTU inside: the LAN's 1500 less VXLAN's 50.
const MTU: &str = "1450";

/// Two nodes with one task each.
pub(crate) struct Kernel {
    rig: Rig,
    generator: NetNs,
    // Ends before the namespaces do.
    _server: Server,
    _server_task: NetNs,
}

impl Kernel {
    pub(crate) fn new(cable: Cable) -> Result<Self> {
        let name = rig::test_name("bk");
        let rig = Rig::builder(&name).nodes(2).cable(cable).world()?;
        for (index, node) in rig.nodes.iter().enumerate() {
            let peer = &rig.nodes[1 - index];
            overlay(node, peer, &format!("10.200.0.{}/24", index + 1))?;
            publish(node)?;
        }
        let generator = task(&rig.nodes[0], &format!("{name}-t1"), GENERATOR)?;
        let server_task = task(&rig.nodes[1], &format!("{name}-t2"), SERVER)?;
        virtual_address(&generator)?;
        let server = Server::start(&server_task, HTTP)?;
        Ok(Self {
            rig,
            generator,
            _server: server,
            _server_task: server_task,
        })
    }
}

/// The bridge and the vxlan device of a node.
fn overlay(node: &Node, peer: &Node, address: &str) -> Result<()> {
    let ns = &node.ns;
    ns.sh(&["ip", "link", "add", "br0", "mtu", MTU, "type", "bridge"])?;
    let (local, remote) = (node.address.to_string(), peer.address.to_string());
    ns.sh(&[
        "ip", "link", "add", "vx0", "mtu", MTU, "type", "vxlan", "id", "4097", "dstport", "4789",
        "local", &local, "remote", &remote, "dev", UPLINK,
    ])?;
    ns.sh(&["ip", "link", "set", "vx0", "master", "br0", "up"])?;
    ns.sh(&["ip", "addr", "add", address, "dev", "br0"])?;
    ns.sh(&["ip", "link", "set", "br0", "up"])?;
    ns.enter(|| Ok(std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?))
}

/// The ports of the node lead to the server task; the way back leads over this node.
fn publish(node: &Node) -> Result<()> {
    let rules = format!(
        "table ip bench {{
            chain pre {{ type nat hook prerouting priority -100; iifname {UPLINK} tcp dport {{ {HTTP}, {ECHO} }} dnat to {SERVER}; }}
            chain post {{ type nat hook postrouting priority 100;
                ct status dnat oifname br0 masquerade; oifname {UPLINK} ip saddr 10.200.0.0/24 masquerade; }}
        }}"
    );
    node.ns.sh(&["nft", &rules]).map(drop)
}

/// A task's namespace on a node's bridge.
fn task(node: &Node, name: &str, address: &str) -> Result<NetNs> {
    let ns = NetNs::new(name)?;
    node.ns.sh(&[
        "ip", "link", "add", "task0", "mtu", MTU, "type", "veth", "peer", "name", "eth0", "mtu",
        MTU, "netns", name,
    ])?;
    node.ns
        .sh(&["ip", "link", "set", "task0", "master", "br0", "up"])?;
    ns.sh(&["ip", "addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
    ns.sh(&["ip", "link", "set", "eth0", "up"])?;
    Ok(ns)
}

/// The service's address, inside the task's namespace.
fn virtual_address(ns: &NetNs) -> Result<()> {
    let rules = format!(
        "table ip bench {{
            chain out {{ type nat hook output priority -100; ip daddr {VIP} dnat to {SERVER}; }}
        }}"
    );
    ns.sh(&["nft", &rules]).map(drop)
}

impl Kernel {
    /// The generator reaches the server by two addresses. A port it has used for one is refused for the other while
    /// the server is in TIME-WAIT, which would be measured as stalls of 8 to 16 ms: each gets its own.
    fn use_ports(&self, range: &str) -> Result<()> {
        let file = "/proc/sys/net/ipv4/ip_local_port_range";
        self.generator.enter(|| Ok(std::fs::write(file, range)?))
    }
}

impl Side for Kernel {
    fn name(&self) -> &'static str {
        table::KERNEL
    }

    fn load(&self, path: Path, load: Load) -> Result<String> {
        let [first, second] = [&self.rig.nodes[0], &self.rig.nodes[1]];
        match path {
            Path::IngressRemote => generate(&self.rig.client, load, &first.address.to_string()),
            Path::IngressLocal => generate(&self.rig.client, load, &second.address.to_string()),
            Path::Overlay => {
                self.use_ports("32768 46883")?;
                generate(&self.generator, load, SERVER)
            }
            Path::Vip => {
                self.use_ports("46884 60999")?;
                generate(&self.generator, load, VIP)
            }
        }
    }
}
