//! What a node finds out about itself: its kernel, its packet path, its uplinks.

use std::net::{IpAddr, Ipv4Addr};

use mesh_api::proto::{Finding, Level};
use mesh_datapath::{Fill, ReturnPath, ReturnState, Room, Uplink, UplinkMode};
use mesh_wireguard::Backend;

use crate::{
    assignment::Assignment,
    links::{
        egress,
        host::{Host, Interface},
        sysctl,
    },
    node::Node,
    reconcile::{self, cipher},
};

/// The oldest kernel that has all that is needed.
const OLDEST: (u32, u32) = (6, 1);

/// From here on a table is of open flows. The rest are notes beside them, and what each processor keeps free.
const CROWDED_PERCENT: u64 = 90;

/// What helps where a service has published WireGuard's port.
const OTHER_PORT: &str = "publish another one, or start the agent with another --wireguard-port";

/// Looks at everything.
pub(super) async fn look(node: &Node) -> Vec<Finding> {
    let mut findings = kernel();
    let reader = node.clone();
    let read = move || {
        reader.read_datapath(|datapath| {
            Ok((datapath.uplinks()?, datapath.has_hooks(), datapath.room()))
        })
    };
    let read = match tokio::task::spawn_blocking(read).await {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match read {
        Ok(Some((uplinks, hooks, room))) => {
            findings.push(sockets(hooks));
            findings.push(tables(&room));
            if uplinks.is_empty() {
                let found = "no interface faces the other nodes";
                findings.push(fault("uplink", "", found, "give an interface an address"));
            }
            findings.extend(uplinks.iter().map(uplink));
        }
        Ok(None) => findings.push(fault(
            "kernel",
            "packet path",
            "not open",
            "see the log of the node's agent",
        )),
        Err(error) => findings.push(fault(
            "kernel",
            "packet path",
            &error,
            "see the log of the node's agent",
        )),
    }
    findings.extend(without_ethernet(node).await);
    findings.extend(node.returns().iter().map(returns));
    if !egress::exists(node.instance()).await {
        findings.push(fault(
            "kernel",
            "nftables",
            "the agent's tables are gone: tasks do not reach the outside",
            "see what flushes the rule set, then restart the agent",
        ));
    }
    let assignment = node.assignment();
    let reader = node.clone();
    let status = tokio::task::spawn_blocking(move || reader.encryption()).await;
    let status = status.ok().flatten();
    let (wanted, port) = (node.config().wireguard, node.config().wireguard_port);
    findings.extend(encryption(&assignment, status.as_ref(), wanted, port));
    if let (Some(cluster), Some(status)) = (node.state().cluster(), &status) {
        let found = cipher::not_taken(&assignment, &cluster.node_id, status);
        findings.extend(found.map(|found| not_taken(&found)));
    }
    if let Some(IpAddr::V4(own)) = super::own_address(node)
        && status.is_some_and(|status| status.user_space.is_none())
    {
        let others = cipher::others(&assignment, own);
        let wrong = mesh_wireguard::other_sources(own, &others);
        findings.extend(wrong.iter().map(|(to, from)| wrong_source(*to, *from, own)));
    }
    findings
}

/// The interfaces that the packet path leaves alone, though they have addresses or lead to others.
async fn without_ethernet(node: &Node) -> Vec<Finding> {
    let host = async { Host::connect()?.observe().await };
    match host.await {
        Ok(host) => reconcile::without_ethernet(&host, node.instance())
            .into_iter()
            .map(|interface| no_ethernet(interface, super::own_address(node)))
            .collect(),
        Err(error) => vec![fault(
            "uplink",
            "",
            &format!("interfaces cannot be read: {error}"),
            "see the log of the node's agent",
        )],
    }
}

fn no_ethernet(interface: &Interface, data_path: Option<IpAddr>) -> Finding {
    let name = &interface.name;
    if let Some(address) = data_path.filter(|address| interface.holds(*address)) {
        let found = format!(
            "no Ethernet headers, and the data path address {address}: its tasks and other nodes' do not reach each other"
        );
        let remedy = "let the node leave, and join with --data-path-addr of an Ethernet interface";
        return fault("uplink", name, &found, remedy);
    }
    warning(
        "uplink",
        name,
        "no Ethernet headers: published ports do not answer to what comes in here",
        "have clients that want them come by an Ethernet interface",
    )
}

/// Nobody sends by a key that nobody is told.
fn not_taken(found: &str) -> Finding {
    let remedy = "give each node an address of its own (--data-path-addr), then restart this node's agent, which tells its key anew";
    fault("encryption", "key", found, remedy)
}

/// The kernel's WireGuard sends from where the route says.
fn wrong_source(to: Ipv4Addr, from: Ipv4Addr, own: Ipv4Addr) -> Finding {
    warning(
        "encryption",
        &format!("with {to}"),
        &cipher::wrong_source(to, from, own),
        &format!("give the route the source {own}, or start the agent with --wireguard user"),
    )
}

/// Whether encrypted networks of this node reach the other nodes that have some. `backend` and `port` are what its agent was
/// started with.
fn encryption(
    assignment: &Assignment,
    status: Option<&mesh_wireguard::Status>,
    backend: Backend,
    port: u16,
) -> Vec<Finding> {
    let published = cipher::published(assignment);
    let Some(status) = status else {
        let is_wanted = assignment.networks.values().any(|n| n.encrypted);
        let nothing = "nothing goes to other nodes on encrypted networks";
        let finding = match published.get(&port) {
            None => fault("encryption", "", nothing, "see the log of the node's agent"),
            Some(published) => fault(
                "encryption",
                "",
                &format!("{nothing}: {published}"),
                OTHER_PORT,
            ),
        };
        return is_wanted.then_some(finding).into_iter().collect();
    };
    let own = match status.why_user_space(backend) {
        None => ok("encryption", "", "by the kernel's WireGuard"),
        Some(why) => ok(
            "encryption",
            "",
            &format!("by WireGuard in user space, not the kernel's: {why}"),
        ),
    };
    let remedy =
        "see what has it (ss -ulnp, service ls), or start the agent with another --wireguard-port";
    let stays = cipher::stays(status, port, &published);
    let stays = stays.map(|found| warning("encryption", "port", &found, remedy));
    let swallowed = cipher::swallowed(status, &published).into_iter();
    let swallowed =
        swallowed.map(|(level, found)| finding(level, "encryption", "port", &found, OTHER_PORT));
    let peers = status.peers.iter().map(|peer| {
        let subject = format!("with {}", peer.address);
        if peer.proved {
            return ok("encryption", &subject, "keys agreed upon");
        }
        let (port, next) = (status.port, status.next_port);
        let ports = match next == port {
            true => port.to_string(),
            false => format!("{} and {}", port.min(next), port.max(next)),
        };
        let remedy = format!("see whether it is up, and let UDP {ports} through");
        warning(
            "encryption",
            &subject,
            "no answer to the present key yet",
            &remedy,
        )
    });
    let own = std::iter::once(own).chain(stays);
    own.chain(swallowed).chain(peers).collect()
}

fn kernel() -> Vec<Finding> {
    let release = nix::sys::utsname::uname().map_or_else(
        |_| String::new(),
        |name| name.release().to_string_lossy().into_owned(),
    );
    let mut findings = Vec::new();
    if version(&release).is_some_and(|version| version < OLDEST) {
        let (major, minor) = OLDEST;
        let remedy = format!("run Linux {major}.{minor} or newer");
        findings.push(fault("kernel", &release, "too old", &remedy));
    } else {
        findings.push(ok("kernel", &release, "new enough"));
    }
    if sysctl::get("net/core/bpf_jit_enable").as_deref() == Some("0") {
        findings.push(warning(
            "kernel",
            "BPF compiler",
            "off: every packet costs several times as much",
            "sysctl net.core.bpf_jit_enable=1",
        ));
    }
    if sysctl::get("net/ipv4/ip_forward").as_deref() == Some("0") {
        findings.push(warning(
            "kernel",
            "forwarding",
            "off: tasks do not reach the outside",
            "sysctl net.ipv4.ip_forward=1, and see what sets it to 0",
        ));
    }
    findings
}

/// Major and minor number.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn sockets(hooks: bool) -> Finding {
    if hooks {
        return ok("kernel", "sockets", "virtual addresses are settled there");
    }
    warning(
        "kernel",
        "sockets",
        "virtual addresses are translated packet by packet",
        "see why the agent's log says that socket programs are not attached; cgroup v2 has to be mounted",
    )
}

