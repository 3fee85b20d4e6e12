//! A build with another map ABI takes over: flows go on, and nothing of the old build stays.

mod common;

#[path = "common/v4.rs"]
mod v4;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    path::{Path, PathBuf},
};

use aya::maps::{Array, HashMap, Map, MapData, MapInfo};
use common::{
    LAN_V6, OVERLAY_V6, PATIENCE, both,
    pair::{N1, Pair, TARGET, VIP},
    service,
    talk::{any, ask},
};
use mesh_common::{Addr, Conn, FlowKey, Published};
use mesh_datapath::{Datapath, XdpMode};

/// Flows of each kind in each protocol.
const FLOWS: usize = 12;

/// Client flows to both tasks by way of the first node, in one of the protocols.
struct Flows {
    to: SocketAddr,
    streams: Vec<TcpStream>,
    sockets: Vec<(UdpSocket, String)>,
}

impl Flows {
    fn open(address: IpAddr, port: u16) -> Self {
        let to = SocketAddr::from((address, port));
        let streams = (0..FLOWS).map(|_| {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE).expect("connect");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let mut byte = [0];
            while byte != *b"\n" {
                stream.read_exact(&mut byte).expect("a greeting");
            }
            stream
        });
        let sockets = (0..FLOWS).map(|_| {
            let socket = UdpSocket::bind((any(address), 0)).expect("bind");
            let seen = ask(&socket, to.ip(), to.port(), b"first").expect("an answer");
            (socket, seen.name)
        });
        Self {
            to,
            streams: streams.collect(),
            sockets: sockets.collect(),
        }
    }

    /// Every flow still reaches the task that it began with: another one would reset it, or have another name.
    fn go_on(&mut self) {
        for stream in &mut self.streams {
            stream.write_all(b"again").expect("sent");
            let mut back = [0; 5];
            stream.read_exact(&mut back).expect("the flow goes on");
            assert_eq!(&back, b"again");
        }
        for (socket, name) in &self.sockets {
            let seen = ask(socket, self.to.ip(), self.to.port(), b"again").expect("an answer");
            assert_eq!(seen.name, *name);
        }
    }
}

/// A pair with flows that began under another row than the current one.
struct Old {
    pair: Pair,
    outside: [Flows; 2],
    inside: [Flows; 2],
}

impl Old {
    fn new() -> Self {
        let mut pair = Pair::serving(XdpMode::Native);
        // Begun with one task only: half of the flows then are in rows' slots that the other task takes.
        for node in &mut pair.nodes {
            let web = service(80, TARGET, (4097, VIP), &[&pair.near]);
            node.desired.services.insert("web".into(), web.into());
            node.apply();
        }
        let outside = pair
            .client
            .run(|| both(LAN_V6, N1).map(|to| Flows::open(to, 80)));
        let inside = pair
            .near
            .ns
            .run(|| both(OVERLAY_V6, VIP).map(|to| Flows::open(to, TARGET)));
        for node in &mut pair.nodes {
            let web = service(80, TARGET, (4097, VIP), &[&pair.near, &pair.far]);
            node.desired.services.insert("web".into(), web.into());
            node.apply();
        }
        Self {
            pair,
            outside,
            inside,
        }
    }

    /// Ends the first node's agent. Its pins are then those of another version.
    fn end(&mut self, version: &str) -> PathBuf {
        let node = &mut self.pair.nodes[0];
        let own = node.config.versioned_pin_dir();
        let old = node.config.pin_dir.join(version);
        drop(node.datapath.take());
        fs::rename(&own, &old).expect("rename the folder of pins");
        old
    }

    /// The first node's agent begins anew, and takes over from another version.
    fn begin(&mut self, old: &Path) {
        let report = self.pair.nodes[0].apply();
        assert_eq!(report.attached, 0, "programs were not swapped in place");
        assert!(!old.exists(), "{} is still there", old.display());
    }

    /// All flows go on, and there are new ones to both tasks.
    fn go_on(&mut self) {
        let Self {
            pair,
            outside,
            inside,
        } = self;
        pair.client
            .run(|| outside.iter_mut().for_each(Flows::go_on));
        pair.near
            .ns
            .run(|| inside.iter_mut().for_each(Flows::go_on));
        for to in both(LAN_V6, N1) {
            pair.both_answer(("a new flow", &pair.client, to, 80), 40);
        }
    }
}

/// Sizes of a map's keys and values, and its entries.
fn shape(pin: &Path) -> (u32, u32, u32) {
    let info = MapInfo::from_pin(pin).expect("a map");
    (info.key_size(), info.value_size(), info.max_entries())
}

/// Puts the flows of all protocols in one table, as versions up to 6 had them.
fn join_flows(maps: &Path) {
    let open = |name| -> HashMap<MapData, FlowKey, Conn> {
        let data = MapData::from_pin(maps.join(name)).expect("a pinned map");
        let map = Map::from_map_data(data).expect("a kind that aya knows");
        HashMap::try_from(map).expect("a hash map")
    };
    let (mut all, any) = (open("CONNS"), open("CONNS_ANY"));
    let mut moved = 0;
    for entry in any.iter() {
        let (key, conn) = entry.expect("an entry");
        all.insert(key, conn, 0).expect("an entry");
        moved += 1;
    }
    assert!(moved > 0, "there were datagrams");
    fs::remove_file(maps.join("CONNS_ANY")).expect("unpin");
}

