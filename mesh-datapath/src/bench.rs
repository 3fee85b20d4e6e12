//! What a packet costs in each program, against a program that does nothing.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::Command,
    thread,
};

use mesh_common::{checksum, node_mac, wire};
use nix::sched::{CloneFlags, unshare};
use serde::Serialize;

use crate::{
    Backend, Config, Datapath, Desired, Endpoint, Error, Link, Location, Mac, PublishedPort,
    Service, XdpMode, attach, host, mac_of,
    trial::{AGAIN_XDP, EMPTY_TC, EMPTY_XDP, UNDO_XDP},
};

/// The loopback interface's index: 1 in every namespace.
const LOOPBACK: u32 = 1;
const INGRESS: u32 = 4096;
const OVERLAY: u32 = 4097;
const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const FAR_GATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const NEAR_GATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 2);
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 3);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 200);
/// Runs before the clock counts, and runs that count.
const WARM_UP: usize = 500;
const RUNS: usize = 4000;
/// As those, of series; and packets in a series.
const SERIES_WARM_UP: usize = 5;
const SERIES: usize = 50;
const PACKETS: u32 = 10_000;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

/// What a packet costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PacketCost {
    /// Program.
    pub program: &'static str,
    /// What the packet is.
    pub case: &'static str,
    /// Packets in a row of which the mean was taken: one, or a series as under load.
    pub packets: u32,
    /// Fastest run, nanoseconds.
    pub min_ns: u64,
    /// Median run, nanoseconds.
    pub median_ns: u64,
    /// Slowest run, nanoseconds.
    pub max_ns: u64,
    /// Median above that of the empty program measured in the same way, nanoseconds.
    pub above_empty_ns: u64,
}

/// Measures every program on typical packets: each on single packets, which finds caches and branch predictors as
/// the system call before it left them; `uplink_xdp` on series too, as a busy NIC would run it. Works in a network namespace of its own, with pins under `pin_dir`,
/// which is removed afterwards. Needs root and ip(8).
///
/// # Errors
/// When the data plane cannot be opened or the kernel refuses a run.
pub fn packets(pin_dir: &Path) -> Result<Vec<PacketCost>, Error> {
    let mut config = Config::new(pin_dir);
    config.xdp = XdpMode::Off;
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| Error::Netlink {
                action: "make a network namespace".into(),
                source: e.into(),
            })?;
            let result = Bench::new(&config).and_then(|mut bench| bench.run());
            let removed = Datapath::remove(&config);
            result.and_then(|costs| removed.map(|()| costs))
        });
        worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

struct Case {
    program: &'static str,
    name: &'static str,
    interface: u32,
    packet: Vec<u8>,
}

/// How a case is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Single,
    Series,
}

struct Bench {
    datapath: Datapath,
    uplink: u32,
    overlay: u32,
    gateway: u32,
}

impl Bench {
    fn new(config: &Config) -> Result<Self, Error> {
        for line in [
            "link set lo up",
            "link add up0 type veth peer name up1",
            "link add ov0 type veth peer name ov1",
            "link add gw0 type veth peer name gw1",
            "addr add 192.0.2.1/24 dev up0",
            "link set up0 up",
            "link set up1 up",
            "link set ov0 up",
            "link set ov1 up",
            "link set gw0 up",
            "link set gw1 up",
            "neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev up0 nud permanent",
            "neigh add 192.0.2.100 lladdr 02:00:00:00:00:64 dev up0 nud permanent",
        ] {
            ip(line)?;
        }
        let path = Path::new("/proc/sys/net/ipv4/ip_forward");
        fs::write(path, "1").map_err(|source| Error::Path {
            action: "set",
            path: path.to_owned(),
            source,
        })?;
        let index = |name: &str| host::ifindex(name).unwrap_or(0);
        let (uplink, overlay, gateway) = (index("up0"), index("ov0"), index("gw0"));
        let mut datapath = Datapath::open(config)?;
        datapath.apply(&desired(uplink, overlay, gateway))?;
        Ok(Self {
            datapath,
            uplink,
            overlay,
            gateway,
        })
    }

    fn run(&mut self) -> Result<Vec<PacketCost>, Error> {
        let mut costs = Vec::new();
        let mut base = BTreeMap::new();
        let nothing = self.client(443, wire::TCP, TCP_ACK);
        for (program, way, name) in [
            (EMPTY_XDP, Way::Single, "nothing"),
            (EMPTY_TC, Way::Single, "nothing"),
            (UNDO_XDP, Way::Series, "nothing, but the packet is put back"),
        ] {
            let case = Case {
                program,
                name,
                interface: self.uplink,
                packet: nothing.clone(),
            };
            let cost = self.measure(&case, program, way, 0)?;
            base.insert((program != EMPTY_TC, way), cost.median_ns);
            costs.push(cost);
        }
        for case in self.cases() {
            let is_xdp = case.program == attach::UPLINK_XDP;
            let of = |way| base.get(&(is_xdp, way)).copied().unwrap_or(0);
            costs.push(self.measure(&case, case.program, Way::Single, of(Way::Single))?);
            if is_xdp {
                costs.push(self.measure(&case, AGAIN_XDP, Way::Series, of(Way::Series))?);
            }
        }
        Ok(costs)
    }

