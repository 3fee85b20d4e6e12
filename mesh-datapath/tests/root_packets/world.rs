//! The nodes that packets are tried on: two, which mirror one another, with one set of services.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    thread,
    time::Duration,
};

use aya::maps::{Array, HashMap, Map, MapData};
use mesh_common::{
    self as contract, Addr, AddrKey, Conn, FlowKey, Fragment, Nat, PathMtu, Pool, Published,
    SCOPE_PUBLISHED, port_index, wire,
};
use mesh_datapath::{
    Backend, Config, Datapath, Desired, Endpoint, Link, Location, PublishedPort, Service, Snapshot,
    Trial, XdpMode, mac_of,
};

use crate::{
    common::{INGRESS, INGRESS_V6, LAN_V6, Ns, OVERLAY_V6, chain, six},
    frames::Mac,
};

pub(crate) const VNI: u32 = 4097;
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(crate) const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
/// A client that the node has not talked to: its MAC is unknown.
pub(crate) const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);
pub(crate) const NODE_MAC: Mac = [2, 0, 0, 0, 0, 1];
pub(crate) const PEER_MAC: Mac = [2, 0, 0, 0, 0, 2];
pub(crate) const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 100];
/// The tasks: one on the peer, two here; and their addresses on the ingress network.
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 2);
pub(crate) const NEAR: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 3);
pub(crate) const SIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 4);
pub(crate) const FAR_GATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(crate) const NEAR_GATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
pub(crate) const SIDE_GATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 4);
/// A task that was a backend once, and is no more.
const GONE: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 9);
/// Virtual addresses, one per service, in the order of [`SERVICES`].
pub(crate) const FAR_VIP: Ipv4Addr = vip(0);
pub(crate) const SIDE_VIP: Ipv4Addr = vip(1);
pub(crate) const EMPTY_VIP: Ipv4Addr = vip(2);
pub(crate) const MOVED_VIP: Ipv4Addr = vip(3);
pub(crate) const DRAINED_VIP: Ipv4Addr = vip(4);
pub(crate) const FORGOTTEN_VIP: Ipv4Addr = vip(5);
pub(crate) const OWN_VIP: Ipv4Addr = vip(6);
/// Port in the task of every published port.
pub(crate) const TARGET: u16 = 8080;
/// An interface that no table knows: the other end of the uplink.
pub(crate) const ELSEWHERE: u32 = 11;
pub(crate) const UP: u32 = 10;
pub(crate) const OVER: u32 = 20;
pub(crate) const GATE: u32 = 30;
pub(crate) const SIDE_OVER: u32 = 40;
pub(crate) const SIDE_GATE_LINK: u32 = 50;
pub(crate) const LO: u32 = 1;

const fn vip(service: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 16, 200 + service)
}

/// A service: published port (its virtual address goes by its place), backends before the last change of rows,
/// backends since, and what is draining since.
type Row = (u16, &'static [Ipv4Addr], &'static [Ipv4Addr]);

/// What the rows are about. Every task is given by its address on the overlay network.
const SERVICES: [Row; 7] = [
    (80, &[FAR], &[FAR]),   // on the other node
    (81, &[SIDE], &[SIDE]), // here
    (82, &[], &[]),         // nowhere
    (83, &[SIDE], &[FAR]),  // moved away: the one here is draining
    (84, &[FAR], &[]),      // drained: nobody takes new flows
    (85, &[GONE], &[FAR]),  // moved, and the old task has ended
    (86, &[NEAR], &[NEAR]), // the very task that calls
];

/// Which of the two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The one that clients and tasks of the tables ask.
    Node,
    /// The other.
    Peer,
}

/// What the programs remember: `FLOWS` and `FRAGMENTS` without their clocks, and `CONNS` with `CONNS_ANY`,
/// without indices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Memory {
    pub(crate) flows: BTreeMap<FlowKey, Nat>,
    pub(crate) conns: BTreeMap<FlowKey, Addr>,
    pub(crate) fragments: BTreeMap<FlowKey, Fragment>,
}

