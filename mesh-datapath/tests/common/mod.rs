//! A small world for root tests: namespaces on one LAN, tasks with their links, servers and clients inside.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

pub(crate) mod cgroup;
pub(crate) mod pair;
pub(crate) mod routers;
pub(crate) mod talk;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
    thread,
    time::Duration,
};

use mesh_datapath::{
    Backend, Config, Datapath, Desired, Endpoint, Link, Location, PublishedPort, Service, XdpMode,
    mac_of,
};
use nix::sched::{CloneFlags, setns};

/// VNI of the ingress network in these tests.
pub(crate) const INGRESS: u32 = 4096;
/// IPv6 of the ingress network, of all overlay networks, and of the LAN: the last 32 bits are the IPv4 address.
pub(crate) const INGRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 0);
pub(crate) const OVERLAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 2, 0, 0, 0, 0);
pub(crate) const LAN_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 3, 0, 0, 0, 0);
/// Makes names of namespaces unique.
static COUNTER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

/// Longest wait for an answer that comes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Wait for one that may be lost, or must not come.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);

/// The IPv6 address that goes with `address` on a network.
pub(crate) fn six(prefix: Ipv6Addr, address: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(prefix) | u128::from(u32::from(address)))
}

/// An IPv4 address, and the IPv6 one that goes with it on a network.
pub(crate) fn both(prefix: Ipv6Addr, address: Ipv4Addr) -> [IpAddr; 2] {
    [address.into(), six(prefix, address).into()]
}

