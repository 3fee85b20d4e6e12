//! The packet path alone: programs and maps filled by hand, no agent. Three nodes, a task on n2 and one on n3,
//! each with an overlay link and a gateway link; the client and a task ask for them.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use mesh_datapath::{
    Backend, Config, Datapath, Desired, Endpoint, Link, Location, PublishedPort, Service, XdpMode,
    mac_of,
};
use mesh_tests::{NetNs, Node, Rig, client, http_get, lan, outside::Server, rig};

const INGRESS_VNI: u32 = 4096;
const OVERLAY_VNI: u32 = 4097;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 2);

/// A task's namespace and addresses.
struct Task {
    ns: NetNs,
    node: usize,
    overlay: Ipv4Addr,
    ingress: Ipv4Addr,
}

fn mac(address: Ipv4Addr) -> String {
    let bytes = mac_of(address.into());
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

fn index(node: &Node, name: &str) -> Result<u32> {
    node.ns.enter(|| Ok(nix::net::if_::if_nametoindex(name)?))
}

/// Makes a task's namespace with both links, as the agent does.
fn task(world: &Rig, node: usize, number: u8) -> Result<Task> {
    let host = &world.nodes[node];
    let ns = NetNs::new(&format!("{}-task", host.ns.name()))?;
    let overlay = Ipv4Addr::new(10, 0, 16, number);
    let ingress = Ipv4Addr::new(10, 0, 0, number);
    for (name, end, address, prefix) in
        [("over", "eth0", overlay, 20), ("gate", "eth1", ingress, 32)]
    {
        host.ns.sh(&[
            "ip",
            "link",
            "add",
            name,
            "mtu",
            "1450",
            "address",
            "02:42:a9:fe:01:01",
            "type",
            "veth",
            "peer",
            "name",
            end,
            "mtu",
            "1450",
            "address",
            &mac(address),
            "netns",
            ns.name(),
        ])?;
        host.ns.sh(&["ip", "link", "set", name, "up"])?;
        ns.sh(&[
            "ip",
            "addr",
            "add",
            &format!("{address}/{prefix}"),
            "dev",
            end,
        ])?;
        ns.sh(&["ip", "link", "set", end, "up"])?;
    }
    let to = ingress.to_string();
    host.ns.sh(&[
        "ip",
        "neigh",
        "add",
        &to,
        "lladdr",
        &mac(ingress),
        "dev",
        "gate",
    ])?;
    host.ns
        .sh(&["ip", "route", "add", &to, "dev", "gate", "scope", "link"])?;
    ns.sh(&[
        "ip",
        "route",
        "add",
        "default",
        "via",
        "169.254.1.1",
        "dev",
        "eth1",
        "onlink",
        "src",
        &to,
    ])?;
    Ok(Task {
        ns,
        node,
        overlay,
        ingress,
    })
}

fn desired(world: &Rig, tasks: &[Task], own: usize) -> Result<Desired> {
    let node = &world.nodes[own];
    let address = IpAddr::from(node.address);
    let mut desired = Desired {
        vtep: Some(address),
        ingress_vni: INGRESS_VNI,
        ..Desired::default()
    };
    desired.uplinks.insert(index(node, lan::UPLINK)?);
    desired.own_addresses.insert(address);
    let mut web = Service {
        name: "web".to_owned(),
        ..Service::default()
    };
    for other in world
        .nodes
        .iter()
        .filter(|other| other.address != node.address)
    {
        desired.peers.insert(other.address.into());
    }
    for task in tasks {
        for (vni, address, link) in [
            (OVERLAY_VNI, task.overlay, "over"),
            (INGRESS_VNI, task.ingress, "gate"),
        ] {
            let mac = mac_of(address.into());
            let location = if task.node == own {
                let index = index(node, link)?;
                let link = if vni == OVERLAY_VNI {
                    Link::Overlay {
                        vni,
                        address: address.into(),
                        mac,
                        prefix: None,
                        encrypted: false,
                    }
                } else {
                    Link::Gateway {
                        address: address.into(),
                        mac,
                    }
                };
                desired.links.insert(index, link);
                Location::Local(index)
            } else {
                Location::Remote(world.nodes[task.node].address.into())
            };
            desired.endpoints.insert(
                (vni, address.into()),
                Endpoint {
                    mac,
                    location,
                    encrypted: false,
                },
            );
        }
        let backend = |address: Ipv4Addr| Backend {
            address: address.into(),
            draining: false,
        };
        web.ingress.push(backend(task.ingress));
        web.vips
            .entry((OVERLAY_VNI, VIP.into()))
            .or_default()
            .push(backend(task.overlay));
    }
    for protocol in [6, 17] {
        web.ports.insert(PublishedPort {
            protocol,
            published: 8080,
            target: 80,
        });
    }
    desired.services.insert("web".to_owned(), web);
    Ok(desired)
}

fn config(node: &Node, xdp: XdpMode) -> Config {
    Config {
        xdp,
        ..Config::new(format!("/sys/fs/bpf/mesh/{}", node.instance))
    }
}

fn apply(world: &Rig, tasks: &[Task], xdp: XdpMode) -> Result<()> {
    for (own, node) in world.nodes.iter().enumerate() {
        node.ns
            .enter(|| Ok(std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?))?;
        let desired = desired(world, tasks, own)?;
        node.ns
            .enter(|| {
                let mut datapath = Datapath::open(&config(node, xdp))?;
                datapath.apply(&desired)?;
                let again = datapath.apply(&desired)?;
                ensure!(again.is_empty(), "the second time changed {again:?}");
                Ok(())
            })
            .with_context(|| format!("data plane of {}", node.name))?;
    }
    Ok(())
}

#[test]
fn the_packet_path_works_with_tc_alone() {
    packet_path("dptc", XdpMode::Off);
}

#[test]
fn the_packet_path_works_with_native_xdp_on_the_uplinks() {
    packet_path("dpxdp", XdpMode::Native);
}

fn packet_path(name: &str, xdp: XdpMode) {
    let world = Rig::builder(&rig::test_name(name)).world().unwrap();
    let tasks = [task(&world, 1, 12).unwrap(), task(&world, 2, 13).unwrap()];
    let _admitted: Vec<_> = world
        .nodes
        .iter()
        .filter(|_| xdp == XdpMode::Native)
        .map(|node| world.lan.admit_xdp(&node.port).unwrap())
        .collect();
    apply(&world, &tasks, xdp).unwrap();
    let _servers = tasks
        .each_ref()
        .map(|task| Server::start(&task.ns, 80).unwrap());
    let mut failed = Vec::new();
    let mut check = |name: &str, result: Result<()>| {
        if let Err(error) = result {
            failed.push(format!("{name}: {error:#}"));
        }
    };
    for node in &world.nodes {
        let name = &node.name;
        check(
            &format!("published port of {name}"),
            published(&world, node),
        );
        check(&format!("datagrams by {name}"), datagrams(&world, node));
        check(&format!("own processes of {name}"), own(node));
    }
    for (from, to) in [(0, 1), (1, 0)] {
        let what = |kind: &str| format!("{kind}, task {from} to {to}");
        check(&what("overlay"), ask(&tasks[from], tasks[to].overlay));
        check(&what("own vip"), ask(&tasks[from], VIP));
        check(&what("echo"), ping(&tasks[from], tasks[to].overlay));
        check(&what("echo of the vip"), ping(&tasks[from], VIP));
        check(&what("bulk"), bulk(&tasks[from], tasks[to].overlay));
    }
    for node in &world.nodes {
        node.ns
            .enter(|| Ok(Datapath::remove(&config(node, xdp))?))
            .unwrap();
    }
    assert!(failed.is_empty(), "failed:\n{}", failed.join("\n"));
}

fn published(world: &Rig, node: &Node) -> Result<()> {
    world.client.enter(|| {
        for number in 0..20 {
            let reply =
                http_get(node.address, 8080, "/").with_context(|| format!("request {number}"))?;
            reply.client()?;
        }
        let reply = http_get(node.address, 8080, "/bytes/3000000")?;
        ensure!(reply.body.len() == 3_000_000);
        Ok(())
    })
}

fn datagrams(world: &Rig, node: &Node) -> Result<()> {
    let back = world
        .client
        .enter(|| client::udp_echo(node.address, 8080, 20))?;
    ensure!(back == 20, "{back} of 20 came back");
    Ok(())
}

fn own(node: &Node) -> Result<()> {
    for address in [Ipv4Addr::LOCALHOST, node.address] {
        node.ns
            .enter(|| http_get(address, 8080, "/").map(drop))
            .with_context(|| address.to_string())?;
    }
    Ok(())
}

fn ask(task: &Task, address: Ipv4Addr) -> Result<()> {
    task.ns.enter(|| {
        for _ in 0..10 {
            http_get(address, 80, "/")?.replica()?;
        }
        Ok(())
    })
}

fn ping(task: &Task, address: Ipv4Addr) -> Result<()> {
    let to = address.to_string();
    task.ns
        .sh(&["busybox", "ping", "-c", "2", "-W", "3", &to])
        .map(drop)
}

fn bulk(task: &Task, address: Ipv4Addr) -> Result<()> {
    let reply = task.ns.enter(|| http_get(address, 80, "/bytes/3000000"))?;
    ensure!(reply.body.len() == 3_000_000);
    Ok(())
}