fn tables(room: &Room) -> Finding {
    let subject = "tables";
    if !room.full.is_empty() {
        let full = room.full.iter();
        let full = full.map(|full| format!("{} ({} left out)", full.table, full.left_out));
        let found = format!("full: {}", full.collect::<Vec<_>>().join(", "));
        let remedy = "remove services or networks: these tables do not grow";
        return fault("kernel", subject, &found, remedy);
    }
    if room.missing_rows != 0 || room.backends_left_out != 0 {
        let found = format!(
            "full: {} ports and addresses miss a row, {} backends an entry, and get no flows",
            room.missing_rows, room.backends_left_out
        );
        let remedy = "give the agent more --row-memory or --backend-entries";
        return fault("kernel", subject, &found, remedy);
    }
    if room.refused_rows != 0 {
        let found = format!(
            "the kernel does not take the rows of {} ports and addresses, whose new tasks get no flows",
            room.refused_rows
        );
        return fault("kernel", subject, &found, "the agent's log says why");
    }
    if room.short_rows != 0 {
        let found = format!(
            "nearly full: {} ports and addresses are spread less evenly",
            room.short_rows
        );
        return warning(
            "kernel",
            subject,
            &found,
            "give the agent more --row-memory",
        );
    }
    ok("kernel", subject, "have room")
}