pub(crate) struct World {
    pub(crate) ns: Ns,
    datapath: Option<Datapath>,
    config: Config,
    flows: HashMap<MapData, FlowKey, Nat>,
    conns: HashMap<MapData, FlowKey, Conn>,
    conns_any: HashMap<MapData, FlowKey, Conn>,
    fragments: HashMap<MapData, FlowKey, Fragment>,
    direct: HashMap<MapData, Addr, u32>,
    paths: HashMap<MapData, Addr, PathMtu>,
    backends: Array<MapData, contract::Backend>,
    entry_of: Array<MapData, u32>,
    sctp_ports: HashMap<MapData, u16, u32>,
    published: Array<MapData, Published>,
    vips: HashMap<MapData, AddrKey, Pool>,
}

impl World {
    pub(crate) fn new(side: Side) -> Self {
        Self::with(side, |_| {})
    }

    /// With another configuration.
    pub(crate) fn with(side: Side, change: impl FnOnce(&mut Config)) -> Self {
        let ns = Ns::new(match side {
            Side::Node => "node",
            Side::Peer => "peer",
        });
        // The programs are attached as well: nothing else may move their counters. So only the uplink has IPv6, which
        // it tells nobody.
        ns.sh("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        for (host, index) in [
            ("up", UP),
            ("ov", OVER),
            ("gw", GATE),
            ("so", SIDE_OVER),
            ("sg", SIDE_GATE_LINK),
        ] {
            let peer = index + 1;
            ns.sh(&format!(
                "ip link add {host}0 index {index} type veth peer name {host}1 index {peer}"
            ));
            ns.sh(&format!("ip link set {host}0 up"));
            ns.sh(&format!("ip link set {host}1 up"));
        }
        let (own, other) = match side {
            Side::Node => (NODE, PEER),
            Side::Peer => (PEER, NODE),
        };
        let mac = |of: Ipv4Addr| format!("02:00:00:00:00:{:02x}", of.octets()[3]);
        ns.sh(&format!("ip link set up0 address {}", mac(own)));
        ns.sh("ip link set up0 addrgenmode none");
        ns.sh("sysctl -qw net.ipv6.conf.up0.disable_ipv6=0");
        let own_v6 = six(LAN_V6, own);
        ns.sh(&format!("ip addr add {own}/24 dev up0"));
        ns.sh(&format!("ip addr add {own_v6}/64 dev up0 nodad"));
        for neighbour in [other, CLIENT] {
            let lladdr = mac(neighbour);
            for address in [neighbour.into(), IpAddr::V6(six(LAN_V6, neighbour))] {
                ns.sh(&format!(
                    "ip neigh add {address} lladdr {lladdr} dev up0 nud permanent"
                ));
            }
        }
        ns.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        let mut config = Config::new(format!("/sys/fs/bpf/{}", ns.0));
        config.xdp = XdpMode::Off;
        config.flow_entries = 4096;
        config.backend_slots = 256;
        change(&mut config);
        let datapath = ns.run(|| {
            let mut datapath = Datapath::open(&config).unwrap_or_else(|e| panic!("{}", chain(&e)));
            datapath.apply(&desired(side, false)).expect("apply");
            datapath.apply(&desired(side, true)).expect("apply");
            datapath
        });
        let maps = config.versioned_pin_dir().join("maps");
        let map = |name| {
            let data = MapData::from_pin(maps.join(name)).expect("a pinned map");
            Map::from_map_data(data).expect("a kind of map that aya knows")
        };
        Self {
            flows: HashMap::try_from(map("FLOWS")).expect("a hash map"),
            conns: HashMap::try_from(map("CONNS")).expect("a hash map"),
            conns_any: HashMap::try_from(map("CONNS_ANY")).expect("a hash map"),
            fragments: HashMap::try_from(map("FRAGMENTS")).expect("a hash map"),
            direct: HashMap::try_from(map("DIRECT")).expect("a hash map"),
            paths: HashMap::try_from(map("PATHS")).expect("a hash map"),
            backends: Array::try_from(map("BACKENDS")).expect("an array"),
            entry_of: Array::try_from(map("ENTRY_OF")).expect("an array"),
            sctp_ports: HashMap::try_from(map("SCTP_PORTS")).expect("a hash map"),
            published: Array::try_from(map("PUBLISHED")).expect("an array"),
            vips: HashMap::try_from(map("VIPS")).expect("a hash map"),
            ns,
            datapath: Some(datapath),
            config,
        }
    }