/// Runs a command and panics with its words if it fails.
pub(crate) fn sh(line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a command");
    let output = Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|e| panic!("{line}: {e}"));
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The whole chain of an error.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Runs a closure on a thread of its own in the namespace of this name.
pub(crate) fn inside<T: Send>(ns: &str, act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                let file = std::fs::File::open(format!("/run/netns/{ns}"));
                let file = file.expect("the namespace");
                setns(file, CloneFlags::CLONE_NEWNET).expect("setns needs root");
                act()
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A network namespace, deleted on drop.
#[derive(Debug)]
pub(crate) struct Ns(pub(crate) String);

impl Ns {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!(
            "mdp-{}-{}-{name}",
            std::process::id(),
            COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
        );
        sh(&format!("ip netns add {name}"));
        let ns = Self(name);
        ns.sh("ip link set lo up");
        ns
    }

    /// Runs a command inside.
    pub(crate) fn sh(&self, line: &str) -> String {
        sh(&format!("ip netns exec {} {line}", self.0))
    }

    /// Runs a closure on a thread of its own inside.
    pub(crate) fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        inside(&self.0, act)
    }

    /// Index of an interface inside.
    pub(crate) fn index(&self, name: &str) -> u32 {
        self.run(|| nix::net::if_::if_nametoindex(name).expect("the interface"))
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        // What a data plane that could not be opened has pinned; others are removed before.
        let _ = std::fs::remove_dir_all(format!("/sys/fs/bpf/{}", self.0));
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// A bridge with a port per member.
#[derive(Debug)]
pub(crate) struct Lan(Ns);

impl Lan {
    pub(crate) fn new() -> Self {
        let ns = Ns::new("lan");
        ns.sh("ip link add br0 type bridge");
        ns.sh("ip link set br0 up");
        Self(ns)
    }

    /// Plugs `member` in, with `address`/24. The port behaves like a wire: checksums are complete on it, and it
    /// takes what XDP sends.
    pub(crate) fn join(&self, member: &Ns, port: &str, address: Ipv4Addr, wire: bool) {
        self.join_by(member, "eth0", port, address, wire);
    }

    /// As [`Lan::join`], by another interface of the member.
    pub(crate) fn join_by(
        &self,
        member: &Ns,
        interface: &str,
        port: &str,
        address: Ipv4Addr,
        wire: bool,
    ) {
        self.0.sh(&format!(
            "ip link add {port} type veth peer name {interface} netns {}",
            member.0
        ));
        self.0.sh(&format!("ip link set {port} master br0 up"));
        if wire {
            self.0.sh(&format!("ethtool -K {port} gro on tx off"));
        }
        member.sh(&format!("ip addr add {address}/24 dev {interface}"));
        let address = six(LAN_V6, address);
        member.sh(&format!("ip addr add {address}/64 dev {interface} nodad"));
        member.sh(&format!("ip link set {interface} up"));
    }
}

/// A node: namespace, data plane, desired state.
pub(crate) struct Node {
    pub(crate) ns: Ns,
    pub(crate) address: Ipv4Addr,
    pub(crate) config: Config,
    pub(crate) datapath: Option<Datapath>,
    pub(crate) desired: Desired,
}

impl Node {
    pub(crate) fn new(lan: &Lan, name: &str, address: Ipv4Addr, xdp: XdpMode) -> Self {
        let ns = Ns::new(name);
        lan.join(&ns, &format!("p-{name}"), address, xdp == XdpMode::Native);
        ns.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        let mut config = Config::new(format!("/sys/fs/bpf/{}", ns.0));
        config.xdp = xdp;
        let index = ns.index("eth0");
        let desired = Desired {
            uplinks: [index].into(),
            own_addresses: [IpAddr::V4(address), six(LAN_V6, address).into()].into(),
            vtep: Some(IpAddr::V4(address)),
            ingress_vni: INGRESS,
            ingress_prefix: Some(INGRESS_V6),
            ..Desired::default()
        };
        Self {
            ns,
            address,
            config,
            datapath: None,
            desired,
        }
    }

    /// Opens the data plane if need be and applies the desired state.
    pub(crate) fn apply(&mut self) -> mesh_datapath::Report {
        let (config, desired) = (&self.config, &self.desired);
        let datapath = &mut self.datapath;
        self.ns.run(|| {
            if datapath.is_none() {
                *datapath =
                    Some(Datapath::open(config).unwrap_or_else(|e| panic!("{}", chain(&e))));
            }
            let open = datapath.as_mut().expect("opened above");
            open.apply(desired)
                .unwrap_or_else(|e| panic!("{}", chain(&e)))
        })
    }

    /// Counters, for a failed test to show.
    pub(crate) fn counters(&self) -> String {
        let Some(datapath) = &self.datapath else {
            return "closed".to_owned();
        };
        let snapshot = datapath.snapshot().expect("counters");
        let lines = snapshot
            .verdicts
            .iter()
            .chain(&snapshot.drops)
            .filter(|line| line.packets > 0);
        lines
            .map(|line| format!("{} {} {}", line.place, line.name, line.packets))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.datapath.take());
        let config = &self.config;
        let _ = self.ns.run(|| Datapath::remove(config));
    }
}

/// A task: namespace, overlay address, gateway address.
pub(crate) struct Task {
    pub(crate) ns: Ns,
    pub(crate) name: String,
    pub(crate) overlay: Ipv4Addr,
    pub(crate) gateway: Ipv4Addr,
}