/// Tables whose entries make room for one another while nearly all of them are in use, with so many open flows of tasks.
/// (What has ended stays until its room is wanted: that a table is full, or has evicted, says nothing yet.)
pub(super) fn crowded(fill: &[Fill], open: usize) -> Option<Finding> {
    let flows = fill.iter().find(|table| table.table == "flows")?;
    let is_crowded = open as u64 * 100 >= u64::from(flows.capacity) * CROWDED_PERCENT;
    (flows.evicted > 0 && is_crowded).then(|| {
        let found = format!(
            "{open} open flows of tasks in a table of {} make room for one another ({} so far)",
            flows.capacity, flows.evicted
        );
        let remedy = "give the agent more --flow-entries, and restart the machine";
        warning("kernel", "flows", &found, remedy)
    })
}

fn uplink(uplink: &Uplink) -> Finding {
    let name = mesh_datapath::interface_or_index(uplink.ifindex);
    match &uplink.mode {
        UplinkMode::Xdp => ok("uplink", &name, "native XDP"),
        UplinkMode::Off => ok("uplink", &name, "tc, as --xdp off says"),
        UplinkMode::Virtual(kind) => {
            let found = format!("tc: native XDP would slow a {kind} link down");
            ok("uplink", &name, &found)
        }
        UplinkMode::Refused(why) => warning(
            "uplink",
            &name,
            &format!("tc: {why}"),
            "a program of others can be taken off (`bpftool net`); a driver without XDP is as good as it gets: --xdp off",
        ),
    }
}

fn returns(path: &ReturnPath) -> Finding {
    let subject = format!("under {}", path.address);
    let state = path.state.to_string();
    let remedy = match path.state {
        ReturnState::Direct => return ok("return", &subject, &state),
        ReturnState::Trying => "ask again in some seconds",
        ReturnState::Silent => "see whether the agent of that node runs, and knows the service",
        ReturnState::Lost => {
            "have switches, hypervisors and routers between the nodes let this node send under that address (port \
             security, source checks, rp_filter), or give up the label mesh.return=dsr"
        }
    };
    let found = format!("replies go back through {}: {state}", path.peer);
    warning("return", &subject, &found, remedy)
}

fn ok(check: &str, subject: &str, found: &str) -> Finding {
    finding(Level::Ok, check, subject, found, "")
}

fn warning(check: &str, subject: &str, found: &str, remedy: &str) -> Finding {
    finding(Level::Warning, check, subject, found, remedy)
}

