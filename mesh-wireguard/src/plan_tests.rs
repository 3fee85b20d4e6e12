//! Devices as the kernel could have them.

use super::*;

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

/// After which keys are made anew: not here.
const PERIOD: Duration = Duration::from_secs(100);

/// A node's key of an epoch; no other has it.
fn number(last: u8, epoch: u64) -> u8 {
    last * 16 + epoch as u8
}

/// A node's device of an epoch, as it is when it has been made.
fn own(last: u8, epoch: u64) -> Device {
    Device {
        key: key(number(last, epoch)),
        ..device(epoch, vec![])
    }
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

/// Lets all agents make a pass, one after the other; then those shake hands that have a key in common. `nodes` are their
/// devices, the newest first.
fn pass(nodes: &mut BTreeMap<u8, Vec<Device>>) {
    let all: Vec<u8> = nodes.keys().copied().collect();
    for last in all {
        let others = nodes.iter().filter(|(other, _)| **other != last);
        let others = others.map(|(other, devices)| {
            let newest = &devices[0];
            let number = number(*other, newest.epoch);
            (*other, number, newest.port, Some(newest.epoch))
        });
        let wanted = told(&others.collect::<Vec<_>>());
        let epochs = wanted.iter();
        let epochs = epochs.filter_map(|(address, (_, peer))| Some((*address, peer.epoch?)));
        let epochs: BTreeMap<Ipv4Addr, u64> = epochs.collect();
        let devices = nodes.get_mut(&last).expect("a node");
        for (number, device) in devices.iter_mut().enumerate() {
            for change in changes(device, number == 0, &wanted) {
                make(device, change);
            }
        }
        let status = status(devices, node(last), 1030).expect("devices");
        if let Some(epoch) = status.next_epoch(PERIOD, &epochs) {
            devices.insert(0, own(last, epoch));
            devices.truncate(2);
        }
    }
    let all: Vec<Device> = nodes.values().flatten().cloned().collect();
    for device in nodes.values_mut().flatten() {
        let own = device.key;
        for peer in &mut device.peers {
            let other = all.iter().find(|other| other.key == peer.key);
            let is_common = other.is_some_and(|other| other.peers.iter().any(|p| p.key == own));
            peer.handshake = match is_common {
                true => Some(Duration::from_secs(1)),
                false => peer.handshake.map(|_| SESSION),
            };
        }
    }
}

#[test]
fn a_node_that_starts_during_a_change_of_keys_has_one_in_common_with_all() {
    // All keep a key for a node that is down.
    let mut nodes = BTreeMap::from([1, 2].map(|last| (last, vec![own(last, 7), own(last, 6)])));
    pass(&mut nodes);
    pass(&mut nodes);
    let ahead = nodes.get_mut(&2).expect("a node");
    ahead.insert(0, own(2, 8));
    ahead.truncate(2);
    pass(&mut nodes);
    assert_eq!(nodes[&1][0].epoch, 7, "it waits");
    let epochs = nodes.iter().map(|(last, own)| (node(*last), own[0].epoch));
    let epochs: BTreeMap<Ipv4Addr, u64> = epochs.collect();
    nodes.insert(3, vec![own(3, crate::first_epoch(&epochs))]);
    pass(&mut nodes);
    pass(&mut nodes);
    for (last, devices) in &nodes {
        for (other, its) in nodes.iter().filter(|(other, _)| *other != last) {
            let mut known = devices.iter().flat_map(|device| &device.peers);
            let is_met = known.any(|peer| {
                peer.key == its[0].key && peer.handshake.is_some_and(|since| since < SESSION)
            });
            assert!(is_met, "{last} has the key that {other} tells");
        }
    }
}