impl Task {
    /// Makes a task on `node`: links, addresses, routes, and its entries in the node's desired state.
    pub(crate) fn new(
        node: &mut Node,
        name: &str,
        vni: u32,
        overlay: Ipv4Addr,
        gateway: Ipv4Addr,
    ) -> Self {
        let ns = Ns::new(name);
        let (over, gate) = (format!("o-{name}"), format!("g-{name}"));
        for (host, inner, address) in [(&over, "eth0", overlay), (&gate, "eth1", gateway)] {
            let mac = mac_text(address);
            node.ns.sh(&format!(
                "ip link add {host} mtu 1450 type veth peer name {inner} mtu 1450 address {mac} netns {}",
                ns.0
            ));
            node.ns.sh(&format!("ip link set {host} up"));
        }
        ns.sh(&format!("ip addr add {overlay}/20 dev eth0"));
        ns.sh(&format!("ip addr add {gateway}/32 dev eth1"));
        let (overlay_v6, gateway_v6) = (six(OVERLAY_V6, overlay), six(INGRESS_V6, gateway));
        ns.sh(&format!("ip addr add {overlay_v6}/64 dev eth0 nodad"));
        ns.sh(&format!("ip addr add {gateway_v6}/128 dev eth1 nodad"));
        for link in ["eth0", "eth1"] {
            // As the agent does: no tunnel takes what is left to a device to divide.
            ns.sh(&format!("ethtool -K {link} tx-sctp-segmentation off"));
            ns.sh(&format!("ip link set {link} up"));
        }
        ns.sh("ip route add default via 169.254.1.1 dev eth1 onlink");
        ns.sh(&format!(
            "ip route add default via fe80::1 dev eth1 onlink src {gateway_v6}"
        ));
        node.ns.sh(&format!("ip route add {gateway}/32 dev {gate}"));
        let (over, gate) = (node.ns.index(&over), node.ns.index(&gate));
        let (o, g) = (IpAddr::V4(overlay), IpAddr::V4(gateway));
        let links = &mut node.desired.links;
        links.insert(
            over,
            Link::Overlay {
                vni,
                prefix: Some(OVERLAY_V6),
                address: o,
                mac: mac_of(o),
                encrypted: false,
            },
        );
        links.insert(
            gate,
            Link::Gateway {
                address: g,
                mac: mac_of(g),
            },
        );
        let endpoint = |address, index| Endpoint {
            mac: mac_of(address),
            location: Location::Local(index),
            encrypted: false,
        };
        node.desired.endpoints.insert((vni, o), endpoint(o, over));
        node.desired
            .endpoints
            .insert((INGRESS, g), endpoint(g, gate));
        Self {
            ns,
            name: name.to_owned(),
            overlay,
            gateway,
        }
    }

    /// Answers on `port`: see [`talk::serve`].
    pub(crate) fn serve(&self, port: u16) {
        talk::serve(&self.ns, &self.name, port);
    }
}

/// The MAC of an address as text.
fn mac_text(address: Ipv4Addr) -> String {
    mac_of(IpAddr::V4(address))
        .map(|b| format!("{b:02x}"))
        .join(":")
}

/// A service published on `published` and with a virtual address on `vni`, its backends being `tasks`.
pub(crate) fn service(
    published: u16,
    target: u16,
    (vni, vip): (u32, Ipv4Addr),
    tasks: &[&Task],
) -> Service {
    let backends = |address: fn(&Task) -> Ipv4Addr| -> Vec<Backend> {
        tasks
            .iter()
            .map(|task| Backend {
                address: address(task).into(),
                draining: false,
            })
            .collect()
    };
    Service {
        name: format!("s{published}"),
        vips: BTreeMap::from([((vni, IpAddr::V4(vip)), backends(|task| task.overlay))]),
        ports: [6, 17]
            .map(|protocol| PublishedPort {
                protocol,
                published,
                target,
            })
            .into(),
        ingress: backends(|task| task.gateway),
        ..Service::default()
    }
}

/// Tells every node of all others' tasks, and that they are peers.
pub(crate) fn introduce(nodes: &mut [Node]) {
    let mut all = Vec::new();
    for node in nodes.iter() {
        for (key, endpoint) in &node.desired.endpoints {
            if matches!(endpoint.location, Location::Local(_)) {
                all.push((node.address, *key, endpoint.mac));
            }
        }
    }
    let addresses: Vec<Ipv4Addr> = nodes.iter().map(|n| n.address).collect();
    for node in nodes {
        for peer in addresses.iter().filter(|a| **a != node.address) {
            node.desired.peers.insert(IpAddr::V4(*peer), None);
        }
        for (owner, key, mac) in all.iter().filter(|(owner, ..)| *owner != node.address) {
            let location = Location::Remote(IpAddr::V4(*owner));
            node.desired.endpoints.insert(
                *key,
                Endpoint {
                    mac: *mac,
                    location,
                    encrypted: false,
                },
            );
        }
    }
}