    /// Runs a program on a packet as if it had come in by `interface`.
    pub(crate) fn run(
        &mut self,
        program: &'static str,
        packet: &[u8],
        interface: u32,
    ) -> Result<Trial, String> {
        self.inside(|datapath| datapath.trial(program, packet, interface))
            .map_err(|e| chain(&e))
    }

    /// Its agent is started again, and finds what the maps hold.
    pub(crate) fn restart(&mut self) {
        drop(self.datapath.take());
        let config = &self.config;
        let open = || Datapath::open(config).unwrap_or_else(|e| panic!("{}", chain(&e)));
        self.datapath = Some(self.ns.run(open));
    }

    /// Where its maps are pinned.
    pub(crate) fn maps(&self) -> PathBuf {
        self.config.versioned_pin_dir().join("maps")
    }

    /// Does something inside the node's namespace.
    pub(crate) fn inside<T: Send>(&mut self, act: impl FnOnce(&mut Datapath) -> T + Send) -> T {
        let datapath = self.datapath.as_mut().expect("open");
        self.ns.run(|| act(datapath))
    }

    /// Applies the node's state with a change.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Desired)) {
        let mut desired = desired(Side::Node, true);
        change(&mut desired);
        self.inside(|datapath| datapath.apply(&desired))
            .expect("apply");
    }

    /// For so many seconds it is proved that this node may send under the addresses of another.
    pub(crate) fn prove(&mut self, node: Ipv4Addr, seconds: i32) {
        let until = now_s().wrapping_add_signed(seconds);
        for address in [addr(node), Addr::v6(six(LAN_V6, node).octets())] {
            self.direct.insert(address, until, 0).expect("DIRECT");
        }
    }

    /// Has the tasks of published ports changed so many seconds earlier than they did.
    pub(crate) fn turn_pools(&mut self, seconds: u32) {
        // A machine that has not been up for so long has no such time.
        while now_s() <= 2 * seconds {
            thread::sleep(Duration::from_millis(100));
        }
        for index in 0..self.published.len() {
            let mut entry = self.published.get(&index, 0).expect("PUBLISHED");
            if let Some(changed_s) = entry.pool.changed_s.checked_sub(seconds.into()) {
                entry.pool.changed_s = changed_s;
                self.published.set(index, entry, 0).expect("PUBLISHED");
            }
        }
    }

    /// What a router on the way to a node has said that it takes, and for how many seconds that is known yet.
    pub(crate) fn narrow(&mut self, node: Ipv4Addr, known: Option<(u32, i32)>) {
        let _ = self.paths.remove(&addr(node));
        if let Some((mtu, seconds)) = known {
            let until_s = now_s().wrapping_add_signed(seconds);
            let path = PathMtu { mtu, until_s };
            self.paths.insert(addr(node), path, 0).expect("PATHS");
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.datapath
            .as_ref()
            .expect("open")
            .snapshot()
            .expect("counters")
    }

    /// What the programs remember.
    pub(crate) fn memory(&self) -> Memory {
        let flows = self.flows.iter().map(|entry| {
            let (key, nat) = entry.expect("FLOWS");
            (key, Nat { seen_s: 0, ..nat })
        });
        let tables = [(&self.conns, true), (&self.conns_any, false)];
        let conns = tables.into_iter().flat_map(|(table, of_tcp)| {
            table.iter().map(move |entry| {
                let (key, conn) = entry.expect("CONNS");
                assert_eq!(key.protocol == wire::TCP, of_tcp, "{key:?}");
                assert_eq!(conn.index, self.index(&key, conn.address), "{conn:?}");
                (key, conn.address)
            })
        });
        let fragments = self.fragments.iter().map(|entry| {
            let (key, fragment) = entry.expect("FRAGMENTS");
            let seen_s = 0;
            (key, Fragment { seen_s, ..fragment })
        });
        Memory {
            flows: flows.collect(),
            conns: conns.collect(),
            fragments: fragments.collect(),
        }
    }

    /// Makes the programs remember this and nothing else. `seen_s` is how long ago a flow was seen, in seconds.
    pub(crate) fn set_memory(&mut self, memory: &Memory) {
        let held = self.memory();
        for key in held.flows.keys() {
            self.flows.remove(key).expect("FLOWS");
        }
        for key in held.conns.keys() {
            self.conns(key).remove(key).expect("CONNS");
        }
        for key in held.fragments.keys() {
            self.fragments.remove(key).expect("FRAGMENTS");
        }
        for (key, fragment) in &memory.fragments {
            let seen_s = now_s().wrapping_sub(fragment.seen_s);
            let fragment = Fragment {
                seen_s,
                ..*fragment
            };
            self.fragments.insert(key, fragment, 0).expect("FRAGMENTS");
        }
        for (key, nat) in &memory.flows {
            let nat = Nat {
                seen_s: now_s().wrapping_sub(nat.seen_s),
                ..*nat
            };
            self.flows.insert(key, nat, 0).expect("FLOWS");
        }
        for (key, address) in &memory.conns {
            let conn = Conn {
                address: *address,
                index: self.index(key, *address),
            };
            self.conns(key).insert(key, conn, 0).expect("CONNS");
        }
    }

    /// Has the programs remember more flows of one service: the client's and the task's side of each.
    pub(crate) fn remember(&mut self, flows: impl Iterator<Item = (FlowKey, Addr, FlowKey, Nat)>) {
        let (mut index, now_s) = (None, now_s());
        for (asked, address, known, nat) in flows {
            let index = *index.get_or_insert_with(|| self.index(&asked, address));
            let nat = Nat {
                seen_s: now_s,
                ..nat
            };
            self.flows.insert(known, nat, 0).expect("FLOWS");
            let conn = Conn { address, index };
            self.conns(&asked).insert(asked, conn, 0).expect("CONNS");
        }
    }

    /// The table of backends that a flow is in.
    fn conns(&mut self, key: &FlowKey) -> &mut HashMap<MapData, FlowKey, Conn> {
        if key.protocol == wire::TCP {
            &mut self.conns
        } else {
            &mut self.conns_any
        }
    }

    /// Index of a backend of the service that a flow is to.
    fn index(&self, key: &FlowKey, address: Addr) -> u32 {
        let pool = if key.scope == SCOPE_PUBLISHED {
            let entry = if key.protocol == wire::SCTP {
                self.sctp_ports.get(&key.dport_be, 0).expect("a port")
            } else {
                let port = port_index(key.protocol, u16::from_be(key.dport_be));
                self.entry_of.get(&port, 0).expect("a port") - 1
            };
            self.published.get(&entry, 0).expect("published").pool
        } else {
            let vip = AddrKey {
                vni: key.scope,
                address: Addr::v4_be(key.dst.low_be()),
            };
            self.vips.get(&vip, 0).expect("a virtual address")
        };
        let is = |backend: contract::Backend| {
            (backend.pool, backend.address) == (pool.id, address) && backend.there != 0
        };
        (0..)
            .zip(self.backends.iter())
            .find(|(_, backend)| is(*backend.as_ref().expect("BACKENDS")))
            .map_or(u32::MAX, |(index, _)| index)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.datapath.take());
        let config = &self.config;
        let _ = self.ns.run(|| Datapath::remove(config));
    }
}

