//! Links for real, in namespaces of this test's own: what a task sees and what the node sees.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    process::Command,
};

use mesh_agent::links::{
    egress::{self, Egress, HostPort},
    host::Host,
    local_pool::{POOLS, choose},
    netns,
    plan::{LinkKind, TaskLink, host_name, host_prefix, mac_of},
    task,
};

/// A directory of namespaces, unmounted at the end whatever happens.
struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.0.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = netns::remove(&entry.path());
        }
    }
}

/// Runs `test` on a thread in a network namespace of its own: the node of the test.
fn as_node<F: Future<Output = ()>>(world: &World, test: impl FnOnce() -> F + Send + 'static) {
    let node = world.path("node");
    netns::create(&node).expect("the node's namespace; are you root?");
    netns::within(&node, move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(test());
        Ok(())
    })
    .expect("the test");
}

fn links(task: &str) -> Vec<TaskLink> {
    let link = |index: usize, address: Ipv4Addr, prefix, kind| TaskLink {
        host_name: host_name("test", task, index),
        task_name: format!("eth{index}"),
        address,
        prefix,
        v6: Some((
            Ipv6Addr::from((0xfd00 << 112) | u128::from(u32::from(address))),
            if prefix == 32 { 128 } else { 64 },
        )),
        mac: mac_of(address),
        kind,
    };
    vec![
        link(
            0,
            Ipv4Addr::new(10, 0, 16, 3),
            20,
            LinkKind::Overlay {
                network: "net".into(),
            },
        ),
        link(1, Ipv4Addr::new(172, 31, 0, 2), 32, LinkKind::Gateway),
    ]
}

async fn connect(host: &Host, path: &std::path::Path, links: &[TaskLink]) {
    netns::create(path).expect("namespace");
    for link in links {
        host.create_pair(link, path, 1450).await.expect("veth pair");
    }
    task::configure(path, links.to_vec()).await.expect("inside");
    let view = host.observe().await.expect("observe");
    for link in links {
        let index = view.interfaces[&link.host_name].index;
        host.configure_host_end(link, index)
            .await
            .expect("host end");
    }
}

/// A datagram from a task to its node, and back: again and again until one arrives, as the kernel is told of an address
/// before it has the route to it.
async fn talk(path: &std::path::Path, task: IpAddr, node: IpAddr) {
    const TRIES: usize = 100;
    let patience = Some(std::time::Duration::from_millis(100));
    let server = UdpSocket::bind((node, 0)).expect("a socket of the node");
    let port = server.local_addr().expect("its address").port();
    server.set_read_timeout(patience).expect("a deadline");
    let client = netns::within_async(path, move || {
        let client = UdpSocket::bind((task, 0))?;
        client.set_read_timeout(patience)?;
        Ok(client)
    })
    .await
    .expect("a socket of the task");
    let mut buffer = [0; 16];
    let arrived = (0..TRIES).find_map(|_| {
        client.send_to(b"ping", (node, port)).ok()?;
        server.recv_from(&mut buffer).ok()
    });
    let (length, from) = arrived.expect("the datagram");
    assert_eq!((&buffer[..length], from.ip()), (&b"ping"[..], task));
    let answered = (0..TRIES).find_map(|_| {
        server.send_to(b"pong", from).ok()?;
        client.recv(&mut buffer).ok()
    });
    let length = answered.expect("the answer");
    assert_eq!(&buffer[..length], b"pong");
}

/// What an interface of this thread's namespace does by itself.
fn features(interface: &str) -> String {
    let output = Command::new("ethtool").args(["-k", interface]).output();
    String::from_utf8_lossy(&output.expect("ethtool").stdout).into_owned()
}

fn ip(line: &str) {
    let done = Command::new("ip").args(line.split(' ')).status();
    assert!(done.expect("ip").success(), "{line}");
}