#[test]
fn flows_survive_a_build_with_one_table_for_all_protocols() {
    let mut world = Old::new();
    let old = world.end("v6");
    join_flows(&old.join("maps"));
    world.begin(&old);
    world.go_on();
}

#[test]
fn flows_survive_a_build_with_another_abi() {
    let mut world = Old::new();
    let old = world.end("v0");
    // As if the old build had had these maps otherwise.
    let maps = old.join("maps");
    let (settings, own_addresses) = (shape(&maps.join("SETTINGS")), shape(&maps.join("OWN")));
    fs::remove_file(maps.join("OWN")).expect("unpin");
    let other = MapData::from_pin(maps.join("SETTINGS")).expect("a map");
    other.pin(maps.join("OWN")).expect("pin");
    other.pin(maps.join("GONE")).expect("pin");

    world.begin(&old);
    let maps = world.pair.nodes[0].config.versioned_pin_dir().join("maps");
    assert_eq!(shape(&maps.join("OWN")), own_addresses);
    assert_eq!(shape(&maps.join("SETTINGS")), settings);
    assert!(!maps.join("GONE").exists());
    world.go_on();
}

#[test]
fn flows_survive_a_build_with_rows_of_version_4() {
    let mut world = Old::new();
    let counted = |pair: &Pair| {
        let datapath = pair.nodes[0].datapath.as_ref().expect("open");
        let load = datapath.loads(Some("web")).expect("counters");
        load.iter().map(|load| load.flows).sum::<u64>()
    };
    let flows = counted(&world.pair);
    assert!(flows > 0);
    let old = world.end("v4");
    v4::make(&old.join("maps"));
    join_flows(&old.join("maps"));
    // A process that comes to an end in the midst of it: a map that is read after the rows is away.
    let (last, away) = (old.join("maps/ENTRY_OF"), old.join("away"));
    fs::rename(&last, &away).expect("take the pin away");
    let node = &world.pair.nodes[0];
    let midway = node.ns.run(|| Datapath::open(&node.config).map(drop));
    assert!(midway.is_err(), "a map was missing");
    fs::rename(&away, &last).expect("put the pin back");
    world.begin(&old);
    let maps = world.pair.nodes[0].config.versioned_pin_dir().join("maps");
    assert_eq!(
        shape(&maps.join("PUBLISHED")).1 as usize,
        size_of::<Published>()
    );
    assert_eq!(counted(&world.pair), flows, "counters are kept");
    world.go_on();
}

/// Version 5 had no devices noted with the other nodes, and one less in its settings.
#[test]
fn flows_survive_a_build_with_nodes_of_version_5() {
    let mut world = Old::new();
    let old = world.end("v5");
    let maps = old.join("maps");
    join_flows(&maps);
    let new = ["SETTINGS", "PEERS"].map(|name| shape(&maps.join(name)));
    let settings: Array<MapData, [u32; 11]> = Array::create(1, 0).expect("a map");
    v4::replace(&maps, "SETTINGS", |pin| settings.pin(pin));
    let peers: HashMap<MapData, Addr, u32> = HashMap::create(new[1].2, 0).expect("a map");
    v4::replace(&maps, "PEERS", |pin| peers.pin(pin));

    world.begin(&old);
    let maps = world.pair.nodes[0].config.versioned_pin_dir().join("maps");
    assert_eq!(
        ["SETTINGS", "PEERS"].map(|name| shape(&maps.join(name))),
        new
    );
    world.go_on();
}

/// The older build was there again, failed before it had swapped the programs, and left its maps: programs of this version
/// go by the maps that a conversion filled before.
#[test]
fn what_is_converted_again_is_not_written_to_maps_in_use() {
    const MAPS: [&str; 7] = [
        "ENTRY_OF",
        "SCTP_PORTS",
        "PUBLISHED",
        "VIPS",
        "ROWS",
        "BACKENDS",
        "COUNTERS",
    ];
    let mut world = Old::new();
    let node = &mut world.pair.nodes[0];
    drop(node.datapath.take());
    let own = node.config.versioned_pin_dir().join("maps");
    let old = node.config.pin_dir.join("v4");
    fs::create_dir_all(old.join("maps")).expect("a folder");
    for name in MAPS {
        let map = MapData::from_pin(own.join(name)).expect("a map");
        map.pin(old.join("maps").join(name)).expect("pin");
    }
    v4::make(&old.join("maps"));
    let ids = || MAPS.map(|name| MapInfo::from_pin(own.join(name)).expect("a map").id());
    let in_use = ids();
    drop(node.ns.run(|| Datapath::open(&node.config)).expect("open"));
    for (name, (new, in_use)) in MAPS.iter().zip(ids().iter().zip(in_use)) {
        assert_ne!(*new, in_use, "{name}");
    }
    // By the maps in use, and then by the new ones.
    world.go_on();
    world.begin(&old);
    world.go_on();
}
