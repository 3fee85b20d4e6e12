//! Devices as the kernel could have them.

use super::*;
use crate::Pace;

fn key(number: u8) -> PublicKey {
    PublicKey([number; 32])
}

fn node(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, last)
}

fn peer(last: u8, number: u8, port: u16, handshake_s: Option<u64>) -> DevicePeer {
    DevicePeer {
        key: key(number),
        address: Some(node(last)),
        endpoint: Some((node(last), port).into()),
        keepalive_s: if handshake_s.is_some() {
            0
        } else {
            KEEPALIVE_S
        },
        handshake: handshake_s.map(Duration::from_secs),
        sent: 10,
        received: 1,
    }
}

fn device(epoch: u64, peers: Vec<DevicePeer>) -> Device {
    Device {
        index: 100 + epoch as u32,
        epoch,
        made_s: 1000,
        mtu: 1440,
        is_up: true,
        key: key(epoch as u8),
        port: port(7, epoch),
        refused: 1,
        peers,
    }
}

/// Which key another node tells: its address, the key, its port and its epoch.
fn told(all: &[(u8, u8, u16, Option<u64>)]) -> BTreeMap<Ipv4Addr, (PublicKey, Peer)> {
    let all = all.iter().map(|(last, number, port, epoch)| {
        let peer = Peer {
            key: key(*number).to_string(),
            port: *port,
            epoch: *epoch,
            former_key: String::new(),
        };
        (node(*last), (key(*number), peer))
    });
    all.collect()
}

fn set(last: u8, number: u8, port: u16, keepalive_s: u16) -> Change {
    Change::Set {
        key: key(number),
        address: node(last),
        endpoint: (node(last), port).into(),
        keepalive_s,
    }
}

#[test]
fn a_node_gets_the_device_of_its_key() {
    let (older, newest) = (device(4, vec![]), device(5, vec![]));
    let wanted = told(&[(2, 22, 7, Some(4)), (3, 33, 8, Some(5)), (4, 44, 9, None)]);
    let without_epochs = set(4, 44, 9, KEEPALIVE_S);
    assert_eq!(
        changes(&older, false, &wanted),
        [set(2, 22, 7, KEEPALIVE_S), without_epochs.clone()]
    );
    assert_eq!(
        changes(&newest, true, &wanted),
        [set(3, 33, 8, KEEPALIVE_S), without_epochs]
    );
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    let peers = vec![peer(2, 22, 7, Some(5)), peer(3, 33, 8, None)];
    let told = told(&[(2, 22, 7, Some(4)), (3, 33, 8, Some(4))]);
    assert_eq!(changes(&device(4, peers), true, &told), []);
}

#[test]
fn who_has_answered_is_asked_no_more() {
    let mut answered = peer(2, 22, 7, Some(0));
    answered.keepalive_s = KEEPALIVE_S;
    let told = told(&[(2, 22, 7, Some(4))]);
    assert_eq!(
        changes(&device(4, vec![answered]), true, &told),
        [set(2, 22, 7, 0)]
    );
}

#[test]
fn the_key_before_stays_where_it_is() {
    let older = device(4, vec![peer(2, 22, 7, Some(5)), peer(4, 44, 9, Some(5))]);
    // Node 2 has moved on, and node 4, without epochs, has another key.
    let wanted = told(&[(2, 23, 8, Some(5)), (4, 45, 9, None)]);
    assert_eq!(changes(&older, false, &wanted), []);
    assert_eq!(
        changes(&older, true, &wanted),
        [Change::Remove(key(44)), set(4, 45, 9, KEEPALIVE_S)]
    );
}

#[test]
fn a_node_that_is_gone_or_began_anew_loses_its_key() {
    let found = device(4, vec![peer(2, 22, 7, Some(5)), peer(3, 33, 7, Some(5))]);
    let wanted = told(&[(2, 29, 7, Some(4))]);
    assert_eq!(
        changes(&found, true, &wanted),
        [
            Change::Remove(key(22)),
            Change::Remove(key(33)),
            set(2, 29, 7, KEEPALIVE_S)
        ]
    );
    // It fell behind: its key is no longer of this epoch.
    let behind = told(&[(2, 21, 7, Some(3)), (3, 33, 7, Some(4))]);
    assert_eq!(changes(&found, true, &behind), [Change::Remove(key(22))]);
}