#[test]
fn a_pool_takes_nothing_that_the_node_needs() {
    let world = World::new();
    let path = world.path("task");
    as_node(&world, move || async move {
        let host = Host::connect().expect("netlink");
        connect(&host, &path, &links("t")).await;
        let prefix = host_prefix("test");
        let own = host.occupied(&prefix).await.expect("what is occupied");
        assert_eq!(own, [], "the task's own address is the mesh's");
        for line in [
            "link add up0 type veth peer name up1",
            "link set up0 up",
            "address add 172.31.16.5/20 dev up0",
            "route add 172.30.255.0/24 dev up0",
            "route add blackhole 192.168.0.0/16",
            "route add default dev up0",
        ] {
            ip(line);
        }
        let occupied = host.occupied(&prefix).await.expect("what is occupied");
        let told: Vec<_> = occupied.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "the address 172.31.16.5/20 of up0",
                "the route to 172.30.255.0/24 on up0",
                "the route to 172.31.16.0/20 on up0",
            ]
        );
        assert_eq!(choose(None, &occupied), Ok(POOLS[2]));
    });
}

#[test]
fn interfaces_without_ethernet_headers_are_told_apart() {
    let world = World::new();
    as_node(&world, || async {
        for line in [
            "tuntap add tun0 mode tun",
            "tuntap add tap0 mode tap",
            "link add up0 type veth peer name up1",
        ] {
            ip(line);
        }
        let host = Host::connect().expect("netlink");
        let view = host.observe().await.expect("observe");
        let of = |name: &str| view.interfaces[name].ethernet;
        assert_eq!(["tap0", "up0", "tun0"].map(of), [true, true, false]);
    });
}

#[test]
fn a_task_has_its_links_and_reaches_the_node() {
    let world = World::new();
    let path = world.path("task");
    as_node(&world, move || async move {
        let host = Host::connect().expect("netlink");
        let links = links("t");
        // Twice: everything is idempotent.
        connect(&host, &path, &links).await;
        connect(&host, &path, &links).await;

        let view = host.observe().await.expect("observe");
        let gateway = &view.interfaces[&links[1].host_name];
        assert!(gateway.up && gateway.mtu == 1450);
        assert_eq!(
            view.host_routes.get(&links[1].address.into()),
            Some(&gateway.index)
        );
        let (six, _) = links[1].v6.expect("an address");
        assert_eq!(view.host_routes.get(&six.into()), Some(&gateway.index));
        let prefix = host_prefix("test");
        let own = view.interfaces.keys().filter(|n| n.starts_with(&prefix));
        assert_eq!(own.count(), 2);

        let inside = netns::within_async(&path, || {
            let ip = |arguments: &[&str]| {
                let output = Command::new("ip").args(arguments).output()?;
                Ok::<_, std::io::Error>(String::from_utf8_lossy(&output.stdout).into_owned())
            };
            Ok((
                ip(&["-br", "link"])?,
                ip(&["-br", "-4", "address"])?,
                ip(&["route"])?,
                ip(&["-br", "-6", "address"])?,
                ip(&["-6", "route"])?,
                std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")?,
                ["eth0", "eth1"].map(features),
            ))
        })
        .await
        .expect("look inside");
        assert!(inside.0.contains("02:42:0a:00:10:03"), "{}", inside.0);
        assert!(
            inside.1.contains("10.0.16.3/20") && inside.1.contains("172.31.0.2/32"),
            "{}",
            inside.1
        );
        assert!(
            inside.2.contains("default via 169.254.1.1 dev eth1"),
            "{}",
            inside.2
        );
        let six = &inside.3;
        assert!(
            six.contains("fd00::a00:1003/64") && six.contains("fd00::ac1f:2/128"),
            "{six}"
        );
        assert!(
            inside.4.contains("default via fe80::1 dev eth1"),
            "{}",
            inside.4
        );
        assert_eq!(inside.5.trim(), "0");
        for features in inside.6 {
            assert!(
                features.contains("tx-sctp-segmentation: off\n"),
                "{features}"
            );
        }

        // Through the gateway link, without any packet path: task to node and back.
        ip("link set lo up");
        for (task, node) in [("172.31.0.2", "172.31.0.1"), ("fd00::ac1f:2", "fd01::1")] {
            // The node needs an address of its own for the task to send to, and at once.
            ip(&format!("address add {node} dev lo nodad"));
            talk(&path, task.parse().expect(task), node.parse().expect(node)).await;
        }

        host.delete(gateway.index).await.expect("delete");
        host.delete(gateway.index).await.expect("delete again");
        netns::remove(&path).expect("remove");
        netns::remove(&path).expect("remove again");
        assert!(!netns::exists(&path));
    });
}