    /// `program` is what runs for the case's program.
    fn measure(
        &mut self,
        case: &Case,
        program: &'static str,
        way: Way,
        base: u64,
    ) -> Result<PacketCost, Error> {
        let (warm_up, runs, packets) = match way {
            Way::Single => (WARM_UP, RUNS, 1),
            Way::Series => (SERIES_WARM_UP, SERIES, PACKETS),
        };
        let mut times = Vec::with_capacity(runs);
        for run in 0..warm_up + runs {
            let trial = self
                .datapath
                .trials(program, &case.packet, case.interface, packets)?;
            if run >= warm_up {
                times.push(u64::try_from(trial.took.as_nanos()).unwrap_or(u64::MAX));
            }
        }
        times.sort_unstable();
        let median_ns = times[runs / 2];
        Ok(PacketCost {
            program: case.program,
            case: case.name,
            packets,
            min_ns: times[0],
            median_ns,
            max_ns: times[runs - 1],
            above_empty_ns: median_ns.saturating_sub(base),
        })
    }

    fn client(&self, port: u16, protocol: u8, flags: u8) -> Vec<u8> {
        frame(
            [2, 0, 0, 0, 0, 1],
            [2, 0, 0, 0, 0, 0x64],
            (CLIENT, 40_000),
            (NODE, port),
            (protocol, flags),
        )
    }

    fn cases(&self) -> Vec<Case> {
        let (up, over, gate) = (self.uplink, self.overlay, self.gateway);
        let case = |program, name, interface, packet| Case {
            program,
            name,
            interface,
            packet,
        };
        let node = u32::from_ne_bytes(NODE.octets());
        let peer = u32::from_ne_bytes(PEER.octets());
        let reply = frame(
            node_mac(node),
            node_mac(peer),
            (NODE, 80),
            (CLIENT, 40_000),
            (wire::TCP, TCP_ACK),
        );
        let to_task = frame(
            mac_of(NEAR_GATE.into()),
            node_mac(peer),
            (CLIENT, 40_001),
            (PEER, 81),
            (wire::TCP, TCP_ACK),
        );
        let east = frame(
            mac_of(NEAR.into()),
            mac_of(FAR.into()),
            (FAR, 5000),
            (NEAR, 80),
            (wire::TCP, TCP_ACK),
        );
        let (own, far) = (mac_of(NEAR.into()), mac_of(FAR.into()));
        let answer = frame(
            mac_of(NODE.into()),
            mac_of(NEAR_GATE.into()),
            (NEAR_GATE, 8080),
            (CLIENT, 40_000),
            (wire::TCP, TCP_ACK),
        );
        let out = frame(
            mac_of(NODE.into()),
            mac_of(NEAR_GATE.into()),
            (NEAR_GATE, 5000),
            (CLIENT, 443),
            (wire::TCP, TCP_ACK),
        );
        vec![
            case(
                attach::UPLINK_XDP,
                "not published",
                up,
                self.client(443, wire::TCP, TCP_ACK),
            ),
            case(
                attach::UPLINK_XDP,
                "tcp to another node, new flow",
                up,
                self.client(80, wire::TCP, TCP_SYN),
            ),
            case(
                attach::UPLINK_XDP,
                "tcp to another node, open flow",
                up,
                self.client(80, wire::TCP, TCP_ACK),
            ),
            case(
                attach::UPLINK_XDP,
                "udp to another node, known flow",
                up,
                self.client(80, wire::UDP, 0),
            ),
            case(
                attach::UPLINK_XDP,
                "reply from another node",
                up,
                tunnel(INGRESS, &reply),
            ),
            case(
                attach::UPLINK_TC,
                "not published",
                up,
                self.client(443, wire::TCP, TCP_ACK),
            ),
            case(
                attach::UPLINK_TC,
                "tcp to a task here, known flow",
                up,
                self.client(81, wire::TCP, TCP_ACK),
            ),
            case(
                attach::UPLINK_TC,
                "tunnel to a task, published port",
                up,
                tunnel(INGRESS, &to_task),
            ),
            case(
                attach::UPLINK_TC,
                "tunnel to a task, overlay",
                up,
                tunnel(OVERLAY, &east),
            ),
            case(
                attach::OVERLAY_TC,
                "to a task on another node",
                over,
                frame(far, own, (NEAR, 5000), (FAR, 80), (wire::TCP, TCP_ACK)),
            ),
            case(
                attach::OVERLAY_TC,
                "to a virtual address, known flow",
                over,
                frame(
                    mac_of(VIP.into()),
                    own,
                    (NEAR, 5001),
                    (VIP, 80),
                    (wire::TCP, TCP_ACK),
                ),
            ),
            case(attach::GATEWAY_TC, "reply to a client", gate, answer),
            case(attach::GATEWAY_TC, "the way out", gate, out),
            case(
                attach::LOOPBACK_TC,
                "not published",
                LOOPBACK,
                own_process(443),
            ),
            case(
                attach::LOOPBACK_TC,
                "a process to another node",
                LOOPBACK,
                own_process(80),
            ),
            case(
                attach::LOOPBACK_TC,
                "a process to a task here, known flow",
                LOOPBACK,
                own_process(81),
            ),
        ]
    }
}