#[test]
fn a_key_of_two_nodes_stays_with_who_has_it_or_is_neithers() {
    let twice = told(&[(2, 22, 7, Some(4)), (3, 22, 9, Some(4))]);
    assert_eq!(changes(&device(4, vec![]), true, &twice), []);
    for holder in [2, 3] {
        let port = if holder == 2 { 7 } else { 9 };
        let found = device(4, vec![peer(holder, 22, port, Some(5))]);
        assert_eq!(changes(&found, true, &twice), [], "{holder}");
    }
    // It had another one, and takes that of who tells a newer one meanwhile.
    let found = device(4, vec![peer(2, 22, 7, Some(5)), peer(3, 33, 9, Some(5))]);
    let stolen = told(&[(2, 23, 8, Some(5)), (3, 22, 9, Some(4))]);
    assert_eq!(changes(&found, false, &stolen), [Change::Remove(key(33))]);
    // A node that is gone keeps none: this one has another address now.
    let moved = told(&[(3, 22, 9, Some(4))]);
    let found = device(4, vec![peer(2, 22, 7, Some(5))]);
    assert_eq!(changes(&found, true, &moved), [set(3, 22, 9, KEEPALIVE_S)]);
}

#[test]
fn an_endpoint_that_moved_is_put_back() {
    let told = told(&[(2, 22, 9, Some(4))]);
    let found = device(4, vec![peer(2, 22, 7, Some(5))]);
    assert_eq!(changes(&found, true, &told), [set(2, 22, 9, 0)]);
}

#[test]
fn the_older_device_goes_when_no_session_is_left() {
    let told = [node(2), node(3)];
    let is_over = |new: [Option<u64>; 2], old: [Option<u64>; 2]| {
        let device = |epoch, [two, three]: [Option<u64>; 2]| {
            device(epoch, vec![peer(2, 2, 7, two), peer(3, 3, 7, three)])
        };
        is_over(&device(5, new), &device(4, old), told.iter())
    };
    assert!(is_over([Some(1), Some(1)], [Some(180), None]));
    assert!(!is_over([Some(1), Some(1)], [Some(179), None]));
    assert!(!is_over([Some(1), None], [Some(1000), Some(1000)]));
    // One has not moved at all.
    let newest = device(5, vec![peer(2, 2, 7, Some(1))]);
    assert!(!super::is_over(&newest, &device(4, vec![]), told.iter()));
}

#[test]
fn a_node_is_sent_to_by_the_newest_device_that_it_has_answered_by() {
    let both = |new: Vec<DevicePeer>, old: Vec<DevicePeer>| {
        let devices = [device(5, new), device(4, old)];
        let status = status(&devices, node(1), 1030).expect("devices");
        let peers = status.peers.into_iter();
        let told = peers.map(|peer| (peer.ifindex, peer.proved, peer.sent));
        told.collect::<Vec<_>>()
    };
    let (new, old) = (|s| peer(2, 25, 8, s), |s| peer(2, 24, 7, s));
    assert_eq!(
        both(vec![new(Some(1))], vec![old(Some(1))]),
        [(105, true, 20)]
    );
    assert_eq!(
        both(vec![new(None)], vec![old(Some(1))]),
        [(104, false, 20)]
    );
    assert_eq!(both(vec![], vec![old(Some(1))]), [(104, false, 10)]);
    assert_eq!(both(vec![], vec![old(None)]), [(104, false, 10)]);
    // It has answered by none: it may have begun anew.
    assert_eq!(both(vec![new(None)], vec![old(None)]), [(105, false, 20)]);
}

#[test]
fn ports_take_turns() {
    for (epoch, present, next) in [(4, 7, 8), (5, 8, 7)] {
        let told = status(&[device(epoch, vec![])], node(1), 1030).expect("a device");
        assert_eq!(
            (told.port, told.next_port, told.key_age_s),
            (present, next, 30)
        );
        assert_eq!((told.former, told.rotating), (None, false));
    }
    let told = status(&[device(5, vec![]), device(4, vec![])], node(1), 1030).expect("devices");
    assert_eq!(
        (told.ifindex, told.former, told.refused),
        (105, Some(104), 2)
    );
}

fn make(device: &mut Device, change: Change) {
    match change {
        Change::Remove(key) => device.peers.retain(|peer| peer.key != key),
        Change::Set {
            key,
            address,
            endpoint,
            keepalive_s,
        } => {
            let known = device.peers.iter().find(|peer| peer.key == key);
            let handshake = known.and_then(|peer| peer.handshake);
            let is_other = |peer: &DevicePeer| peer.key != key && peer.address != Some(address);
            device.peers.retain(is_other);
            device.peers.push(DevicePeer {
                key,
                address: Some(address),
                endpoint: Some(endpoint),
                keepalive_s,
                handshake,
                sent: 0,
                received: 0,
            });
        }
    }
}