/// Egress of a node whose TCP port 8080 leads to port 80 of the task of `links`, which answers `::1` by its gateway link.
fn wanted() -> Egress {
    Egress {
        sources: ["172.31.0.0/16", "fd00::/64"]
            .map(|subnet| subnet.parse().expect("a subnet"))
            .into(),
        host_ports: ["172.31.0.2", "fd00::ac1f:2"]
            .map(|address| HostPort {
                protocol: 6,
                published: 8080,
                address: address.parse().expect("an address"),
                target: 80,
            })
            .into(),
        loopback_v6: Some("fd02::7f00:1".parse().expect("an address")),
    }
}

/// Connects a task to a port of its node until it is answered, and gives whom the task's own port 80 has accepted.
async fn call_itself(path: &std::path::Path, node: SocketAddr) -> IpAddr {
    const TRIES: usize = 30;
    let patience = std::time::Duration::from_millis(200);
    let caller = netns::within_async(path, move || {
        let every = if node.is_ipv4() {
            IpAddr::from(Ipv4Addr::UNSPECIFIED)
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let server = TcpListener::bind((every, 80))?;
        let answered = (0..TRIES).find_map(|_| {
            let answered = TcpStream::connect_timeout(&node, patience);
            // Refused at once: the kernel may not have the route yet to an address that it was just given.
            let answered = answered.inspect_err(|_| std::thread::sleep(patience / 4));
            answered.ok()
        });
        answered.ok_or(std::io::ErrorKind::TimedOut)?;
        Ok(server.accept()?.1.ip())
    });
    caller.await.expect("the task's call of itself")
}

#[test]
fn a_task_reaches_itself_by_a_port_of_its_node() {
    let world = World::new();
    let path = world.path("task");
    as_node(&world, move || async move {
        let host = Host::connect().expect("netlink");
        connect(&host, &path, &links("t")).await;
        for forwarding in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{forwarding}"), "1").expect(forwarding);
        }
        ip("link set lo up");
        let script = egress::script("test", &host_prefix("test"), &wanted());
        egress::apply(&script).await.expect("apply");
        // Not from its own address, which its kernel would take for a forged one.
        for (node, seen) in [("172.31.0.1", "172.31.0.1"), ("fd01::1", "fd02::7f00:1")] {
            ip(&format!("address add {node} dev lo nodad"));
            let node = SocketAddr::new(node.parse().expect(node), 8080);
            let caller = call_itself(&path, node).await;
            assert_eq!(caller.to_string(), seen);
        }
        egress::apply(&egress::removal("test"))
            .await
            .expect("remove");
    });
}

#[test]
fn the_egress_table_comes_and_goes() {
    let world = World::new();
    as_node(&world, || async {
        let wanted = wanted();
        let script = egress::script("test", &host_prefix("test"), &wanted);
        egress::apply(&script).await.expect("apply");
        egress::apply(&script).await.expect("apply again");
        assert!(egress::exists("test").await);
        egress::apply(&egress::removal("test"))
            .await
            .expect("remove");
        egress::apply(&egress::removal("test"))
            .await
            .expect("remove again");
        assert!(!egress::exists("test").await);
        let error = egress::apply("nonsense\n").await.expect_err("refused");
        assert!(error.to_string().contains("syntax error"), "{error}");
    });
}