/// Seconds since the machine was started.
pub(crate) fn now_s() -> u32 {
    let text = std::fs::read_to_string("/proc/uptime").expect("a mounted /proc");
    let seconds = text.split('.').next().expect("a number");
    seconds.parse().expect("a number")
}

/// The address on the ingress network of the task with this overlay address.
fn gate_of(task: Ipv4Addr) -> Ipv4Addr {
    let [_, _, _, last] = task.octets();
    Ipv4Addr::new(10, 0, 0, last)
}

fn desired(side: Side, moved: bool) -> Desired {
    let (own, other) = match side {
        Side::Node => (NODE, PEER),
        Side::Peer => (PEER, NODE),
    };
    let mut desired = Desired {
        uplinks: [UP].into(),
        own_addresses: [own.into(), six(LAN_V6, own).into()].into(),
        vtep: Some(own.into()),
        ingress_vni: INGRESS,
        ingress_prefix: Some(INGRESS_V6),
        peers: [(other.into(), None)].into(),
        ..Desired::default()
    };
    let mut tasks = vec![
        (FAR, Side::Peer, OVER, GATE),
        (NEAR, Side::Node, OVER, GATE),
        (SIDE, Side::Node, SIDE_OVER, SIDE_GATE_LINK),
    ];
    if !moved {
        tasks.push((GONE, Side::Peer, ELSEWHERE, ELSEWHERE));
    }
    for (address, home, over, gate) in tasks {
        let ends = [(VNI, address, over), (INGRESS, gate_of(address), gate)];
        for (vni, address, ifindex) in ends {
            let address = address.into();
            let mac = mac_of(address);
            let location = if home == side {
                Location::Local(ifindex)
            } else {
                Location::Remote(other.into())
            };
            desired.endpoints.insert(
                (vni, address),
                Endpoint {
                    mac,
                    location,
                    encrypted: false,
                },
            );
            if home == side && ifindex != ELSEWHERE {
                let link = if vni == VNI {
                    Link::Overlay {
                        vni,
                        prefix: Some(OVERLAY_V6),
                        address,
                        mac,
                        encrypted: false,
                    }
                } else {
                    Link::Gateway { address, mac }
                };
                desired.links.insert(ifindex, link);
            }
        }
    }
    for (place, service) in SERVICES.iter().enumerate() {
        let vip = vip(u8::try_from(place).expect("few services"));
        desired.services.insert(
            format!("s{}", service.0),
            published(service, vip, moved).into(),
        );
    }
    desired
}

fn published((port, before, since): &Row, vip: Ipv4Addr, moved: bool) -> Service {
    let backends = |on: fn(Ipv4Addr) -> Ipv4Addr| -> Vec<Backend> {
        let active = if moved { since } else { before };
        let leaving = before.iter().filter(|task| moved && !since.contains(task));
        let backend = |task: &Ipv4Addr, draining| Backend {
            address: on(*task).into(),
            draining,
        };
        let active = active.iter().map(|task| backend(task, false));
        active
            .chain(leaving.map(|task| backend(task, true)))
            .collect()
    };
    // All protocols on one port, and each but SCTP on one of its own.
    let ports = [
        (6, *port),
        (17, *port),
        (132, *port),
        (6, port + 1000),
        (17, port + 2000),
    ];
    Service {
        name: format!("s{port}"),
        vips: BTreeMap::from([((VNI, vip.into()), backends(|task| task))]),
        ports: ports
            .map(|(protocol, published)| PublishedPort {
                protocol,
                published,
                target: TARGET,
            })
            .into(),
        ingress: backends(gate_of),
        ..Service::default()
    }
}

/// A map address.
pub(crate) fn addr(address: Ipv4Addr) -> Addr {
    Addr::v4(address.octets())
}