/// Agents that make passes, with the kernel's devices.
struct Mesh {
    now_s: u64,
    keys: u64,
    nodes: BTreeMap<u8, Node>,
}

struct Node {
    /// The newest first.
    devices: Vec<Device>,
    /// What it tells of the key before.
    former_key: String,
    /// The others' latest epoch, and since when it is known.
    latest: (u64, u64),
    /// When it has made itself another key.
    turns: Vec<u64>,
    is_down: bool,
}

impl Mesh {
    fn new() -> Self {
        Self {
            now_s: 1000,
            keys: 0,
            nodes: BTreeMap::new(),
        }
    }

    /// A device as it is when it has been made; no other has its key.
    fn device(&mut self, epoch: u64) -> Device {
        self.keys += 1;
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.keys.to_be_bytes());
        Device {
            key: PublicKey(key),
            made_s: self.now_s,
            ..device(epoch, vec![])
        }
    }

    /// What all but one tell.
    fn told(&self, last: u8) -> BTreeMap<Ipv4Addr, (PublicKey, Peer)> {
        let others = self.nodes.iter().filter(|(other, _)| **other != last);
        let told = others.map(|(other, its)| {
            let newest = &its.devices[0];
            let peer = Peer {
                key: newest.key.to_string(),
                port: newest.port,
                epoch: Some(newest.epoch),
                former_key: its.former_key.clone(),
            };
            (node(*other), (newest.key, peer))
        });
        told.collect()
    }

    /// A node that knows nothing of before.
    fn begin(&mut self, last: u8) {
        let device = self.device(crate::first_epoch(&peers(&self.told(last))));
        let node = Node {
            devices: vec![device],
            former_key: String::new(),
            latest: (0, self.now_s),
            turns: Vec::new(),
            is_down: false,
        };
        self.nodes.insert(last, node);
    }

    /// A node makes itself another key.
    fn turn(&mut self, last: u8, epoch: u64) {
        let device = self.device(epoch);
        let node = self.nodes.get_mut(&last).expect("a node");
        node.former_key = node.devices[0].key.to_string();
        node.devices.insert(0, device);
        node.devices.truncate(2);
        node.turns.push(self.now_s);
    }

    /// Lets all agents make a pass, one after the other; then those shake hands that have a key in common. They have nothing
    /// to say to each other.
    fn pass(&mut self, pace: impl Fn(u8) -> Pace) {
        let up = self.nodes.iter().filter(|(_, node)| !node.is_down);
        let up: Vec<u8> = up.map(|(last, _)| *last).collect();
        for last in up {
            let (wanted, now_s) = (self.told(last), self.now_s);
            let its = self.nodes.get_mut(&last).expect("a node");
            for (number, device) in its.devices.iter_mut().enumerate() {
                for change in changes(device, number == 0, &wanted) {
                    make(device, change);
                }
            }
            if let [newest, older] = &its.devices[..]
                && is_over(newest, older, wanted.keys())
            {
                its.devices.pop();
            }
            let others = peers(&wanted);
            let latest = crate::first_epoch(&others);
            if its.latest.0 != latest {
                its.latest = (latest, now_s);
            }
            let ahead_for = Duration::from_secs(now_s - its.latest.1);
            let status = status(&its.devices, node(last), now_s).expect("devices");
            if status.is_astray(&others) {
                self.begin(last);
                continue;
            }
            if let Some(epoch) = status.next_epoch(&pace(last), &others, ahead_for) {
                self.turn(last, epoch);
            }
        }
        let devices = self.nodes.values().flat_map(|node| &node.devices);
        let all: Vec<Device> = devices.cloned().collect();
        let devices = self.nodes.values_mut().flat_map(|node| &mut node.devices);
        for device in devices {
            let own = device.key;
            for peer in &mut device.peers {
                let other = all.iter().find(|other| other.key == peer.key);
                let is_common = other.is_some_and(|other| other.peers.iter().any(|p| p.key == own));
                let is_met = is_common || peer.handshake.is_some();
                peer.handshake = is_met.then_some(SESSION);
            }
        }
    }

    /// Each two have a key each that the other knows, and are no more than an epoch apart.
    fn check(&self) {
        let knows = |one: &Device, other: &Device| one.peers.iter().any(|p| p.key == other.key);
        let up = || self.nodes.iter().filter(|(_, node)| !node.is_down);
        for (one, its) in up() {
            for (two, others) in up() {
                let mut pairs = its
                    .devices
                    .iter()
                    .flat_map(|device| others.devices.iter().map(move |other| (device, other)));
                let is_met = pairs.any(|(one, other)| knows(one, other) && knows(other, one));
                assert!(one == two || is_met, "{one} and {two} at {}", self.now_s);
                let (one, two) = (its.devices[0].epoch, others.devices[0].epoch);
                assert!(one.abs_diff(two) <= 1, "{one} and {two} at {}", self.now_s);
            }
        }
    }
}