/// A packet of a process of this node to itself.
fn own_process(port: u16) -> Vec<u8> {
    let local = Ipv4Addr::LOCALHOST;
    frame(
        Mac::default(),
        Mac::default(),
        (local, 40_000),
        (local, port),
        (wire::TCP, TCP_ACK),
    )
}

fn desired(uplink: u32, overlay: u32, gateway: u32) -> Desired {
    let mut desired = Desired {
        uplinks: [uplink].into(),
        own_addresses: [IpAddr::V4(NODE)].into(),
        vtep: Some(NODE.into()),
        ingress_vni: INGRESS,
        peers: [(IpAddr::V4(PEER), None)].into(),
        ..Desired::default()
    };
    for (vni, address, location) in [
        (INGRESS, FAR_GATE, Location::Remote(PEER.into())),
        (INGRESS, NEAR_GATE, Location::Local(gateway)),
        (OVERLAY, FAR, Location::Remote(PEER.into())),
        (OVERLAY, NEAR, Location::Local(overlay)),
    ] {
        let endpoint = Endpoint {
            mac: mac_of(address.into()),
            location,
            encrypted: false,
        };
        desired.endpoints.insert((vni, address.into()), endpoint);
    }
    let mac = mac_of(NEAR.into());
    desired.links.insert(
        overlay,
        Link::Overlay {
            vni: OVERLAY,
            prefix: None,
            address: NEAR.into(),
            mac,
            encrypted: false,
        },
    );
    let mac = mac_of(NEAR_GATE.into());
    desired.links.insert(
        gateway,
        Link::Gateway {
            address: NEAR_GATE.into(),
            mac,
        },
    );
    for (published, gate) in [(80, FAR_GATE), (81, NEAR_GATE)] {
        let backend = |address: Ipv4Addr| {
            vec![Backend {
                address: address.into(),
                draining: false,
            }]
        };
        let mut service = Service {
            ports: [wire::TCP, wire::UDP]
                .map(|protocol| PublishedPort {
                    protocol,
                    published,
                    target: 8080,
                })
                .into(),
            ingress: backend(gate),
            ..Service::default()
        };
        if published == 80 {
            service.vips.insert((OVERLAY, VIP.into()), backend(FAR));
        }
        desired
            .services
            .insert(format!("s{published}"), service.into());
    }
    desired
}

fn ip(line: &str) -> Result<(), Error> {
    let failed = |source| Error::Netlink {
        action: format!("run `ip {line}`"),
        source,
    };
    let output = Command::new("ip")
        .args(line.split(' '))
        .output()
        .map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(failed(std::io::Error::other(words)))
}

/// A frame with 64 bytes of payload.
fn frame(
    dmac: Mac,
    smac: Mac,
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
    (protocol, flags): (u8, u8),
) -> Vec<u8> {
    let mut l4 = Vec::new();
    l4.extend(from.1.to_be_bytes());
    l4.extend(to.1.to_be_bytes());
    let check_at = if protocol == wire::TCP {
        l4.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        16
    } else {
        l4.extend([0, 72, 0, 0]);
        6
    };
    l4.extend([0x5a; 64]);
    let (src, dst) = (from.0.octets(), to.0.octets());
    let pseudo = checksum::pseudo_v4(
        u32::from_ne_bytes(src),
        u32::from_ne_bytes(dst),
        protocol,
        l4.len() as u16,
    );
    let check = !checksum::fold(u64::from(pseudo) + u64::from(!checksum::of(&l4)));
    l4[check_at..check_at + 2].copy_from_slice(&check.to_ne_bytes());
    let mut header = vec![wire::IPV4_NO_OPTIONS, 0];
    header.extend((wire::IPV4_LEN as u16 + l4.len() as u16).to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    header.extend(src);
    header.extend(dst);
    let check = checksum::of(&header).to_ne_bytes();
    header[10..12].copy_from_slice(&check);
    let mut frame = [dmac, smac].concat();
    frame.extend(wire::ETHERTYPE_IPV4_BE.to_ne_bytes());
    frame.extend(header);
    frame.extend(l4);
    frame
}

/// A frame from the peer's tunnel.
fn tunnel(vni: u32, inner: &[u8]) -> Vec<u8> {
    let header = wire::tunnel_header(
        u32::from_ne_bytes(PEER.octets()),
        u32::from_ne_bytes(NODE.octets()),
        wire::outer_port_be(1),
        crate::DEFAULT_VXLAN_PORT.to_be(),
        vni,
        inner.len() as u16,
    );
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(wire::ETHERTYPE_IPV4_BE.to_ne_bytes());
    frame.extend(header.map(u32::to_ne_bytes).as_flattened());
    frame.extend(inner);
    frame
}