fn fault(check: &str, subject: &str, found: &str, remedy: &str) -> Finding {
    finding(Level::Fault, check, subject, found, remedy)
}

fn finding(level: Level, check: &str, subject: &str, found: &str, remedy: &str) -> Finding {
    Finding {
        level: level.into(),
        check: check.to_owned(),
        subject: subject.to_owned(),
        found: found.to_owned(),
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use mesh_api::proto;
    use mesh_datapath::FullTable;

    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(version("6.18.5-amd64"), Some((6, 18)));
        assert!(version("5.10.0-13-amd64") < Some(OLDEST));
        assert!(version("6.10-rc1") > Some(OLDEST));
        assert_eq!(version("strange"), None);
    }

    #[test]
    fn a_node_that_encrypts_tells_who_answers() {
        const PORT: u16 = 51820;
        let peer = |last, proved| mesh_wireguard::PeerStatus {
            address: [192, 0, 2, last].into(),
            key: String::new(),
            former_key: String::new(),
            proved,
            ifindex: 1,
            handshake_s: None,
            sent: 0,
            received: 0,
        };
        let status = mesh_wireguard::Status {
            protocol: mesh_wireguard::PROTOCOL,
            address: [192, 0, 2, 1].into(),
            port: 51821,
            next_port: 51820,
            ifindex: 1,
            former: None,
            former_key: String::new(),
            epoch: 1,
            key: String::new(),
            key_age_s: 0,
            rotating: false,
            refused: 0,
            user_space: None,
            peers: vec![peer(2, true), peer(3, false)],
        };
        let levels = |findings: Vec<Finding>| {
            let levels = findings.iter().map(Finding::level);
            levels.collect::<Vec<_>>()
        };
        let [hidden, plain] = [true, false].map(|encrypted| {
            let network = proto::Network {
                encrypted,
                ..Default::default()
            };
            Assignment {
                networks: [(String::new(), network)].into(),
                ..Default::default()
            }
        });
        let told = encryption(&hidden, Some(&status), Backend::Auto, PORT);
        assert_eq!(told[0].found, "by the kernel's WireGuard");
        assert!(
            told[2].remedy.contains("UDP 51820 and 51821"),
            "{}",
            told[2].remedy
        );
        assert_eq!(levels(told), [Level::Ok, Level::Ok, Level::Warning]);
        let user_space = mesh_wireguard::Status {
            user_space: Some("none here".to_owned()),
            next_port: 51821,
            ..status
        };
        let told = encryption(&hidden, Some(&user_space), Backend::Auto, PORT);
        assert!(told[0].found.ends_with("not the kernel's: none here"));
        // It is not where it is to be.
        assert!(told[1].found.contains("port 51820"), "{}", told[1].found);
        assert!(told[3].remedy.contains("UDP 51821 through"));
        let warned = [Level::Ok, Level::Warning, Level::Ok, Level::Warning];
        assert_eq!(levels(told), warned);
        // What is asked for by now is not always what it was started with.
        for (why, wanted, found) in [
            ("none here", Backend::User, "--wireguard is user"),
            ("--wireguard is user", Backend::User, "--wireguard is user"),
            (
                "--wireguard is user",
                Backend::Auto,
                "started with --wireguard user, and goes on until the node starts anew",
            ),
        ] {
            let status = mesh_wireguard::Status {
                user_space: Some(why.to_owned()),
                ..user_space.clone()
            };
            let told = encryption(&hidden, Some(&status), wanted, PORT);
            assert!(told[0].found.ends_with(found), "{}", told[0].found);
        }
        let addresses = [2, 9, 1].map(|last| Ipv4Addr::new(192, 0, 2, last));
        let [to, from, own] = addresses;
        let told = wrong_source(to, from, own);
        assert!(told.found.contains("source 192.0.2.9, not 192.0.2.1"));
        assert_eq!(levels(vec![told]), [Level::Warning]);
        assert_eq!(
            levels(encryption(&hidden, None, Backend::Auto, PORT)),
            [Level::Fault]
        );
        assert!(encryption(&plain, None, Backend::Auto, PORT).is_empty());
        // A service has published where it is to be.
        let service = proto::Service {
            name: "vpn".to_owned(),
            ports: vec![proto::Port {
                protocol: proto::Protocol::Udp.into(),
                published: PORT.into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let published = Assignment {
            services: [(String::new(), service.into())].into(),
            ..hidden
        };
        let told = encryption(&published, None, Backend::Auto, PORT);
        assert!(told[0].found.ends_with("published by service vpn"));
        let at_it = mesh_wireguard::Status {
            port: PORT,
            next_port: PORT,
            ..user_space
        };
        let told = encryption(&published, Some(&at_it), Backend::Auto, PORT);
        let faults = [Level::Ok, Level::Fault, Level::Ok, Level::Warning];
        assert_eq!(levels(told), faults);
    }

    #[test]
    fn a_table_that_lacks_room_is_named() {
        let enough = Room {
            rows_bytes: 0,
            rows_allocated_bytes: 0,
            rows_capacity_bytes: 64,
            short_rows: 0,
            missing_rows: 0,
            refused_rows: 0,
            backends: 0,
            backends_capacity: 8,
            backends_left_out: 0,
            full: Vec::new(),
        };
        let of = |change: fn(&mut Room)| {
            let mut room = enough.clone();
            change(&mut room);
            let finding = tables(&room);
            (finding.level(), finding.found)
        };
        let fault = |found: &str| (Level::Fault, found.to_owned());
        assert_eq!(of(|_| {}).0, Level::Ok);
        assert_eq!(of(|room| room.short_rows = 1).0, Level::Warning);
        assert_eq!(
            of(|room| room.refused_rows = 2),
            fault(
                "the kernel does not take the rows of 2 ports and addresses, whose new tasks get no flows"
            )
        );
        let full = of(|room| {
            for (table, left_out) in [("endpoints", 3), ("vips", 1)] {
                room.full.push(FullTable { table, left_out });
            }
        });
        assert_eq!(
            full,
            fault("full: endpoints (3 left out), vips (1 left out)")
        );
    }

    #[test]
    fn a_table_of_open_flows_that_evicts_is_worth_a_warning() {
        let of = |evicted, open| {
            let table = |table, evicted| Fill {
                table,
                entries: 1000,
                capacity: 1000,
                inserted: 5000,
                evicted,
                refused: 0,
            };
            crowded(&[table("conns", 4000), table("flows", evicted)], open)
        };
        assert_eq!(of(4000, 899), None, "ended ones had made room");
        assert_eq!(of(0, 1000), None);
        let told = of(4000, 900).expect("a finding");
        assert_eq!(told.level(), Level::Warning);
        assert!(told.found.starts_with("900 open flows"), "{}", told.found);
        assert_eq!(crowded(&[], 5), None);
    }

    #[test]
    fn a_data_path_without_ethernet_is_a_fault() {
        let [own, other] = [1, 2].map(|last| IpAddr::from([192, 0, 2, last]));
        let tun = Interface {
            index: 7,
            name: "tailscale0".to_owned(),
            mtu: 1280,
            up: true,
            loopback: false,
            ethernet: false,
            kind: "tun".to_owned(),
            addresses: vec![(own, 32)],
        };
        let of = |data_path| no_ethernet(&tun, data_path);
        assert_eq!(of(None).level(), Level::Warning);
        assert_eq!(of(Some(other)).level(), Level::Warning);
        let fault = of(Some(own));
        assert_eq!(
            (fault.level(), &*fault.subject),
            (Level::Fault, "tailscale0")
        );
        assert!(fault.found.contains("192.0.2.1"), "{}", fault.found);
    }

    #[test]
    fn only_a_refused_uplink_is_worth_a_warning() {
        let of = |mode| {
            let finding = uplink(&Uplink { ifindex: 1, mode });
            (finding.level(), finding.found)
        };
        assert_eq!(of(UplinkMode::Xdp).0, Level::Ok);
        assert_eq!(of(UplinkMode::Virtual("veth".into())).0, Level::Ok);
        let (level, found) = of(UplinkMode::Refused("interface eth0 has one".into()));
        assert_eq!(
            (level, &*found),
            (Level::Warning, "tc: interface eth0 has one")
        );
    }
}