fn peers(told: &BTreeMap<Ipv4Addr, (PublicKey, Peer)>) -> BTreeMap<Ipv4Addr, Peer> {
    let peers = told.iter();
    peers.map(|(at, (_, peer))| (*at, peer.clone())).collect()
}

#[test]
fn a_node_that_starts_during_a_change_of_keys_has_one_in_common_with_all() {
    let pace = |_| Pace {
        period: Duration::from_secs(100),
        least: Duration::from_secs(25),
        delay: Duration::from_secs(10),
    };
    // Where it follows soon, and where its key before may be needed by a node that is down.
    for is_rotating in [false, true] {
        let mut mesh = Mesh::new();
        mesh.begin(1);
        mesh.begin(2);
        if is_rotating {
            mesh.begin(4);
            mesh.pass(pace);
            mesh.nodes.get_mut(&4).expect("a node").is_down = true;
            mesh.turn(1, 1);
            mesh.turn(2, 1);
        }
        mesh.pass(pace);
        let epoch = mesh.nodes[&1].devices[0].epoch;
        mesh.now_s += 30;
        mesh.turn(2, epoch + 1);
        mesh.pass(pace);
        mesh.check();
        assert_eq!(mesh.nodes[&1].devices[0].epoch, epoch, "it waits");
        mesh.begin(3);
        for _ in 0..3 {
            mesh.pass(pace);
        }
        mesh.check();
    }
}

#[test]
fn who_is_ahead_alone_and_has_no_key_before_begins_anew() {
    let pace = |_| Pace {
        period: Duration::from_secs(100),
        least: Duration::from_secs(25),
        delay: Duration::from_secs(10),
    };
    let mut mesh = Mesh::new();
    for last in [1, 2, 3] {
        mesh.begin(last);
    }
    mesh.pass(pace);
    mesh.turn(2, 1);
    // It begins with the key that node 2 has, which is gone before the others hear of either.
    mesh.begin(4);
    mesh.nodes.remove(&2);
    assert_eq!(mesh.nodes[&4].devices[0].epoch, 1);
    for _ in 0..3 {
        mesh.pass(pace);
    }
    mesh.check();
    assert_eq!(mesh.nodes[&4].devices[0].epoch, 0);
}

#[test]
fn keys_change_one_after_the_other_whoever_begins_anew() {
    const NODES: u8 = 6;
    const PERIOD_S: u64 = 200;
    let period = Duration::from_secs(PERIOD_S);
    let pace = |last| Pace::of(period, node(last));
    for restarts in [None, Some(23)] {
        let mut mesh = Mesh::new();
        for last in 1..=NODES {
            mesh.begin(last);
        }
        for second in 1..1500 {
            mesh.now_s += 1;
            if let Some(every) = restarts.filter(|every| second % every == 0) {
                // The others' keys grow old.
                mesh.begin(4 + (second / every % 3) as u8);
            }
            // Passes follow what changes.
            for _ in 0..restarts.map_or(1, |_| 3) {
                mesh.pass(pace);
            }
            mesh.check();
        }
        let epoch = mesh.nodes[&1].devices[0].epoch;
        assert!((5..=8).contains(&epoch), "{epoch}");
        if restarts.is_none() {
            // Together, and yet not at once.
            for number in 0..5 {
                let turns = mesh.nodes.values().map(|node| node.turns[number]);
                let turns: BTreeSet<u64> = turns.collect();
                let spread = turns
                    .last()
                    .zip(turns.first())
                    .map(|(last, first)| last - first);
                assert!(turns.len() > usize::from(NODES) / 2, "{number}: {turns:?}");
                assert!(spread <= Some(PERIOD_S / 8 + 1), "{number}: {turns:?}");
            }
        }
    }
}
